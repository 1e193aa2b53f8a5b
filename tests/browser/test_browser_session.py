# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Logging in, a session that ends, and a panel that goes away."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Opener
from tests.support.panel import Panel
from tests.support.samples import age, database, report
from tests.support.screen import AWAY, Screen, plain, refused


@pytest.fixture(scope="module")
def panel(panel: Panel) -> Panel:
    panel.add_tunnel(1, 2, "de-fi", config='{"mtu": 1400}')
    panel.add_admin("helper", "a password", sudo=False)
    return panel


def forget_sessions(panel: Panel) -> None:
    """No token that was issued is valid any more; the panel restarts."""
    with database(panel) as connection:
        connection.execute("DELETE FROM secrets WHERE name = 'jwt'")
    panel.restart()
    panel._token = ""


def test_without_a_token_the_page_asks(open_page: Opener, panel: Panel) -> None:
    screen = open_page(panel, login=False)
    screen.watched.expect(*refused(401))
    expect(screen.login).to_contain_text("As an admin of this panel.")
    expect(screen.login.get_by_label("User name")).to_be_focused()
    screen.page.keyboard.press("Escape")
    screen.page.keyboard.press("Escape")
    screen.log_in("wrong")
    expect(screen.login).to_contain_text("Incorrect username or password")
    expect(screen.rows).to_have_count(0)
    screen.log_in()
    expect(screen.row("de-fi")).to_be_visible()
    token = screen.evaluate("() => localStorage.token")
    assert panel.request("GET", "/api/admin", headers={"Authorization": f"Bearer {token}"})[0] == 200
    screen.page.get_by_role("button", name="Log out").click()
    expect(screen.login).to_be_visible()
    expect(screen.rows).to_have_count(0)
    assert screen.evaluate("() => localStorage.token") is None


def test_a_session_that_ends_in_the_middle_of_an_edit(screen: Screen, panel: Panel) -> None:
    screen.watched.expect(*refused(401), AWAY)
    screen.edit("de-fi")
    screen.field("name").fill("typed before")
    screen.field("config.source.routes").fill("192.168.7.0/24")
    # The next read waits, or it would ask for the login before the save does.
    for reads in ("**/api/tunnels?*", "**/api/tunnels/nodes", "**/api/tunnels/events", "**/api/nodes"):
        screen.page.route(reads, lambda read: None)
    forget_sessions(panel)
    screen.save()
    expect(screen.login).to_contain_text("Your session has ended")
    screen.page.unroute_all()
    screen.log_in()
    expect(screen.login).to_be_hidden()
    expect(screen.form).to_be_hidden()  # the save has gone on by itself
    saved = screen.tunnel("typed before")
    assert json.loads(saved["config"]) == {"mtu": 1400, "source": {"routes": ["192.168.7.0/24"]}}
    panel.call("PUT", f"/api/tunnels/{saved['id']}", {"name": "de-fi"})


def test_a_login_on_the_dashboard_in_another_tab_is_taken(screen: Screen, panel: Panel) -> None:
    screen.watched.expect(*refused(401))
    expect(screen.row("de-fi")).to_be_visible()
    screen.evaluate("() => { localStorage.token = 'garbage' }")
    screen.page.get_by_role("button", name="New tunnel").click()
    screen.field("name").fill("still typed")
    expect(screen.login).to_be_visible(timeout=60_000)  # the next read has asked for it
    other = screen.page.context.new_page()
    other.goto(panel.url + "/openapi.json")
    other.evaluate("(token) => { localStorage.token = token }", panel.token())
    expect(screen.login).to_be_hidden()
    expect(screen.field("name")).to_have_value("still typed")
    screen.save()
    expect(screen.row("still typed")).to_be_visible()


def test_an_admin_who_is_not_sudo_is_told_so(open_page: Opener, panel: Panel) -> None:
    screen = open_page(panel, login=False)
    screen.watched.expect(*refused(403))
    screen.login.get_by_label("User name").fill("helper")
    screen.login.get_by_label("Password").fill("a password")
    screen.page.keyboard.press("Enter")
    expect(screen.banner).to_contain_text("Only a sudo admin")
    expect(screen.banner).to_contain_text("You're not allowed")
    screen.page.get_by_role("button", name="Log out").click()
    screen.log_in()
    expect(screen.row("de-fi")).to_be_visible()
    expect(screen.banner).to_be_empty()


def test_a_panel_that_goes_away_and_comes_back(screen: Screen, panel: Panel) -> None:
    screen.watched.expect(AWAY)
    expect(screen.row("de-fi")).to_be_visible()
    panel.stop()
    expect(screen.banner).to_contain_text("The panel can't be reached.", timeout=60_000)
    expect(screen.row("de-fi")).to_be_visible()
    expect(screen.page.locator("#updated")).to_have_class("old")
    screen.edit("de-fi")
    screen.field("config.mtu").fill("1390")
    screen.save()
    expect(screen.form).to_contain_text("The panel can't be reached.")
    panel.restart()
    screen.save()
    expect(screen.form).to_be_hidden()
    expect(screen.banner).to_be_empty(timeout=60_000)
    assert json.loads(screen.tunnel("de-fi")["config"])["mtu"] == 1390


def test_a_status_grows_old_before_the_eyes(open_page: Opener, panel: Panel) -> None:
    made = panel.add_tunnel(2, 3, "aging")
    report(panel, made, "active", rtt_ms=7.25, loss_percent=0, rx_bytes=1234, tx_bytes=5_600_000_000)
    age(panel, made, 200)
    screen = open_page(panel)
    row = screen.row("aging")
    expect(row).to_contain_text("3m ago")
    expect(row).to_contain_text("7.3 ms")
    assert "fi-1↓ 1.2 kB ↑ 5.6 GBnl-1↓ 1.2 kB ↑ 5.6 GB" in plain(row)
    expect(row.get_by_text("stale")).to_be_hidden()
    expect(row.locator(".mark")).to_have_attribute("data-status", "active")
    screen.watched.expect(AWAY)
    panel.stop()
    screen.evaluate("() => { const now = Date.now; Date.now = () => now() + 110_000 }")
    expect(row.get_by_text("stale")).to_be_visible()
    expect(row.locator(".mark")).to_have_attribute("data-status", "stale")
    panel.restart()


def test_the_status_is_what_was_reported_lately(open_page: Opener, panel: Panel) -> None:
    made = panel.add_tunnel(1, 3, "half")
    report(panel, made, "active")
    age(panel, made, 4000)
    report(panel, made, None, "connecting")
    assert panel.call("GET", f"/api/tunnels/{made['id']}/status")["stale"] is False, "the newest report is fresh"
    screen = open_page(panel)
    row = screen.row("half")
    expect(row).to_contain_text("connecting")
    expect(row).not_to_contain_text("1h ago")
    expect(row.get_by_text("stale")).to_be_hidden()
    age(panel, made, 9000)  # more than twice the time between two reports
    expect(row).to_contain_text("active")  # where all is old, what was said last
    expect(row).to_contain_text("3h ago")
    expect(row.get_by_text("stale")).to_be_visible()


def test_late_is_what_comes_later_than_usual(open_page: Opener, panel: Panel) -> None:
    """With a run each quarter of an hour, 29 minutes without a report are one run that was missed, and 31 are two."""
    made = panel.add_tunnel(1, 2, "scheduled")
    for _time in range(2):
        report(panel, made, "active")
        age(panel, made, 900)
    report(panel, made, "active")
    age(panel, made, 29 * 60)
    screen = open_page(panel)
    row = screen.row("scheduled")
    expect(row).to_contain_text("29m ago")
    expect(row.get_by_text("stale")).to_be_hidden()
    screen.open("scheduled")
    assert "Stale after30 min30 min" in plain(screen.page.locator("#detail-ends"))
    screen.page.keyboard.press("Escape")
    age(panel, made, 2 * 60)
    expect(row.get_by_text("stale")).to_be_visible()
    expect(row.get_by_text("stale")).to_have_attribute("title", re.compile("No report for more than .30 min"))
