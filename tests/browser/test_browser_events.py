# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""What the panel tells by itself moves the page, which then does not poll."""

from __future__ import annotations

import random
import re
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from playwright.sync_api import Page, Request, expect

from tests.browser.conftest import Opener
from tests.support.fake_stream import FakeStream
from tests.support.managed_panel import KEY, Services, until
from tests.support.panel import Panel
from tests.support.panel_api import client
from tests.support.samples import add_nodes, report
from tests.support.screen import AWAY
from tests.support.simulated_node import Nodes

EVENTS, TUNNELS = "/api/tunnels/events", "/api/tunnels?"
SOON = 2.0  # seconds from a node's look until the page shows what is new
BUSY = 3  # times as long it may take here, where other tests share the machine

# Answers once the table shows this text.
SHOWN = """(text) => new Promise((done) => {
    const rows = document.getElementById("rows");
    const look = () => (rows.innerText.includes(text) ? done() : requestAnimationFrame(look));
    look();
})"""


@pytest.fixture(scope="module")
def panel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Panel]:
    with Panel.start(tmp_path_factory.mktemp("panel"), tls=False, env={"NODE_API_KEY": KEY}) as panel:
        add_nodes(panel, {"de-1": "203.0.113.7", "fi-1": "198.51.100.9", "nl-1": "192.0.2.1"})
        report(panel, panel.add_tunnel(1, 2, "de-fi"), "active", rtt_ms=7)
        yield panel


class Calls:
    """What the page asks for."""

    def __init__(self, page: Page) -> None:
        self.made: list[Request] = []
        page.on("request", lambda request: self.made.append(request))

    def of(self, part: str) -> list[Request]:
        return [request for request in self.made if part in request.url]


def hide(page: Page, hidden: bool) -> None:
    page.evaluate(
        """(hidden) => {
            Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
            document.dispatchEvent(new Event("visibilitychange"));
        }""",
        hidden,
    )


def test_the_stream_moves_the_page_and_a_hidden_tab_has_none(open_page: Opener, panel: Panel) -> None:
    screen = open_page(panel)
    page, live = screen.page, screen.page.locator("#updated")
    page.clock.install()
    calls = Calls(page)
    page.reload()
    expect(live).to_contain_text("live")
    expect(screen.row("de-fi")).to_contain_text("7 ms")
    page.clock.run_for(500)  # what was read when the stream began is here
    calls.made.clear()

    report(panel, panel.call("GET", "/api/tunnels/1"), "active", rtt_ms=8.5)
    made = panel.add_tunnel(2, 3, "another")

    def until(text: str) -> None:
        """The page draws when its clock has gone on."""
        for _time in range(100):
            page.clock.run_for(50)
            if text in (page.locator("#rows").text_content() or ""):
                return
        raise AssertionError(text)

    until("8.5 ms")
    until("another")
    report(panel, made, "error", error="the port is closed")
    until("the port is closed")
    expect(screen.rows.first).to_contain_text("another")  # what is wrong comes first
    expect(page.locator("#graph .node.wrong")).to_have_count(2)
    for _time in range(40):
        page.clock.run_for(500)  # four times as long as between two polls
    assert calls.of(TUNNELS) == []

    with page.expect_event("requestfailed", lambda request: EVENTS in request.url):
        hide(page, True)
    panel.call("DELETE", f"/api/tunnels/{made['id']}")
    calls.made.clear()
    with page.expect_request(f"**{EVENTS}") as again:
        hide(page, False)
    assert re.fullmatch(r"[0-9a-f]{8}-\d+", again.value.headers["last-event-id"])
    expect(live).to_contain_text("live")
    expect(screen.rows).to_have_count(1)  # it was told what it has missed
    assert calls.of(TUNNELS) == []

    hide(page, True)
    calls.made.clear()
    page.clock.run_for(120_000)
    assert calls.made == []
    with page.expect_request(f"**{TUNNELS}*"), page.expect_request(f"**{EVENTS}") as again:
        hide(page, False)
    assert "last-event-id" not in again.value.headers  # after so long all is read


def test_a_panel_that_restarts_and_one_that_says_nothing(open_page: Opener, panel: Panel) -> None:
    screen = open_page(panel)
    page, live = screen.page, screen.page.locator("#updated")
    screen.watched.expect(AWAY)
    expect(live).to_contain_text("live")
    panel.stop()
    expect(screen.banner).to_contain_text("The panel can't be reached.")
    expect(live).not_to_contain_text("live")
    panel.restart()
    expect(screen.banner).to_be_empty()
    expect(live).to_contain_text("live")

    page.clock.install()
    fake = FakeStream(screen)
    expect(live).to_contain_text("live")
    calls = Calls(page)
    for _time in range(30):
        page.clock.run_for(500)
        fake.push("beat")
    assert calls.of(TUNNELS) == []
    cut = fake.text("tunnels", tunnels=[], deleted=[99])  # pieces come as the network makes them
    half = cut.index('": [') + 1
    for piece in (cut[:half], cut[half:], ":\n\n" + fake.text("tunnels", tunnels=[], deleted=[1])):
        screen.evaluate("(text) => feed(text)", piece)
        page.clock.run_for(500)
    expect(screen.rows).to_have_count(0)
    assert screen.evaluate("() => asked") == [None]
    for _time in range(64):  # 25 s of silence, and the time after which it tries again
        page.clock.run_for(500)
    assert len(calls.of(TUNNELS)) >= 1
    assert len(screen.evaluate("() => asked")) == 2
    expect(live).not_to_contain_text("live")
    fake.push("hello", resumed=True, beat=10)  # as a panel does whose feed is stuck
    page.clock.run_for(500)
    expect(live).not_to_contain_text("live")
    fake.push("beat")
    expect(live).to_contain_text("live")

    page.clock.run_for(1000)
    page.clock.set_system_time(screen.evaluate("() => Date.now() / 1000 - 3600"))  # it is put right
    for _time in range(5):
        page.clock.run_for(1000)
    expect(live).to_contain_text(re.compile("[4-8]s ago"))


@pytest.mark.parametrize("changes", [5, pytest.param(100, marks=pytest.mark.variation)])
def test_what_a_node_sees_is_on_the_page_within_two_seconds(open_page: Opener, panel: Panel, changes: int) -> None:
    """In real time, at the pace of a real panel. Two SIMULATED nodes look at any moment, many a time just after they
    did, when the panel is at rest and when it is about to take what came before."""
    dice = random.Random(changes)
    with Nodes() as nodes, ExitStack() as cleaning:
        api = client(panel)
        cleaning.callback(api.session.close)
        services = Services(api)
        pair = [nodes.add(name) for name in ("us-1", "us-2")]
        for node in pair:
            node.measured = {"rtt_ms": 1}
            number = services.node(node)["id"]
            cleaning.callback(api.own, "DELETE", f"/api/node/{number}")
        tunnel = services.tunnel(*pair)
        screen = open_page(panel)
        row = screen.row(tunnel["name"] or f"#{tunnel['id']}")
        expect(row).to_contain_text("active")
        expect(screen.page.locator("#updated")).to_contain_text("live")
        until(lambda: all(node.listening == 1 for node in pair))
        took: dict[str, list[float]] = {"measured": [], "status": []}
        for change in range(changes):
            node = dice.choice(pair)
            held = node.tunnels[tunnel["uuid"]]
            if change % 5 == 3:
                kind, text = "status", f"broken for the time {change}"
                held |= {"status": "error", "error": text}
            elif change % 5 == 4:  # it is repaired, and measured
                kind, text = "status", f"{100 + change} ms"
                for one in pair:
                    one.tunnels[tunnel["uuid"]] |= {"status": "active", "error": None}
                    one.measured = {"rtt_ms": 100 + change}
                    one.look()
            else:
                kind, text = "measured", f"{100 + change} ms"
                node.measured = {"rtt_ms": 100 + change}
            begun = time.monotonic()
            node.look()
            screen.evaluate(SHOWN, text)
            took[kind].append(time.monotonic() - begun)
            time.sleep(dice.uniform(0, 1.2))  # not what is waited for: when the next look is
    for kind, seconds in took.items():
        print(f"{kind}, {len(seconds)}: median {statistics.median(seconds):.2f} s, worst {max(seconds):.2f} s")
    assert max(map(max, took.values())) < SOON * BUSY


def test_what_is_read_and_what_is_told_make_one(open_page: Opener, panel: Panel) -> None:
    """The page's own modules, with reads and events in each order."""
    screen = open_page(panel)
    expect(screen.page.locator("#updated")).to_contain_text("live")
    assert screen.evaluate(
        """async () => {
            const from = (name) => import(document.querySelector("script[type=module]").src.replace("main", name));
            const { Parser } = await from("events");
            const lines = [": quiet", "", "id: a-1", "event: x", 'data: {"a":', "data: 1}\\r", "", "event: y"];
            const stream = [...lines, "data:2", "", "data: cut"].join("\\n");
            const parsed = [1, 7, 1000].map((length) => {
                const parser = new Parser(), found = [];
                for (let at = 0; at < stream.length; at += length) {
                    found.push(...parser.push(stream.slice(at, at + length)));
                }
                return JSON.stringify(found.map(({ name, data, id }) => [name, data, id]));
            });
            const { Known } = await from("known");
            const good = { status: "active", by: "service", stale: false, stale_after: 22 };
            const ends = [
                { ...good, role: "source", age: 3, measured: { rtt_ms: 5 } },
                { ...good, role: "target", age: 9, measured: { rtt_ms: 1 } },
            ];
            const record = (id, version, more) => ({ ...good, id, uuid: `u${id}`, version, ends, ...more });
            const known = new Known(), now = 1e12;
            known.read([1, 2, 3].map((id) => [record(id, 1), now, now]), known.turn, now);
            const kept = known.rows.get(1), began = known.turn;
            known.changed({ tunnels: [record(1, 2, { status: "error" })], deleted: [3] }, now + 1000);
            known.read([1, 2, 3].map((id) => [record(id, 1), now, now]), began, now + 2000);
            const told = [kept === known.rows.get(1), kept.status, known.rows.has(3)];
            known.changed({ tunnels: [record(1, 1)] }, now + 2000);
            told.push(kept.status);
            const end = { tunnel_id: 2, role: "source", measured: { rtt_ms: 8 }, age: 1, by: "service", stale: false };
            const { ids } = known.measured({ ends: [end, { ...end, tunnel_id: 99 }, null] }, now + 10_000);
            const row = known.rows.get(2);
            told.push([...ids], row.rtt, row.age, row.ends[1].age, row.confirmed - now, kept.confirmed - now);
            known.confirmed(now + 20_000);
            told.push(row.confirmed - now);
            known.remove(row);
            known.changed({ tunnels: [record(2, 1)] }, now + 21_000);
            known.read([[record(2, 1), now, now]], began, now + 21_000);
            told.push(known.rows.has(2));
            const { Services } = await from("services");
            const node = (id, state) => ({ node_id: id, node: `n${id}`, state, contact_age: 1, port: 1 });
            const services = new Services(), manager = { state: "on" };
            const fetched = fetch;
            let answer;
            window.fetch = () => new Promise((done) => (answer = (body) => done(Response.json(body))));
            const states = () => services.nodes.map((node) => `${node.node} ${node.state}`).join(", ");
            const read = async (meanwhile, nodes) => {
                const done = services.read(true);
                services.changed({ manager, ...meanwhile }, now);
                answer({ manager: { state: "off" }, nodes });
                await done;
                told.push(states(), services.manager.state);
            };
            await read({ nodes: [node(1, "ok")] }, [node(1, "asking"), node(2, "ok")]);
            await read({ nodes: [node(2, "problem")], gone: ["1"] }, [node(1, "ok"), node(2, "ok"), node(3, "ok")]);
            window.fetch = fetched;
            return [new Set(parsed).size, parsed[0], told];
        }"""
    ) == [
        1,
        '[["x","{\\"a\\":\\n1}","a-1"],["y","2",null]]',
        [
            *(True, "error", False, "error", [2], 8, 1, 19, 10000, 1000, 20000, False),
            *("n1 ok, n2 ok", "on", "n2 problem, n3 ok", "on"),
        ],
    ]
