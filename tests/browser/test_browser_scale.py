# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""A thousand tunnels between thirty nodes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Opener
from tests.support.fake_stream import FakeStream
from tests.support.panel import Panel
from tests.support.samples import database, many
from tests.support.screen import Screen, plain


@pytest.fixture(scope="module")
def panel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Panel]:
    with Panel.start(tmp_path_factory.mktemp("panel"), tls=False) as panel:
        many(panel, 1000)
        yield panel


@pytest.fixture
def screen(open_page: Opener, panel: Panel) -> Screen:
    screen = open_page(panel)
    screen.expect_count("1,000", "1,000")
    return screen


def test_search_keeps_up_with_typing(screen: Screen) -> None:
    times, rebuilt = screen.evaluate(
        """async () => {
            const search = document.getElementById("search");
            const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
            let times = [];
            for (const text of ["warm up", "tunnel 0777", "node-07 wire", "tunnel 0123"]) {
                if (text === "tunnel 0777") times = [];
                for (let length = 0; length <= text.length; length += 1) {
                    await frame();
                    search.value = text.slice(0, length);
                    const started = performance.now();
                    search.dispatchEvent(new InputEvent("input", { bubbles: true }));
                    document.body.offsetHeight; // layout is part of it
                    times.push(performance.now() - started);
                }
            }
            // Beside it, in the same tab: a table of a thousand rows rebuilt, as careless code does at each letter
            const body = document.getElementById("rows"), row = body.firstElementChild, rebuilt = [];
            for (let turn = 0; turn < 5; turn += 1) {
                await frame();
                const all = document.createElement("tbody"), started = performance.now();
                for (let number = 0; number < 1000; number += 1) all.append(row.cloneNode(true));
                body.after(all);
                document.body.offsetHeight;
                rebuilt.push(performance.now() - started);
                all.remove();
            }
            return [times.sort((a, b) => a - b), Math.min(...rebuilt)];
        }"""
    )
    middle, most, worst = times[len(times) // 2], times[len(times) * 9 // 10], times[-1]
    print(
        f"\nsearch at 1,000 tunnels: {middle:.1f} ms in the middle, {most:.1f} nine of ten, {worst:.1f} at worst;"
        f" all rows rebuilt {rebuilt:.1f} ms"
    )
    assert middle < rebuilt / 4
    screen.expect_count("1", "1,000")
    expect(screen.row("tunnel 0123")).to_be_visible()


def test_what_comes_moves_neither_focus_nor_selection_nor_scroll(screen: Screen, panel: Panel) -> None:
    screen.evaluate("() => scrollTo(0, document.documentElement.scrollHeight)")  # a key takes its time
    row = screen.rows.nth(60)
    expect(row).to_be_visible()
    before = row.get_attribute("data-test")
    assert before is None
    row.evaluate("(row) => { row.dataset.test = 'kept' }")
    row.locator("button").focus()
    row.scroll_into_view_if_needed()
    row.locator("td.nodes").evaluate("(cell) => getSelection().selectAllChildren(cell)")
    name = row.locator("button").text_content() or ""
    state = "() => [scrollY, document.activeElement.id, getSelection().toString()]"
    was = screen.evaluate(state)
    assert was[0] > 500
    assert was[2]
    with database(panel) as connection:
        connection.execute("UPDATE tunnel_ends SET measured = '{\"rtt_ms\": 99.4}', reported_at = datetime()")
    expect(row).to_contain_text("99 ms", timeout=60_000)
    assert screen.evaluate(state) == was
    assert screen.row(name).get_attribute("data-test") == "kept", "the row is the one of before"
    number = int(name.split()[1])
    with database(panel) as connection:  # its place is another one now: the focus goes with it
        connection.execute("UPDATE tunnel_ends SET status = 'error' WHERE tunnel_id = ?", (number,))
    expect(screen.row(name)).to_contain_text("error", timeout=60_000)
    assert screen.evaluate(state)[1] == was[1]
    with database(panel) as connection:
        connection.execute("UPDATE tunnel_ends SET status = 'active' WHERE tunnel_id = ?", (number,))


def test_all_rows_can_be_scrolled_to(screen: Screen) -> None:
    assert screen.rows.count() < 200
    # as a held End key does it: at the new end as soon as there is one
    screen.evaluate(
        """() => {
            const end = () => scrollTo(0, document.documentElement.scrollHeight);
            new MutationObserver(end).observe(document.getElementById("rows"), { childList: true });
            end();
        }"""
    )
    expect(screen.rows).to_have_count(1000)


def test_the_map_bundles_and_filters(screen: Screen) -> None:
    page = screen.page
    assert page.locator("#graph .node").count() == 30
    bundles = page.locator("#graph .bundle")
    assert 0 < page.locator("#graph .edge").count() <= 30 * 29 / 2
    order = """(kind) => {
        const parts = [...document.querySelectorAll(`#graph .${kind}`)].map((part) => part.classList.contains("wrong"));
        return [parts.indexOf(true), parts.lastIndexOf(false), parts.length];
    }"""
    for kind in ("edge", "node"):
        wrong, right, every = screen.evaluate(order, kind)
        assert 0 < right < wrong < every, "what is wrong is on top"
    assert "error" in (page.locator("#graph [tabindex='0']").get_attribute("aria-label") or ""), "and first"
    many_at_once = bundles.first
    label = many_at_once.get_attribute("aria-label") or ""
    many_at_once.dispatch_event("click")
    expect(many_at_once).to_have_attribute("aria-pressed", "true")
    shown = plain(page.locator("#count")).split()[0]
    assert f"\u2068{shown}\u2069 tunnels" in label
    page.get_by_role("button", name="Clear filters").click()
    page.locator("#graph .node").first.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#graph-info")).to_contain_text("node-02")
    page.keyboard.press("Enter")
    expect(page.locator("#filter-node option:checked")).to_have_text("node-02")
    assert all("node-02" in text for text in screen.rows.locator("td.nodes").all_text_contents())


def test_twenty_nodes_that_measure_cost_little(screen: Screen, panel: Panel) -> None:
    """In a second each of twenty nodes has measured all its tunnels. Beside it: all is drawn again for each."""
    fake = FakeStream(screen)
    screen.expect_count("1,000", "1,000")
    tools = screen.page.context.new_cdp_session(screen.page)
    tools.send("Performance.enable")

    def busy() -> float:
        """Milliseconds for which the page's code has worked, and the browser on what it has changed."""
        found = {metric["name"]: metric["value"] for metric in tools.send("Performance.getMetrics")["metrics"]}
        return 1000 * float(found["ScriptDuration"] + found["LayoutDuration"] + found["RecalcStyleDuration"])

    ends: dict[int, list[dict[str, Any]]] = {}
    for record in panel.call("GET", "/api/tunnels?limit=1000"):
        for end in record["ends"]:
            told = {"tunnel_id": record["id"], "role": end["role"], "age": 0, "by": "service", "stale": False}
            ends.setdefault(end["node_id"], []).append(told)
    texts = []
    for place, node in enumerate(sorted(ends)[:20]):
        measured = {"rtt_ms": 31.5 + place, "rx_bytes": 7_000_000}
        texts.append(fake.text("measured", ends=[{**end, "measured": measured} for end in ends[node]]))
    before = busy()
    for _text in texts:
        screen.page.locator("#heads .loss button").dispatch_event("click")  # the order is another one
        screen.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    drawn = busy() - before
    before = busy()
    screen.evaluate(
        """async (texts) => {
            for (const text of texts) {
                feed(text);
                await new Promise((done) => setTimeout(done, 50));
            }
        }""",
        texts,
    )
    expect(screen.rows.first).to_contain_text(re.compile("(31|32|33|34|35|36|37|38|39|4[0-9]|5[01]) ms"))
    events = busy() - before
    print(
        f"\n{sum(map(len, texts))} characters of 20 nodes: {events:.0f} ms of work; all drawn 20 times: {drawn:.0f} ms"
    )
    assert events < drawn / 3
    assert screen.evaluate("() => asked.length") == 1
