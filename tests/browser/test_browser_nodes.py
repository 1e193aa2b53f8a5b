# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The nodes' service on the page. Where a manager has to speak to nodes, a FAKE in the browser answers for the panel:
``GET /api/tunnels/nodes`` and the decisions below it. All else is the real panel."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Route, expect

from tests.browser.conftest import Opener
from tests.browser.test_browser_hostile import BREAKS, IMAGE, RTL, SCRIPT
from tests.browser.test_browser_looks import BEYOND, PALE
from tests.support.panel import Panel
from tests.support.samples import add_nodes, database, publish, report
from tests.support.screen import Screen, plain, refused

KNOWN, SEEN = ("".join(letters) + "=" for letters in ("knownKey/" * 5, "seenKey+" * 5))
PRINTS = {"known_fingerprint": "SHA256:known, certificate aa", "seen_fingerprint": "SHA256:seen, certificate bb"}
NOTHING: dict[str, list[Any]] = {"missing": [], "orphans": [], "deletions": [], "changed_keys": []}
UUID = "7d4c6d0e-7a3c-4b9e-9d6c-000000000001"


@pytest.fixture(scope="module")
def panel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Panel]:
    with Panel.start(tmp_path_factory.mktemp("panel"), tls=False) as panel:
        add_nodes(panel, {"de-1": "203.0.113.7", "fi-1": "198.51.100.9", "nl-1": "192.0.2.1"})
        report(panel, panel.add_tunnel(1, 2, "de-fi"), "active", rtt_ms=7)
        report(panel, panel.add_tunnel(1, 3, "de-nl"), "active", rtt_ms=9)
        yield panel


def service(node_id: int, node: str, state: str, **more: Any) -> dict[str, Any]:
    """A NODE_SERVICE."""
    uuid = None if state == "none" else UUID
    known = {"node_id": node_id, "node": node, "deleted": False, "uuid": uuid, "port": uuid and 62052}
    return {**known, "state": state, "problem": None, **NOTHING, **more}


class Fake:
    """Answers for the manager, and keeps what was decided, as (path, body)."""

    def __init__(self, screen: Screen, manager: dict[str, Any] | None, *nodes: dict[str, Any]) -> None:
        self.manager = manager
        self.nodes = {node["node_id"]: node for node in nodes if not node["deleted"]}
        self.deleted = [node for node in nodes if node["deleted"]]
        self.decided: list[tuple[str, Any]] = []
        self.reads = 0
        screen.page.route("**/api/tunnels/nodes", self._read)
        screen.page.route("**/api/tunnels/nodes/*/*", self._decide)
        screen.page.reload()

    def _read(self, route: Route) -> None:
        self.reads += 1
        if self.manager is None:
            route.fulfill(status=404, json={"detail": "Not Found"})
            return
        route.fulfill(json={"manager": self.manager, "nodes": [*self.nodes.values(), *self.deleted]})

    def _decide(self, route: Route) -> None:
        path = route.request.url.partition("/api/tunnels/nodes/")[2]
        body = json.loads(route.request.post_data) if route.request.post_data else None
        self.decided.append((path, body))
        node = self.nodes[int(path.partition("/")[0])]
        if body is not None:
            done: dict[str, Any] = {"state": "ok", "problem": None} if "database" in body else {"changed_keys": []}
            self.nodes[node["node_id"]] = {**node, **done}
        route.fulfill(json=self.nodes[node["node_id"]])


def problems() -> list[dict[str, Any]]:
    """Three nodes and a deleted one, and all that can be wrong with one; what nodes have written is hostile."""
    lost = {"uuid": UUID, "tunnel_id": 8, "name": RTL, "type": "wg", "age": 3_000_000, "given_up": True}
    return [
        service(
            1,
            f"de-1 {IMAGE}",
            "problem",
            contact_age=7,
            problem={"code": "older_database", "detail": f"the node has seen 41, this database holds 17; {SCRIPT}"},
            missing=["openvpn", BREAKS],
            orphans=[{"uuid": UUID, "id": 9, "name": SCRIPT, "type": "ipsec", "interface": "mz9"}],
            more_orphans=3,
            deletions=[
                {"uuid": UUID, "tunnel_id": 7, "name": "gone", "type": "openvpn", "age": 65, "given_up": False},
                lost,
            ],
            changed_keys=[{"tunnel_id": 1, "name": "de-fi", "known": KNOWN, "seen": SEEN, **PRINTS}],
        ),
        service(
            2, "fi-1", "ok", contact_age=2, engine="0123456789abcdef" * 4, recoveries={"process": 2, "peer": SCRIPT}
        ),
        service(3, "nl-1", "none"),
        service(2, "old-1", "none", deleted=True, uuid=UUID, port=62052, deletions=[lost]),  # fi-1 has its number now
        service(4, "old-2", "none", deleted=True, uuid=f"{UUID[:-1]}2", port=None, deletions=[lost]),
    ]


def test_how_the_nodes_are_and_what_only_an_admin_decides(open_page: Opener, panel: Panel) -> None:
    screen = open_page(panel)
    page = screen.page
    fake = Fake(screen, {"state": "on"}, *problems())
    chip, dialog = page.locator("#services"), page.locator("#nodes")
    expect(chip).to_contain_text("nodes act by themselves")
    assert plain(chip) == "1 of 3 nodes act by themselves problems: 1"
    expect(chip).to_have_attribute("data-status", "error")
    chip.focus()
    page.keyboard.press("Enter")
    expect(dialog).to_be_visible()
    nodes = dialog.locator("#nodes-list > li")
    expect(nodes).to_have_count(5)
    first = nodes.first  # the problem comes first
    for text in (
        "This database is older than what the node has seen",
        "the node has seen 41, this database holds 17",
        "left alone",
        "mz9",
        "and \u20683\u2069 more",
        "given up",
        KNOWN,
        SEEN,
        *PRINTS.values(),
        SCRIPT,
        BREAKS,
    ):
        expect(first).to_contain_text(text)
    assert re.search("answered [0-9]+s ago", plain(first))
    assert "deleted 1m ago" in plain(first)
    expect(nodes.filter(has_text="fi-1")).to_contain_text("acts by itself")
    about = nodes.filter(has_text="fi-1").locator(".about")
    assert plain(about) == "version 0123456789abBrought back by itself: processes 2"
    expect(nodes.filter(has_text="nl-1")).to_contain_text("the runs report")
    expect(nodes.filter(has_text="nl-1").get_by_role("button")).to_have_count(0)
    expect(nodes.filter(has_text="old-1")).to_contain_text("deleted on the panel")
    expect(nodes.filter(has_text="old-2")).to_contain_text("given up: take it down on the host")
    for tag in ("img", "#nodes script", "#nodes style", "#nodes title"):
        assert page.locator(tag).count() == 0, tag

    first.get_by_role("button", name="Revoke").click()
    expect(screen.confirm).to_contain_text("marzban.tunnels.node_api")
    page.keyboard.press("Escape")
    assert fake.decided == [], "not without a yes"
    first.get_by_role("button", name="Revoke").click()
    screen.confirm.get_by_role("button", name="Revoke").click()
    expect(screen.confirm).to_be_hidden()
    first.get_by_role("button", name="This database is the right one").click()
    assert fake.decided == [("1/revoke", None)]
    screen.confirm.get_by_role("button", name="This database is the right one").click()
    expect(screen.confirm).to_be_hidden()
    assert fake.decided[1:] == [("1/confirm", {"database": True})]
    expect(first).to_have_attribute("data-state", "ok")
    assert plain(chip) == "2 of 3 nodes act by themselves "
    expect(chip).to_have_attribute("data-status", "connecting")  # a key and a deletion that was given up are left
    first.get_by_role("button", name="This node was set up again").click()
    expect(screen.confirm).to_contain_text("somebody else may get into the tunnel")
    screen.confirm.get_by_role("button", name="This node was set up again").click()
    expect(screen.confirm).to_be_hidden()
    assert fake.decided[2:] == [("1/confirm", {"tunnel_id": 1, "fingerprint": PRINTS["seen_fingerprint"]})]
    expect(first).not_to_contain_text(SEEN)

    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(chip).to_be_focused()
    node = page.locator("#graph .node").nth(1)  # the map's nodes lead there too
    assert "acts by itself" in (node.get_attribute("aria-label") or "")
    page.locator("#graph .node").first.focus()
    for key in ("ArrowRight", "Enter", "Tab"):
        page.keyboard.press(key)
    about = page.locator("#graph-service button")
    expect(about).to_be_focused()
    assert plain(about) == "fi-1: acts by itself"
    page.keyboard.press("Enter")
    expect(nodes.filter(has_text="fi-1")).to_be_focused()


def test_what_the_panel_itself_tells_and_takes(open_page: Opener, panel: Panel) -> None:
    """No fake: a panel without a manager, one node whose service was published, and a key that nobody has accepted."""
    screen = open_page(panel)
    chip, dialog = screen.page.locator("#services"), screen.page.locator("#nodes")
    expect(chip).to_contain_text("The runs report")
    moved = panel.add_tunnel(2, 3, "moved")
    publish(panel, moved)
    asked = panel.call("POST", "/api/tunnels/nodes/access", {"nodes": ["fi-1"]})
    pin = f"sha256:{'A' * 43}="
    there = {"node": "fi-1", "uuid": asked["nodes"][0]["uuid"], "port": 62052, "pin": pin}
    assert panel.call("PUT", "/api/tunnels/nodes", {"nodes": [there]})["updated"] == 1
    gone = panel.add_tunnel(2, 3, "gone")
    panel.call("DELETE", f"/api/tunnels/{gone['id']}")
    with database(panel) as connection:
        shown = json.dumps({"public_key": base64.b64encode(b"k" * 32).decode()})
        connection.execute(
            "UPDATE tunnel_ends SET changed_public = ? WHERE tunnel_id = ? AND node_id = 2", (shown, moved["id"])
        )
    expect(chip).to_contain_text("The manager is off")  # the panel has told so by itself
    expect(chip).to_have_attribute("data-status", "error")
    chip.click()
    node = dialog.locator("#nodes-list > li").filter(has_text="fi-1")
    expect(node).to_contain_text("has the service, and is not asked")
    expect(node).to_contain_text("gone WireGuard waits for the node")
    expect(dialog.locator("#nodes-list > li").filter(has_text="nl-1")).not_to_contain_text("gone")
    node.get_by_role("button", name="Revoke").click()
    screen.confirm.get_by_role("button", name="Revoke").click()
    expect(screen.confirm).to_be_hidden()
    expect(node).to_contain_text("shows another key")
    node.get_by_role("button", name="This node was set up again").click()
    screen.confirm.get_by_role("button", name="This node was set up again").click()
    expect(screen.confirm).to_be_hidden()
    expect(node).not_to_contain_text("shows another key")
    assert screen.tunnel("moved")["ends"][0]["public"]["public_key"] == json.loads(shown)["public_key"]
    [told] = [told for told in panel.call("GET", "/api/tunnels/nodes")["nodes"] if told["node"] == "fi-1"]
    assert told["generation"] == 2


def test_on_a_phone_in_persian_and_in_both_themes(open_page: Opener, panel: Panel) -> None:
    screen = open_page(panel, viewport={"width": 390, "height": 844}, locale="fa-IR", color_scheme="dark")
    told = problems()
    told[1]["state"], told[1]["problem"] = "problem", {"code": "timed_out", "detail": "192.0.2.1:62052: no answer"}
    Fake(screen, {"state": "off", "detail": "NODE_API_KEY is shorter than 32 characters"}, *told)
    expect(screen.page.locator("#services")).to_contain_text("مدیر تونل‌ها خاموش است")
    assert screen.evaluate(BEYOND) == 0
    screen.page.locator("#services").click()
    dialog = screen.page.locator("#nodes")
    expect(dialog).to_contain_text("NODE_API_KEY is shorter than 32 characters")
    # In the reader's language what it is and what to do; the panel's sentence has the rest
    expect(dialog).to_contain_text("به‌موقع پاسخی نیامد")
    expect(dialog).to_contain_text("پنل را به درگاه سرویس راه دهید")
    expect(dialog).to_contain_text("192.0.2.1:62052: no answer")
    guide = dialog.locator("#nodes-list > li", has_text="fi-1").locator(".guide-link")
    expect(guide).to_have_attribute("href", re.compile(r"/dashboard/tunnels/\w+/trouble\.html#unreachable$"))
    assert screen.evaluate(BEYOND) == 0
    box = dialog.bounding_box()
    assert box
    assert box["x"] == 0
    assert screen.evaluate(PALE) == []
    screen.page.emulate_media(color_scheme="light")
    assert screen.evaluate(PALE) == []


def test_a_panel_of_an_older_api_shows_nothing_of_it(open_page: Opener, panel: Panel) -> None:
    screen = open_page(panel)
    asked = screen.without_events()
    screen.page.clock.install()
    fake = Fake(screen, None)
    expect(screen.row("de-fi")).to_be_visible()
    assert asked
    asked.clear()
    for _time in range(3):
        with screen.page.expect_response(lambda answer: "/api/tunnels?" in answer.url):
            screen.page.clock.run_for(31_000)
    assert fake.reads == 1, "it is not asked again"
    assert asked == [], "nor for events"
    expect(screen.page.locator("#services")).to_be_hidden()
    screen.page.locator("#graph .node").first.dispatch_event("click")
    expect(screen.page.locator("#graph-service")).to_be_hidden()


def test_who_measured_an_end_and_what_is_stale(open_page: Opener, panel: Panel) -> None:
    screen = open_page(panel)

    def told(route: Route) -> None:
        """What version 5 of the API adds."""
        records = route.fetch(headers={**route.request.headers, "if-none-match": ""}).json()
        for record in records:
            source, target = record["ends"]
            record["stale"] = record["name"] == "de-nl"
            source |= {"by": "service", "stale": record["stale"], "changed_key": None}
            target |= {"by": "run", "stale": False, "changed_key": {"known": KNOWN, "seen": SEEN, **PRINTS}}
        route.fulfill(json=records)

    screen.page.route("**/api/tunnels?*", told)
    Fake(screen, {"state": "on"}, service(1, "de-1", "ok"), service(2, "fi-1", "ok"), service(3, "nl-1", "none"))
    row = screen.row("de-nl")
    expect(row.get_by_text("stale")).to_be_visible()
    expect(row.locator(".mark")).to_have_attribute("data-status", "stale")
    expect(screen.row("de-fi").get_by_text("stale")).to_be_hidden()
    screen.open("de-nl")
    ends = screen.page.locator("#detail-ends tbody tr")
    measured = ends.filter(has_text="Measured by")
    expect(measured).to_contain_text("the node's service, ")
    expect(measured).to_contain_text("a run, ")
    marks = ends.filter(has_text="Status").locator(".mark")
    expect(marks.nth(0)).to_have_attribute("data-status", "stale")
    expect(marks.nth(1)).to_have_attribute("data-status", "active")
    for text in (SEEN, PRINTS["seen_fingerprint"]):
        expect(ends.filter(has_text="Another key")).to_contain_text(text)


def test_after_a_change_the_page_looks_often(open_page: Opener, panel: Panel) -> None:
    screen = open_page(panel)
    screen.without_events()
    Fake(screen, {"state": "on"}, service(1, "de-1", "ok"), service(2, "fi-1", "asking"), service(3, "nl-1", "none"))
    expect(screen.page.locator("#services")).to_be_visible()

    def switch(name: str, word: str) -> None:
        screen.open(name).get_by_role("button", name=word, exact=True).click()
        expect(screen.notice).to_contain_text(f"{name}\u2069 is {word.lower()}d.")
        screen.page.keyboard.press("Escape")

    switch("de-nl", "Deactivate")
    expect(screen.notice).to_contain_text("A run brings it to the nodes:")  # one of its nodes has no service
    screen.evaluate(
        """() => {
            const fetched = fetch;
            window.read = [];
            window.fetch = (address, ...rest) => {
                if (address.startsWith("/api/tunnels?")) read.push(performance.now());
                return fetched(address, ...rest);
            };
        }"""
    )
    switch("de-fi", "Deactivate")
    expect(screen.notice).to_contain_text("Its nodes do it by themselves now.")
    times = screen.evaluate(
        """async () => {
            while (read.length < 4) await new Promise((done) => setTimeout(done, 50));
            return read;
        }"""
    )
    assert times[3] - times[0] < 9_000, "each five seconds it would be ten at least"
    screen.open("de-fi").get_by_role("button", name="Delete").click()
    expect(screen.confirm).to_contain_text("within seconds")
    screen.page.keyboard.press("Escape")
    screen.page.keyboard.press("Escape")
    for name in ("de-fi", "de-nl"):
        switch(name, "Activate")


def test_what_services_measured_is_active_as_long_as_the_panel_says_so(open_page: Opener, panel: Panel) -> None:
    screen = open_page(panel)
    screen.watched.expect(*refused(503))
    screen.without_events()
    screen.page.clock.install()
    away = False
    asked: list[bool] = []

    def told(route: Route) -> None:
        """Once it has the list: nothing but ages is different."""
        asked.append(away)
        if "if-none-match" in route.request.headers:
            route.fulfill(status=503 if away else 304)
            return
        records = route.fetch().json()
        for record in records:
            seen = {"status": "active", "age": 3, "by": "service", "stale": False, "stale_after": 22}
            record |= {"status": "active", "stale": False, "ends": [end | seen for end in record["ends"]]}
        route.fulfill(json=records, headers={"ETag": 'W/"all"'})

    def go_on() -> None:
        """Half a minute, by steps that are shorter than those after which the panel would seem slow."""
        enough = len(asked) + 6
        while len(asked) < enough:
            screen.page.clock.run_for(500)

    screen.page.route("**/api/tunnels?*", told)
    Fake(screen, {"state": "on"}, *(service(number, f"node-{number}", "ok") for number in (1, 2, 3)))
    row = screen.row("de-fi")
    expect(row.locator(".word")).to_have_text("active")
    go_on()
    expect(row.get_by_text("stale")).to_be_hidden()
    expect(row.locator(".word")).to_have_text("active")
    away = True
    screen.page.clock.run_for(31_000)
    expect(row.get_by_text("stale")).to_be_visible()
    expect(row.get_by_text("stale")).to_have_attribute("title", re.compile("more than .22 sec"))
    expect(row.locator(".word")).to_have_text("connecting")
    away = False
    screen.page.clock.run_for(31_000)
    expect(row.get_by_text("stale")).to_be_hidden()
    expect(row.locator(".word")).to_have_text("active")
