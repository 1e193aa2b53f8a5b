# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""What an admin changes on the page gets to the panel, and what the panel refuses is shown at its field."""

from __future__ import annotations

import json

from playwright.sync_api import expect

from tests.browser.conftest import Opener
from tests.support.panel import Panel
from tests.support.screen import Screen, plain, refused


def test_create_edit_deactivate_activate_delete(screen: Screen) -> None:
    page = screen.page
    expect(page.locator("#empty")).to_have_text("There is no tunnel yet.")
    page.get_by_role("button", name="New tunnel").click()
    screen.field("name").fill("de-fi")
    screen.field("tunnel_type").select_option("OpenVPN")
    screen.field("source_node_id").select_option("fi-1")
    screen.field("target_node_id").select_option("de-1")
    screen.more()
    screen.field("config.transport").select_option("tcp")
    screen.field("config.mtu").fill("1380")
    screen.field("config.source.port").fill("25001")
    screen.field("config.target.routes").fill("192.168.10.0/24\n192.168.20.0/24")
    screen.save()
    expect(screen.form).to_be_hidden()
    expect(screen.notice).to_contain_text("is created")
    expect(screen.notice).to_contain_text("ansible-playbook marzban.tunnels.apply")
    expect(screen.row("de-fi")).to_contain_text("OpenVPN")
    expect(screen.row("de-fi")).to_contain_text("not reported yet")
    made = screen.tunnel("de-fi")
    assert json.loads(made["config"]) == {
        "transport": "tcp",
        "mtu": 1380,
        "source": {"port": 25001},
        "target": {"routes": ["192.168.10.0/24", "192.168.20.0/24"]},
    }
    assert [made["source_node_name"], made["target_node_name"], made["tunnel_type"]] == ["fi-1", "de-1", "openvpn"]

    screen.edit("de-fi")
    expect(screen.field("config.source.port")).to_have_value("25001")
    expect(screen.field("config.target.port")).to_have_attribute("placeholder", str(made["ends"][1]["port"]))
    screen.field("name").fill("فارسی-1")
    screen.field("config.mtu").fill("")
    screen.field("config.source.port").fill("")
    screen.save()
    expect(screen.form).to_be_hidden()
    expect(screen.page.locator("#detail-name")).to_have_text("فارسی-1")  # still open behind the form
    changed = screen.tunnel("فارسی-1")
    assert changed["version"] == made["version"] + 1
    assert json.loads(changed["config"]) == {
        "transport": "tcp",
        "target": {"routes": ["192.168.10.0/24", "192.168.20.0/24"]},
    }

    screen.detail.get_by_role("button", name="Deactivate").click()
    expect(screen.page.locator("#detail-status")).to_contain_text("inactive")
    assert screen.tunnel("فارسی-1")["is_active"] is False
    screen.detail.get_by_role("button", name="Activate", exact=True).click()
    expect(screen.detail.get_by_role("button", name="Deactivate")).to_be_visible()
    expect(screen.page.locator("#detail-status")).to_contain_text("not reported yet")
    assert screen.tunnel("فارسی-1")["is_active"] is True

    screen.detail.get_by_role("button", name="Delete").click()
    expect(screen.confirm).to_contain_text("until the next run")
    assert plain(page.locator("#confirm-title")) == "Delete فارسی-1?"
    expect(screen.confirm.get_by_role("button", name="Cancel")).to_be_focused()
    page.keyboard.press("Escape")
    expect(screen.confirm).to_be_hidden()
    assert screen.tunnel("فارسی-1"), "not without a yes"
    screen.detail.get_by_role("button", name="Delete").click()
    screen.confirm.get_by_role("button", name="Delete").click()
    expect(screen.detail).to_be_hidden()
    expect(screen.rows).to_have_count(0)
    assert screen.tunnel("فارسی-1") is None


def test_an_edit_sends_only_what_was_changed_and_keeps_what_the_page_does_not_know(screen: Screen) -> None:
    # an integer beyond 2^53, a float with a zero, and keys of others on both levels
    config = (
        '{"ours": {"big": 12345678901234567890, "one": 1.0, "__proto__": [1]}, "source": {"note": "x", "port": 26000}}'
    )
    made = screen.panel.add_tunnel(1, 2, "kept", config=config)
    screen.page.reload()
    screen.edit("kept")
    screen.field("config.source.port").fill("26001")
    screen.save()
    expect(screen.form).to_be_hidden()
    assert screen.tunnel("kept")["config"] == json.dumps(json.loads(config)).replace("26000", "26001").replace(" ", "")
    put = [line for line in screen.panel.log_lines() if line["method"] == "PUT"]
    screen.detail.get_by_role("button", name="Edit").click()
    screen.save()
    expect(screen.form).to_be_hidden()
    assert [line for line in screen.panel.log_lines() if line["method"] == "PUT"] == put, "nothing was changed"
    screen.panel.call("DELETE", f"/api/tunnels/{made['id']}")


def test_what_the_panel_refuses_is_at_its_field(screen: Screen) -> None:
    screen.watched.expect(*refused(400, 409, 422))
    screen.panel.add_tunnel(1, 2, "taken", config='{"source": {"port": 27000}}')
    screen.page.get_by_role("button", name="New tunnel").click()
    screen.more()
    screen.field("name").fill("<b>x</b>")
    screen.field("config.source.port").fill("seventy")
    screen.field("config.target.routes").fill("10.0.0.0/33")
    screen.page.locator("#form-more summary").click()  # folded again: an error in it opens it
    screen.save()
    expect(screen.note("name")).to_contain_text("can't be in a name")
    expect(screen.field("name")).to_have_attribute("aria-invalid", "true")
    expect(screen.field("name")).to_be_focused()
    screen.field("name").fill("taken")
    screen.save()
    expect(screen.note("name")).to_be_hidden()
    expect(screen.note("config.source.port")).to_contain_text("'seventy'")
    expect(screen.note("config.target.routes")).to_contain_text("10.0.0.0/33")
    expect(screen.field("config.source.port")).to_be_focused()
    screen.field("config.source.port").fill("")
    screen.field("config.target.routes").fill("")
    screen.save()
    expect(screen.note("name")).to_contain_text("is the name of tunnel")  # a 409
    screen.field("name").fill("free")
    screen.field("config.source.port").fill("27000")
    screen.save()
    expect(screen.note("config.source.port")).to_contain_text("27000")  # another 409
    screen.field("target_node_id").select_option("de-1")
    screen.save()
    expect(screen.note("target_node_id")).to_contain_text("two different nodes")  # a 400
    assert screen.tunnel("free") is None


def test_two_admins_who_edit_the_same_tunnel(screen: Screen) -> None:
    screen.watched.expect(*refused(412))
    made = screen.panel.add_tunnel(1, 2, "shared", config='{"mtu": 1400, "keepalive": 25}')
    screen.page.reload()
    screen.edit("shared")
    screen.field("name").fill("mine")
    screen.field("config.mtu").fill("1300")
    theirs = {"config": '{"mtu": 1350, "keepalive": 10, "note": "theirs"}'}
    screen.panel.call("PUT", f"/api/tunnels/{made['id']}", theirs)
    screen.save()
    expect(screen.form).to_contain_text("somebody else changed this tunnel")
    expect(screen.field("name")).to_have_value("mine")
    expect(screen.field("config.keepalive")).to_have_value("10")  # only they had changed it
    assert "it was 25" in plain(screen.note("config.keepalive"))
    expect(screen.field("config.mtu")).to_have_value("1300")  # both had
    assert "1350" in plain(screen.note("config.mtu"))
    screen.note("config.mtu").get_by_role("button", name="Take theirs").click()
    expect(screen.field("config.mtu")).to_have_value("1350")
    screen.field("config.mtu").fill("1310")
    screen.save()
    expect(screen.form).to_be_hidden()
    assert json.loads(screen.tunnel("mine")["config"]) == {"mtu": 1310, "keepalive": 10, "note": "theirs"}


def test_a_tunnel_that_somebody_else_changed_is_not_deleted_unseen(screen: Screen) -> None:
    screen.watched.expect(*refused(412))
    made = screen.panel.add_tunnel(1, 3, "moving")
    screen.page.reload()
    screen.open("moving")
    screen.detail.get_by_role("button", name="Delete").click()
    screen.panel.call("PUT", f"/api/tunnels/{made['id']}", {"name": "moved"})
    screen.confirm.get_by_role("button", name="Delete").click()
    expect(screen.confirm).to_contain_text("Somebody else has changed this tunnel")
    assert screen.tunnel("moved")
    screen.confirm.get_by_role("button", name="Delete").click()
    expect(screen.confirm).to_be_hidden()
    assert screen.tunnel("moved") is None


def test_what_was_typed_is_thrown_away_only_when_asked_twice(screen: Screen) -> None:
    screen.page.get_by_role("button", name="New tunnel").click()
    screen.field("name").fill("half")
    screen.page.keyboard.press("Escape")
    expect(screen.form).to_contain_text("Throw away what you typed?")
    expect(screen.field("name")).to_have_value("half")
    screen.page.keyboard.press("Escape")
    expect(screen.form).to_be_hidden()
    screen.page.get_by_role("button", name="New tunnel").click()
    expect(screen.field("name")).to_have_value("")
    screen.page.keyboard.press("Escape")
    expect(screen.form).to_be_hidden()  # nothing was typed


def test_by_keyboard_alone(open_page: Opener, panel: Panel) -> None:
    panel.add_tunnel(1, 2, "another")
    screen = open_page(panel)
    keys = screen.page.keyboard
    expect(screen.page.locator("#updated")).to_contain_text("Updated")
    keys.press("Tab")
    expect(screen.page.get_by_role("link", name="Skip to the list")).to_be_focused()
    keys.press("Enter")
    keys.press("/")
    expect(screen.search).to_be_focused()
    for _time in range(3):
        keys.press("Tab")
    expect(screen.page.get_by_role("button", name="New tunnel")).to_be_focused()
    keys.press("Enter")
    expect(screen.field("name")).to_be_focused()
    keys.type("by keyboard")
    keys.press("Tab")
    keys.type("IP")  # picks IPsec
    keys.press("Tab")
    keys.type("nl")
    for _time in range(5):
        keys.press("Tab")  # target, active, more settings, cancel, save
    expect(screen.form.get_by_role("button", name="Save")).to_be_focused()
    keys.press("Enter")
    expect(screen.form).to_be_hidden()
    name = screen.page.locator("#rows").get_by_role("button", name="by keyboard")
    expect(name).to_be_focused()
    made = screen.tunnel("by keyboard")
    assert [made["tunnel_type"], made["source_node_name"]] == ["ipsec", "nl-1"]
    keys.press("ArrowUp")
    expect(screen.page.locator("#rows").get_by_role("button", name="another")).to_be_focused()
    keys.press("ArrowDown")
    expect(name).to_be_focused()
    keys.press("Enter")
    expect(screen.detail).to_be_visible()
    keys.press("Escape")
    expect(screen.detail).to_be_hidden()
    expect(name).to_be_focused()
