# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""A tunnel's history in its dialog, and the way to the row of the guide that fits."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Route, expect

from tests.browser.conftest import Opener
from tests.browser.test_browser_looks import BEYOND, PALE
from tests.support.panel import Panel
from tests.support.samples import UNMEASURED, add_nodes, database, past, report
from tests.support.screen import Screen, plain, refused

HOUR = 3600
#: Which kinds are drawn in the strip's middle, so many hours before now
DRAWN = """([before, month]) => {
    const svg = document.querySelector("#history-chart svg");
    const share = 1 - before / (month ? 720 : 24);
    const width = svg.viewBox.baseVal.width;
    const x = (document.documentElement.dir === "rtl" ? 1 - share : share) * width;
    const there = (kind) => svg.querySelector(`.${kind}`).isPointInFill(new DOMPoint(x, 13));
    const kinds = ["up", "down", "off"].filter(there);
    return kinds.join(" ") || "gap";
}"""


@pytest.fixture(scope="module")
def panel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Panel]:
    with Panel.start(tmp_path_factory.mktemp("panel"), tls=False) as panel:
        add_nodes(panel, {"de-1": "203.0.113.7", "fi-1": "198.51.100.9"})
        made = panel.add_tunnel(1, 2, "de-fi")
        report(panel, made, "active", rtt_ms=26, mtu=1380)
        past(panel, made)
        yield panel


def opened(screen: Screen) -> None:
    screen.open("de-fi")
    expect(screen.page.locator("#history-summary")).not_to_be_empty()


def test_when_it_broke_and_how_the_night_was(open_page: Opener, panel: Panel) -> None:
    screen = open_page(panel, timezone_id="Asia/Tehran")
    page = screen.page
    expect(screen.row("de-fi").locator(".since")).to_have_text("· 8h")
    opened(screen)
    expect(page.locator("#detail-since")).to_contain_text("Since")
    summary = plain(page.locator("#history-summary"))
    assert re.search(r"^Up 93\.\d+ % of the measured time, down for 1 hour (29|30) minutes\.", summary)
    broke = r"Breaks: 1; the last one \d+ \w+, \d\d:\d\d, for 1 hour 30 minutes\."
    assert re.search(broke + r" Nobody measured for (1 hour|59 minutes)", summary)
    for before, kind in ((2, "up"), (9.3, "down"), (sum(UNMEASURED) / 2, "gap"), (22, "up")):
        assert screen.evaluate(DRAWN, [before, False]) == kind, before
    changes = page.locator("#history-changes li")
    expect(changes).to_have_count(5)
    assert re.search(r"active8 hours 3[0-5] minutes so far$", plain(changes.nth(0)))
    assert re.search(r"error1 hour 30 minutesno answer from 10\.201\.0\.9 in the tunnel", plain(changes.nth(1)))
    there = screen.evaluate(
        """() => new Date(Date.parse(document.querySelector("#history-changes time").dateTime))
            .toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", timeZone: "Asia/Tehran" })"""
    )
    assert there in plain(changes.nth(0)), "of the reader's zone"

    chart = page.locator("#history-chart")  # by keyboard, as a screen reader has it
    chart.focus()
    for _time in range(9):
        page.keyboard.press("PageDown")
    words = chart.get_attribute("aria-valuetext") or ""
    assert re.search(r"· down 5 min · Loss 100%", words), words
    assert plain(page.locator("#history-point")) == words.translate({0x2068: None, 0x2069: None})
    box = chart.bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] * (1 - 2 / 24), box["y"] + 10)
    expect(page.locator("#history-point")).to_contain_text(re.compile(r"· up 5 min · Round trip \d\d ms · worst"))

    page.get_by_role("button", name="Last 30 days").click()
    expect(page.locator("#history-summary")).to_contain_text("Switched off for \u20682 days 12 hours\u2069.")
    for before, kind in ((470, "off"), (300, "up"), (710, "gap")):
        assert screen.evaluate(DRAWN, [before, True]) == kind, before
    assert screen.evaluate(PALE) == []
    assert "Largest packet that passed1,380 bytes1,380 bytes" in plain(page.locator("#detail-ends"))

    screen.watched.expect(*refused(503))
    page.route("**/history", lambda route: route.fulfill(status=503, json={"detail": "The database is busy"}))
    page.keyboard.press("Escape")
    screen.open("de-fi")
    expect(page.locator("#history-problem")).to_contain_text("The database is busy")
    expect(page.locator("#history-chart, #history-changes, #history-summary").filter(visible=True)).to_have_count(0)


def test_it_is_read_again_and_an_error_leads_to_the_guide(open_page: Opener, panel: Panel) -> None:
    """From right to left, on a phone."""
    screen = open_page(panel, locale="fa-IR", viewport={"width": 390, "height": 844}, color_scheme="dark")
    page = screen.page
    opened(screen)
    assert screen.evaluate(BEYOND) == 0
    assert screen.evaluate(PALE) == []
    assert screen.evaluate(DRAWN, [9.3, False]) == "down"
    assert screen.evaluate(DRAWN, [sum(UNMEASURED) / 2, False]) == "gap"
    links = page.locator("#detail-errors a")
    expect(links.first).to_be_hidden()
    expect(page.locator("#updated")).to_contain_text("زنده")
    with page.expect_response("**/history") as read, database(panel) as connection:
        connection.execute(
            "UPDATE tunnel_ends SET status = 'error', error = 'broken', symptom = 'no-answer' WHERE role = 'source'"
        )
    assert read.value.status == 200
    expect(links.first).to_have_text("چه باید کرد: \u2068نشانی بیرونی پاسخ نمی‌دهد\u2069")
    expect(links.first).to_have_attribute("rel", "noreferrer")
    with page.context.expect_page() as guide:
        links.first.click()
    expect(guide.value.locator("h1")).to_have_text("When something is wrong")
    assert guide.value.url.endswith("/trouble.html#no-answer")
    with database(panel) as connection:
        connection.execute("UPDATE tunnel_ends SET symptom = 'javascript:x' WHERE role = 'source'")
        connection.execute("UPDATE tunnel_ends SET error = 'another' WHERE role = 'source'")
        connection.execute("UPDATE tunnel_ends SET error = 'only a note' WHERE role = 'target' AND status = 'active'")
    expect(page.locator("#detail-errors")).to_contain_text("another")
    expect(page.locator("#detail-errors .problem:visible")).to_have_count(1)
    expect(page.locator("#detail-errors .hint:visible")).to_contain_text("only a note")
    expect(links.first).to_be_hidden()
    report(panel, panel.call("GET", "/api/tunnels/1"), "active", rtt_ms=26, mtu=1380)


def test_a_month_of_five_minutes_is_drawn_at_once(open_page: Opener, panel: Panel) -> None:
    screen = open_page(panel)

    def told(route: Route) -> None:
        history: dict[str, Any] = route.fetch().json()
        now = max(row[0] for row in history["day"]["rows"])
        rows = [
            [
                now - 300 * place,
                300 - 7 * (place % 40),
                7 * (place % 40),
                26 + place % 7,
                40 + place % 31,
                place % 9,
                1,
                1,
            ]
            for place in range(8640)
        ]
        history["month"] = {**history["day"], "rows": rows[::-1]}
        route.fulfill(json=history)

    screen.page.route("**/history", told)
    opened(screen)
    drawn, rebuilt = screen.evaluate(
        """async () => {
            const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
            const [day, month] = document.querySelectorAll("#history-spans button");
            const drawn = [];
            for (let turn = 0; turn < 6; turn += 1) {
                day.click();
                await frame();
                const started = performance.now();
                month.click();
                document.getElementById("history-chart").getBoundingClientRect();
                drawn.push(performance.now() - started);
            }
            // Beside it, in the same tab: an element for each point, as careless code makes it
            const rebuilt = [];
            const svg = document.querySelector("#history-chart svg");
            for (let turn = 0; turn < 3; turn += 1) {
                await frame();
                const started = performance.now();
                const all = document.createElementNS("http://www.w3.org/2000/svg", "g");
                for (let place = 0; place < 8640; place += 1) {
                    const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
                    const box = { x: place / 13, y: 0, width: 1, height: 20 };
                    for (const [name, value] of Object.entries(box)) rect.setAttribute(name, value);
                    all.append(rect);
                }
                svg.append(all);
                svg.getBoundingClientRect();
                rebuilt.push(performance.now() - started);
                all.remove();
            }
            return [Math.min(...drawn), Math.min(...rebuilt)];
        }"""
    )
    print(f"\na month of five minutes: drawn in {drawn:.1f} ms; an element for each point {rebuilt:.1f} ms")
    assert drawn < rebuilt / 2
    expect(screen.page.locator("#history-summary")).to_contain_text("of the measured time")
