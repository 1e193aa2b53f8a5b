# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Everything on the panel is shown as text. What the panel itself refuses is written into its database."""

from __future__ import annotations

import json

from playwright.sync_api import expect

from tests.browser.conftest import Opener
from tests.support.panel import Panel
from tests.support.samples import database, report
from tests.support.screen import plain

IMAGE = "<img src=x onerror=\"alert('img')\">"
SCRIPT = "<script>alert('script')</script>"
SVG = '<svg/onload=alert(1)><a href="javascript:alert(2)">x</a>'
BREAKS = "\"'`--><!--]]></title></textarea></select></option></style>" + SCRIPT
RTL = "\u202e\u2066evil\u202c 🐈\u200d⬛ \u0000%s{name}${alert(1)}{{7*7}}"


def test_hostile_text_is_text(open_page: Opener, panel: Panel) -> None:
    made = panel.add_tunnel(1, 2, "plain", config=json.dumps({IMAGE: {"x": SCRIPT}, "note": BREAKS}))
    panel.call("PUT", "/api/node/2", {"name": f"node {IMAGE}", "address": SVG})
    made["ends"][1]["node"] = f"node {IMAGE}"
    report(panel, made, "error", error=f"{SCRIPT} {BREAKS}")
    screen = open_page(panel)
    screen.open("plain")
    expect(screen.detail).to_contain_text(SCRIPT)
    expect(screen.detail).to_contain_text(SVG)
    expect(screen.detail).to_contain_text(json.dumps(IMAGE))
    screen.detail.get_by_role("button", name="Edit").click()
    expect(screen.field("target_node_id").locator("option:checked")).to_have_text(f"node {IMAGE}")
    screen.page.keyboard.press("Escape")
    screen.detail.get_by_role("button", name="Delete").click()
    assert IMAGE in plain(screen.page.locator("#confirm-text"))
    screen.page.keyboard.press("Escape")
    panel.call("DELETE", f"/api/tunnels/{made['id']}")


def test_a_database_that_somebody_else_wrote_to(open_page: Opener, panel: Panel) -> None:
    made = panel.add_tunnel(1, 3, "written")
    name = f"{IMAGE}{BREAKS}"
    with database(panel) as connection:
        connection.execute("UPDATE tunnels SET name = ?, tunnel_type = ? WHERE id = ?", (name, SVG, made["id"]))
        connection.execute("UPDATE tunnels SET config = ? WHERE id = ?", (f'["{RTL}", {{}}]', made["id"]))
        connection.execute("UPDATE tunnel_ends SET interface = ?, error = ?, status = ?", ("<b>", RTL + IMAGE, "<i>"))
        measured = {"rtt_ms": SCRIPT, "loss_percent": [], "rx_bytes": {"a": 1}, "cipher": IMAGE, "data_path": SVG}
        public = {"public_key": IMAGE, "fingerprint": SCRIPT}
        connection.execute(
            "UPDATE tunnel_ends SET measured = ?, public = ?", (json.dumps(measured), json.dumps(public))
        )
        connection.execute("UPDATE tunnel_ends SET reported_at = datetime()")
        connection.execute("UPDATE nodes SET name = ?, address = ? WHERE id = 3", (SCRIPT, IMAGE))
    screen = open_page(panel)
    expect(screen.rows).to_have_count(1)
    expect(screen.rows).to_contain_text(IMAGE)
    expect(screen.rows).to_contain_text(SVG)
    screen.rows.locator("button").click()
    expect(screen.page.locator("#detail-name")).to_have_text(name)
    expect(screen.detail).to_contain_text(SCRIPT)
    edges = screen.page.locator("#graph .edge")
    assert SVG in (edges.get_attribute("aria-label") or "")
    screen.detail.get_by_role("button", name="Edit").click()
    expect(screen.field("name")).to_have_value(name)
    expect(screen.field("tunnel_type")).to_have_value(SVG)
    for tag in ("img", "script:not([src])", "svg a", "[onload]", "[onerror]", "dialog b b", "i"):
        assert screen.page.locator(tag).count() == 0, tag
    screen.page.keyboard.press("Escape")
    screen.page.keyboard.press("Escape")
    screen.page.locator("#language").select_option("fa")  # names go into other sentences
    expect(screen.page.locator("html")).to_have_attribute("dir", "rtl")
    assert IMAGE in (edges.get_attribute("aria-label") or "")


def test_the_browser_is_told_to_run_nothing_else(open_page: Opener, panel: Panel) -> None:
    screen = open_page(panel)
    screen.watched.expect("Content Security Policy", "TrustedHTML", "Trusted Type", "TrustedScript")
    expect(screen.page.locator("#updated")).to_contain_text("Updated")
    tried = screen.evaluate(
        """async () => {
            const broken = [];
            document.addEventListener("securitypolicyviolation", (event) => broken.push(event.effectiveDirective));
            const inline = document.createElement("script");
            inline.append("window.ran = true");
            try { document.head.append(inline); } catch {}
            try { document.body.innerHTML = "<b>x</b>"; } catch (error) { broken.push(error.name); }
            await fetch("https://example.invalid/").catch(() => {});
            const image = new Image();
            image.src = "https://example.invalid/x.png";
            document.body.append(image);
            await new Promise((done) => (image.onerror = done));
            return [window.ran ?? false, broken];
        }"""
    )
    assert tried[0] is False
    assert {"TypeError", "connect-src", "img-src"} <= set(tried[1])
    assert screen.page.locator("h1").count() == 1
