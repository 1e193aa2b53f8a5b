# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The manager of the standalone panel, over HTTP and TLS, with stand-ins for the node service: what is recorded is on
both nodes, and nothing is removed that nobody deleted."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from marzban_tunnels import responses
from marzban_tunnels.live import STALE_BY_SERVICE
from marzban_tunnels.manager import watch
from marzban_tunnels.service import LONGEST_ASKING
from marzban_tunnels.standalone.database import Database
from marzban_tunnels.tables import DELETIONS, End, Panel
from tests.support.managed_panel import FAST, ManagedPanel, until
from tests.support.panel_api import key
from tests.support.simulated_node import Nodes, SimulatedNode


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with Nodes() as nodes:
        yield nodes


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database with all tables, which cost more than a copy."""
    path = tmp_path_factory.mktemp("tables") / "panel.db"
    with Database(str(path)) as database:
        database.upgrade()
    return path


@pytest.fixture
def database(tables: Path, tmp_path: Path) -> Path:
    return copied(tables, tmp_path / "panel.db")


@pytest.fixture(scope="module")
def panel(tables: Path) -> Iterator[ManagedPanel]:
    """One that the tests share; each has nodes of its own."""
    with ManagedPanel(copied(tables, tables.with_name("shared.db"))) as panel:
        yield panel


class Pair:
    """Two nodes with a service, and a tunnel between them that both have."""

    def __init__(self, panel: ManagedPanel, nodes: Nodes, name: str) -> None:
        self.first, self.second = nodes.add(f"{name}-1"), nodes.add(f"{name}-2")
        self.panel = panel
        self.ids = [panel.node(node)["id"] for node in (self.first, self.second)]
        self.tunnel = self.make()
        until(lambda: self.agree(self.tunnel))

    def make(self) -> Any:
        return self.panel.tunnel(self.first, self.second)

    def agree(self, tunnel: Any) -> bool:
        """Whether each has it with the other's key."""
        here, there = (node.tunnels.get(tunnel["uuid"]) for node in (self.first, self.second))
        return bool(here and there and here["peer"] == there["public_key"] and there["peer"] == here["public_key"])

    def call(self, method: str, path: str = "", body: Any = None) -> Any:
        return self.panel.api.send(method, f"/api/tunnels/{self.tunnel['id']}{path}", body)

    def sees(self) -> Any:
        return self.call("GET")


@pytest.fixture
def pair(panel: ManagedPanel, nodes: Nodes, request: pytest.FixtureRequest) -> Iterator[Pair]:
    pair = Pair(panel, nodes, request.node.name[:40])
    yield pair
    for number in pair.ids:
        assert panel.api.own("DELETE", f"/api/node/{number}").status_code in (200, 404)


def settled(pair: Pair) -> Callable[[], bool]:
    """Nothing is to be done: both nodes were asked twice more, and told nothing."""
    counts = {node.name: len(node.requests) for node in (pair.first, pair.second)}
    writes = len(pair.first.wrote() + pair.second.wrote())

    def check() -> bool:
        assert len(pair.first.wrote() + pair.second.wrote()) == writes
        return all(len(node.requests) >= counts[node.name] + 3 for node in (pair.first, pair.second))

    return check


def test_a_tunnel_is_on_both_nodes_changes_there_and_goes(pair: Pair) -> None:
    until(lambda: pair.sees()["status"] == "active")
    public = {end["node"]: end["public"]["public_key"] for end in pair.sees()["ends"]}
    for node in (pair.first, pair.second):
        assert public[node.name] == node.tunnels[pair.tunnel["uuid"]]["public_key"]
    assert {end["by"] for end in pair.sees()["ends"]} == {"service"}
    until(settled(pair))  # and then nothing is written any more
    pair.call("POST", "/deactivate")
    until(
        lambda: not any(node.tunnels[pair.tunnel["uuid"]]["tunnel"]["is_active"] for node in (pair.first, pair.second))
    )
    until(lambda: pair.call("GET", "/status")["ends"][0]["status"] == "inactive")
    pair.call("POST", "/activate")
    pair.call("PUT", "", {"name": "renamed"})
    until(
        lambda: all(
            node.tunnels[pair.tunnel["uuid"]]["tunnel"]["name"] == "renamed" for node in (pair.first, pair.second)
        )
    )
    pair.call("DELETE")
    until(lambda: not pair.first.tunnels and not pair.second.tunnels)
    until(lambda: pair.panel.service(pair.first)["deletions"] == [])


def test_the_status_asks_the_nodes(pair: Pair) -> None:
    def stored() -> set[str | None]:
        with pair.panel.writing() as session:
            return set(session.scalars(select(End.status).where(End.tunnel_id == pair.tunnel["id"])))

    until(lambda: stored() == {"active"})
    pair.first.tunnels[pair.tunnel["uuid"]]["peer"] = None  # it can't be active without
    pair.first.age = None  # and has not measured since it was changed
    assert pair.call("GET", "/status")["ends"][0]["status"] == "active"
    pair.first.age = 0.5
    assert pair.call("GET", "/status")["ends"][0]["status"] == "connecting"


def test_deleted_while_a_node_is_off_is_gone_after_its_return(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    busy = iter([(503, {"code": "busy"})])
    pair.first.instead = lambda method, path: next(busy, None)
    pair.second.down()
    pair.call("DELETE")
    until(lambda: not pair.first.tunnels)
    until(lambda: pair.panel.problem(pair.second) == "refused")
    assert pair.panel.service(pair.second)["deletions"][0]["uuid"] == pair.tunnel["uuid"]

    def lines(node: SimulatedNode) -> list[str]:
        return [text for text in caplog.messages if repr(node.name) in text]

    until(lambda: lines(pair.second))  # it lasts
    pair.second.slow = 3.0
    pair.second.up()
    until(lambda: pair.panel.problem(pair.second) == "timed_out")
    pair.second.slow = 0.0
    until(lambda: not pair.second.tunnels)
    until(lambda: pair.panel.service(pair.second)["problem"] is None)
    assert len(lines(pair.second)) == 2, lines(pair.second)  # one when it began, one when it ended
    assert "refuses connections" in lines(pair.second)[0]
    assert lines(pair.second)[1].endswith("works again")
    assert lines(pair.first) == [], "that was over after a moment"


def test_a_node_that_is_deleted_while_it_is_off(pair: Pair) -> None:
    pair.second.down()
    until(lambda: pair.panel.problem(pair.second) == "refused")
    assert pair.panel.api.own("DELETE", f"/api/node/{pair.ids[1]}").status_code == 200
    until(lambda: not pair.first.tunnels)
    deleted = next(item for item in pair.panel.api.send("GET", "/api/tunnels/nodes")["nodes"] if item.get("deleted"))
    assert deleted["deletions"][0]["uuid"] == pair.tunnel["uuid"]
    pair.second.up()
    until(lambda: not pair.second.tunnels)
    until(lambda: not any(item.get("deleted") for item in pair.panel.api.send("GET", "/api/tunnels/nodes")["nodes"]))


def test_a_node_that_is_deleted_and_never_returns_is_given_up(panel: ManagedPanel, pair: Pair) -> None:
    pair.second.down()
    assert panel.api.own("DELETE", f"/api/node/{pair.ids[1]}").status_code == 200
    with panel.writing() as session:
        old = responses.now() - timedelta(days=31)
        session.execute(update(DELETIONS).where(DELETIONS.c.node_name == pair.second.name).values(deleted_at=old))
        session.execute(update(Panel).values(writes=Panel.writes + 1))
    until(lambda: panel.service(pair.second)["deletions"][0]["given_up"])
    assert panel.service(pair.second)["state"] == "none"


def test_a_node_that_is_deleted_and_added_again_removes_what_waits(panel: ManagedPanel, pair: Pair) -> None:
    pair.second.down()
    assert panel.api.own("DELETE", f"/api/node/{pair.ids[1]}").status_code == 200
    panel.node(pair.second, publish=False)  # its row and its key are new, the certificate is the same
    until(lambda: len([item for item in panel.services() if item["node"] == pair.second.name]) == 2)
    pair.second.up()
    panel.publish(pair.second)
    until(lambda: not pair.second.tunnels)
    until(lambda: [item["deleted"] for item in panel.services() if item["node"] == pair.second.name] == [False])
    assert panel.problem(pair.second) is None


def test_the_problem_of_a_deleted_node_is_told_and_can_be_confirmed(panel: ManagedPanel, pair: Pair) -> None:
    pair.second.down()
    pair.second.counter += 100  # another copy of this panel has written there
    assert panel.api.own("DELETE", f"/api/node/{pair.ids[1]}").status_code == 200
    pair.second.up()
    until(lambda: f'"uuid": "{pair.second.uuid}"' in str(panel.service(pair.second)["problem"]))
    assert panel.problem(pair.second) == "older_database"
    assert pair.second.tunnels
    body = {"database": True, "uuid": pair.second.uuid}
    panel.api.send("POST", f"/api/tunnels/nodes/{pair.ids[1]}/confirm", body)
    until(lambda: not pair.second.tunnels)
    until(lambda: not any(item["deleted"] for item in panel.services() if item["node"] == pair.second.name))


def test_an_orphan_is_shown_and_left(pair: Pair) -> None:
    orphan = "00000000-0000-4000-8000-00000000abcd"
    held = pair.first.tunnels[pair.tunnel["uuid"]]
    called = {**held["tunnel"], "uuid": orphan, "name": "of\ud800\nold"}
    pair.first.tunnels[orphan] = {**held, "tunnel": called}
    found = until(lambda: pair.panel.service(pair.first)["orphans"])
    assert [(item["uuid"], item["name"]) for item in found] == [(orphan, "of old")]
    pair.first.tunnels.update({f"{orphan}{number}": {**held, "tunnel": called} for number in range(120)})
    until(lambda: pair.panel.service(pair.first)["more_orphans"] == 21)
    assert len(pair.panel.service(pair.first)["orphans"]) == 100
    until(settled(pair))
    assert orphan in pair.first.tunnels


def test_what_a_node_has_lost_is_told_again(pair: Pair) -> None:
    lost = pair.first.tunnels.pop(pair.tunnel["uuid"])
    until(lambda: pair.tunnel["uuid"] in pair.first.tunnels)
    assert pair.first.tunnels[pair.tunnel["uuid"]]["public_key"] != lost["public_key"]
    changed = until(lambda: pair.panel.service(pair.first)["changed_keys"])
    shown = pair.first.tunnels[pair.tunnel["uuid"]]["public_key"]
    assert (changed[0]["known"], changed[0]["seen"]) == (lost["public_key"], shown)
    until(settled(pair))
    assert pair.second.tunnels[pair.tunnel["uuid"]]["peer"] == lost["public_key"]  # nobody has said that it is right
    body = {"tunnel_id": pair.tunnel["id"], "public_key": shown}
    pair.panel.api.send("POST", f"/api/tunnels/nodes/{pair.ids[0]}/confirm", body)
    until(lambda: pair.agree(pair.tunnel))
    until(lambda: pair.panel.service(pair.first)["changed_keys"] == [])
    until(settled(pair))


def test_a_certificate_that_changed_alone_waits_for_an_admin(pair: Pair) -> None:
    tunnel = pair.panel.tunnel(pair.first, pair.second, kind="openvpn")
    until(lambda: pair.agree(tunnel))
    before = pair.first.tunnels[tunnel["uuid"]]["fingerprint"]
    after = pair.first.tunnels[tunnel["uuid"]]["fingerprint"] = "ab" * 32

    def trusted() -> Any:
        return pair.second.tunnels[tunnel["uuid"]]["peer_certificate"]

    (changed,) = until(lambda: pair.panel.service(pair.first)["changed_keys"])
    assert changed["known"] == changed["seen"]
    assert [changed[f"{which}_fingerprint"][-64:] for which in ("known", "seen")] == [before, after]
    until(settled(pair))
    assert trusted() == before
    path, body = f"/api/tunnels/nodes/{pair.ids[0]}/confirm", {"tunnel_id": tunnel["id"]}
    pair.panel.api.send("POST", path, body | {"fingerprint": changed["seen_fingerprint"]})
    until(lambda: trusted() == after)
    until(lambda: pair.panel.service(pair.first)["changed_keys"] == [])
    until(settled(pair))


def test_no_key_is_sent_to_another_certificate(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    pair.first.renew()
    before = pair.first.bytes
    until(lambda: pair.panel.problem(pair.first) == "certificate_changed")
    until(lambda: pair.first.connections > 3)
    assert pair.first.bytes == before
    detail = pair.panel.service(pair.first)["problem"]["detail"]
    assert pair.first.pin in detail
    assert f"marzban_tunnels: {detail}" in caplog.messages
    pair.panel.publish(pair.first)  # a run of node_api
    until(lambda: pair.panel.problem(pair.first) is None)


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("key_wrong", {"hashes": []}),
        ("clock_wrong", {"ahead": 301.0}),
        ("version_newer", {"api": 2}),
        ("version_older", {"api": 0}),
        ("timed_out", {"slow": 3.0}),
        ("busy", {"instead": lambda method, path: (503, {"code": "busy"})}),
        pytest.param(
            "bad_answer",
            {"instead": lambda method, path: (200, {"api": 1, "tunnels": {}})},
            marks=pytest.mark.variation,
        ),
        ("bad_answer", {"instead": lambda method, path: b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n}}}"}),
        pytest.param("bad_answer", {"instead": lambda method, path: (500, {})}, marks=pytest.mark.variation),
        ("bad_answer", {"instead": lambda method, path: (503, {"code": "failed", "detail": "see root.service"})}),
        pytest.param(
            "bad_answer",
            {"instead": lambda method, path: (503, {"code": "unanswered", "detail": "see root.service"})},
            marks=pytest.mark.variation,
        ),
        pytest.param("version_older", {"instead": lambda method, path: (404, {})}, marks=pytest.mark.variation),
    ],
)
def test_each_problem_has_its_sentence_and_ends(
    panel: ManagedPanel, code: str, wrong: dict[str, Any], shared: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    node = shared.first
    right = {name: getattr(node, name) for name in wrong}
    for name, value in wrong.items():
        setattr(node, name, value)
    until(lambda: panel.problem(node) == code)
    detail = panel.service(node)["problem"]["detail"]
    assert detail.startswith(f"{node.name!r} at '127.0.0.1' port {node.port}")
    assert ("see root.service" in detail) == ("root.service" in str(node.instead("GET", "/api/tunnels")))
    assert panel.problem(shared.second) is None
    said = detail[: detail.index(" s ahead") - 3] if code == "clock_wrong" else detail  # its seconds go on
    until(lambda: any(line.startswith(f"marzban_tunnels: {said}") for line in caplog.messages))
    kept = panel.manager._watches[node.uuid].problem
    assert kept is not None
    assert (kept.__traceback__, kept.__context__) == (None, None), "frames hold the node's answer"
    for name, value in right.items():
        setattr(node, name, value)
    until(lambda: panel.problem(node) is None)
    until(lambda: f"marzban_tunnels: {node.name!r} at '127.0.0.1' port {node.port}: works again" in caplog.messages)


@pytest.fixture(scope="module")
def shared(panel: ManagedPanel, nodes: Nodes) -> Pair:
    return Pair(panel, nodes, "shared")


def test_a_tunnel_that_a_node_refuses_says_why_and_is_not_sent_all_the_time(pair: Pair) -> None:
    refusal = {"detail": {"tunnel.config": "mtu: 7 is too small"}}
    pair.first.instead = lambda method, path: (422, refusal) if method == "POST" else None
    config = json.loads(pair.sees()["config"]) | {"mtu": 1400}
    pair.call("PUT", "", {"config": json.dumps(config)})

    def end() -> Any:
        return next(end for end in pair.sees()["ends"] if end["node"] == pair.first.name)

    until(lambda: end()["status"] == "error")
    assert "mtu: 7 is too small" in end()["error"]
    assert pair.panel.problem(pair.first) is None
    sent = len(pair.first.wrote())
    asked = len(pair.first.requests)
    until(lambda: len(pair.first.requests) > asked + 10)
    assert len(pair.first.wrote()) - sent <= 6
    pair.first.instead = lambda method, path: None
    until(lambda: pair.sees()["status"] == "active")


def test_a_tunnel_that_a_node_can_not_do_holds_up_no_other(pair: Pair) -> None:
    pair.first.fails.add(pair.tunnel["uuid"])
    pair.call("PUT", "", {"name": "too much"})
    until(lambda: "the disk is full" in str(told(pair, pair.tunnel, pair.first)["error"]))
    other = pair.make()
    until(lambda: pair.agree(other))
    assert pair.panel.problem(pair.first) is None
    pair.call("DELETE")
    until(lambda: pair.panel.problem(pair.first) == "bad_answer")
    assert "the disk is full" in pair.panel.service(pair.first)["problem"]["detail"]
    pair.panel.api.send("DELETE", f"/api/tunnels/{other['id']}")
    until(lambda: other["uuid"] not in pair.first.tunnels)
    pair.first.fails.clear()
    until(lambda: not pair.first.tunnels)
    until(lambda: pair.panel.problem(pair.first) is None)


def test_what_was_changed_just_now_does_not_wait_behind_the_rest(pair: Pair) -> None:
    last = [pair.make() for _ in range(5)][-1]
    until(lambda: pair.agree(last))
    until(settled(pair))
    pair.first.down()
    for held in pair.first.tunnels.values():
        held["revision"] = None  # as after a run
    pair.first.posted.clear()
    pair.first.slow = 0.4
    pair.first.up()
    until(lambda: pair.first.posted)
    pair.panel.api.send("POST", f"/api/tunnels/{last['id']}/deactivate")
    until(lambda: (last["uuid"], False) in pair.first.posted)
    assert len(pair.first.posted) < 5
    until(lambda: all(held["revision"] for held in pair.first.tunnels.values()))


def test_slow_work_is_looked_at_again(panel: ManagedPanel, nodes: Nodes) -> None:
    first, second = nodes.add("slow-1"), nodes.add("slow-2")
    first.doing = second.doing = 0.3
    for node in (first, second):
        panel.node(node)
    tunnel = panel.tunnel(first, second)
    until(lambda: panel.api.send("GET", f"/api/tunnels/{tunnel['id']}")["status"] == "active")
    assert len(first.wrote()) <= 3  # its key first, then the peer's


def test_one_dead_node_delays_no_other(pair: Pair) -> None:
    pair.second.slow = 30.0
    until(lambda: pair.panel.problem(pair.second) == "timed_out")
    other = pair.make()
    until(lambda: other["uuid"] in pair.first.tunnels, 0.9)
    pair.second.slow = 0.0
    until(lambda: pair.agree(other))


def test_a_node_that_hangs_holds_up_a_status_for_two_seconds(database: Path, nodes: Nodes) -> None:
    with ManagedPanel(database, pace=replace(FAST, call=60.0)) as panel:
        pair = Pair(panel, nodes, "hangs")
        until(lambda: pair.sees()["status"] == "active")
        pair.first.slow = 60.0
        begun = time.monotonic()
        assert pair.call("GET", "/status")["status"] == "active"
        assert LONGEST_ASKING <= time.monotonic() - begun < 2 * LONGEST_ASKING


def test_a_tunnel_whose_nodes_are_cut_off_is_not_active_much_longer(database: Path, nodes: Nodes) -> None:
    """Nothing is written, and no node answers anything new: who has the list is sent it again all the same."""
    with ManagedPanel(database) as panel:
        pair = Pair(panel, nodes, "cut")
        until(lambda: pair.sees()["status"] == "active")
        for node in (pair.first, pair.second):
            node.age = STALE_BY_SERVICE - 1.0
        until(lambda: all(end["age"] >= STALE_BY_SERVICE - 1 for end in pair.sees()["ends"]))
        for node in (pair.first, pair.second):
            node.down()
        until(lambda: panel.problem(pair.first) == "refused" == panel.problem(pair.second))
        answer = panel.api.bare("GET", "/api/tunnels")
        assert [(tunnel["status"], tunnel["stale"]) for tunnel in answer.json()] == [("active", False)]
        tag = {"If-None-Match": answer.headers["ETag"]}

        def newer() -> Any:
            found = panel.api.bare("GET", "/api/tunnels", headers=tag)
            return found.json() if found.status_code == 200 else None

        (tunnel,) = until(newer, 5)
        for told in (tunnel, pair.sees(), pair.call("GET", "/status")):
            assert (told["status"], told["stale"]) == ("connecting", True)


def state(panel: ManagedPanel) -> Any:
    return panel.api.send("GET", "/api/tunnels/nodes")["manager"]["state"]


def fine(panel: ManagedPanel, node: SimulatedNode) -> bool:
    return panel.problem(node) is None


def copied(database: Path, to: Path) -> Path:
    """A backup of a database that is in use."""
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(to)) as target:
        source.backup(target)
    return to


def test_a_restored_database_changes_nothing_until_it_is_confirmed(
    database: Path, nodes: Nodes, caplog: pytest.LogCaptureFixture
) -> None:
    with ManagedPanel(database) as panel:
        pair = Pair(panel, nodes, "restored")
        backup = copied(database, database.with_name("backup.db"))
        later = pair.make()
        until(lambda: pair.agree(later))
        pair.call("DELETE")
        until(lambda: list(pair.first.tunnels) == [later["uuid"]] == list(pair.second.tunnels))
    copied(backup, database)
    with ManagedPanel(database) as panel:
        pair.panel = panel
        until(lambda: panel.problem(pair.first) == "older_database" == panel.problem(pair.second))
        until(settled(pair))
        for node in (pair.first, pair.second):
            assert f"marzban_tunnels: {panel.service(node)['problem']['detail']}" in caplog.messages
        assert list(pair.first.tunnels) == [later["uuid"]]
        for node, node_id in zip((pair.first, pair.second), pair.ids, strict=True):
            panel.api.send("POST", f"/api/tunnels/nodes/{node_id}/confirm", {"database": True})
            until(partial(fine, panel, node))
        until(lambda: pair.tunnel["uuid"] in pair.first.tunnels and pair.tunnel["uuid"] in pair.second.tunnels)
        assert [item["uuid"] for item in panel.service(pair.first)["orphans"]] == [later["uuid"]]
        assert later["uuid"] in pair.first.tunnels


def test_a_copy_that_hit_the_same_number_is_noticed(database: Path, nodes: Nodes) -> None:
    with ManagedPanel(database) as panel:
        pair = Pair(panel, nodes, "twice")
        until(settled(pair))
    with ManagedPanel(database) as panel:  # started again it is the same panel
        for node in (pair.first, pair.second):
            panel.node(node, publish=False)
        other = panel.tunnel(pair.first, pair.second)
        until(lambda: pair.agree(other))
        assert [panel.problem(node) for node in (pair.first, pair.second)] == [None, None]
        pair.first.epoch = "0123456789abcdef"  # what a copy of the database would have sent, with an equal number
        until(lambda: panel.problem(pair.first) == "older_database")
        panel.api.send("DELETE", f"/api/tunnels/{other['id']}")
        until(lambda: other["uuid"] not in pair.second.tunnels)
        assert other["uuid"] in pair.first.tunnels
        panel.api.send("POST", f"/api/tunnels/nodes/{pair.ids[0]}/confirm", {"database": True})
        until(lambda: other["uuid"] not in pair.first.tunnels)
        until(lambda: panel.problem(pair.first) is None)


def test_a_node_that_was_set_back_is_repaired(pair: Pair) -> None:
    until(settled(pair))
    pair.call("PUT", "", {"name": "later"})
    until(lambda: pair.first.tunnels[pair.tunnel["uuid"]]["tunnel"]["name"] == "later")
    until(settled(pair))
    pair.first.counter, pair.first.epoch = 0, "0123456789abcdef"  # its epoch of then is not known any more
    pair.first.tunnels[pair.tunnel["uuid"]]["revision"] = "earlier"
    until(lambda: pair.first.tunnels[pair.tunnel["uuid"]]["revision"] != "earlier")
    until(settled(pair))
    assert pair.panel.problem(pair.first) is None


def test_a_restart_in_the_middle_loses_nothing(database: Path, nodes: Nodes) -> None:
    with ManagedPanel(database) as panel:
        pair = Pair(panel, nodes, "restart")
        pair.first.down()
        pair.second.down()
        other = pair.make()
        pair.call("DELETE")
    pair.first.up()
    pair.second.up()
    with ManagedPanel(database):
        until(lambda: pair.agree(other))
        until(lambda: list(pair.first.tunnels) == [other["uuid"]] == list(pair.second.tunnels))


def test_a_copy_of_the_panel_beside_it_waits(database: Path, nodes: Nodes) -> None:
    with ManagedPanel(database) as panel, ManagedPanel(database) as copy:
        pair = Pair(panel, nodes, "copy")
        until(lambda: sorted(state(one) for one in (panel, copy)) == ["elsewhere", "on"])
        if state(copy) == "on":
            panel, copy = copy, panel
        for node in (pair.first, pair.second):
            copy.node(node, publish=False)
        other = copy.tunnel(pair.first, pair.second)  # each serves requests
        until(lambda: pair.agree(other))
        panel.manager.stop()
        until(lambda: state(copy) == "on")
        copy.api.send("DELETE", f"/api/tunnels/{other['id']}")
        until(lambda: other["uuid"] not in pair.first.tunnels)


def test_a_node_behind_two_panels_shows_each_its_own(panel: ManagedPanel, pair: Pair) -> None:
    pair.first.panel = "another"  # a mistake, or an attack: its answer is for somebody else
    until(lambda: panel.problem(pair.first) == "bad_answer")
    pair.first.panel = panel.manager.panel_id
    until(lambda: panel.problem(pair.first) is None)


@pytest.mark.parametrize(
    ("secret", "words"),
    [
        (None, "is not set"),
        ("", "empty"),
        pytest.param("0123456789abcdef", "at least 32", marks=pytest.mark.variation),
        pytest.param("your-secret-key", "example", marks=pytest.mark.variation),
    ],
)
def test_without_a_key_the_manager_alone_is_off(
    database: Path, secret: str | None, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    with ManagedPanel(database, secret) as panel:
        state = panel.api.send("GET", "/api/tunnels/nodes")["manager"]
        assert state["state"] == "off"
        assert words in state["detail"]
        made = [panel.api.node() for _ in range(2)]
        assert panel.api.tunnel(*made)["status"] == "connecting"
    warned = [line for line in caplog.messages if "the manager is off" in line]
    assert warned == ([] if secret is None else [f"marzban_tunnels: the manager is off: {state['detail']}"])


@pytest.mark.parametrize("again", ["first", pytest.param("second", marks=pytest.mark.variation)])
def test_two_nodes_that_are_copies_of_each_other_are_told_so(pair: Pair, again: str) -> None:
    first, second = pair.first, pair.second
    second.down()
    tunnel = pair.make()
    until(lambda: tunnel["uuid"] in first.tunnels)
    own = first.tunnels[tunnel["uuid"]]["public_key"]
    until(lambda: public(pair, tunnel, first) == own)
    second.tunnels[tunnel["uuid"]] = {**first.tunnels[tunnel["uuid"]], "revision": "old"}
    second.up()
    until(lambda: "copies of each other" in str(told(pair, tunnel, second)["error"]))
    node = getattr(pair, again)
    made = key()["public_key"]
    node.tunnels[tunnel["uuid"]]["public_key"] = made  # somebody made a new one, at either end
    if again == "first":  # its key is known
        until(lambda: [item["seen"] for item in pair.panel.service(first)["changed_keys"]] == [made])
        body = {"tunnel_id": tunnel["id"], "public_key": made}
        pair.panel.api.send("POST", f"/api/tunnels/nodes/{pair.ids[0]}/confirm", body)
    until(lambda: public(pair, tunnel, second) == second.tunnels[tunnel["uuid"]]["public_key"])
    until(lambda: pair.agree(tunnel))
    until(lambda: told(pair, tunnel, second)["status"] == "active")


def told(pair: Pair, tunnel: Any, node: SimulatedNode) -> Any:
    ends = pair.panel.api.send("GET", f"/api/tunnels/{tunnel['id']}")["ends"]
    return next(end for end in ends if end["node"] == node.name)


def public(pair: Pair, tunnel: Any, node: SimulatedNode) -> Any:
    return (told(pair, tunnel, node)["public"] or {}).get("public_key")


def test_a_list_with_the_same_tag_is_as_stale_as_it_says(
    database: Path, nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers are sent again after half a minute, as by a real panel; only when an end becomes stale is shorter."""
    for module in (responses, watch):
        monkeypatch.setattr(module, "STALE_BY_SERVICE", 1)
    known: dict[str, Any] = {}

    def read() -> tuple[int, list[bool]]:
        """As a client does that keeps what it has while the panel says that it is still so."""
        answer = running.api.bare("GET", "/api/tunnels", headers={"If-None-Match": known.get("tag", "")})
        if answer.status_code == 200:
            known.update(tag=answer.headers["ETag"], records=answer.json())
        return answer.status_code, [end["stale"] for record in known["records"] for end in record["ends"]]

    with ManagedPanel(database, pace=replace(FAST, measured=30.0)) as running:
        pair = Pair(running, nodes, "told")
        until(lambda: read() == (304, [False, False]))
        until(settled(pair))
        for node, stale in ((pair.first, [True, False]), (pair.second, [True, True])):
            node.down()
            until(lambda: read() == (304, stale))  # noqa: B023
        pair.first.up()
        until(lambda: read() == (304, [False, True]))
        asked = len(pair.first.requests)
        until(lambda: len(pair.first.requests) > asked + 10)
        assert read() == (304, [False, True]), "what is measured again is not sent at once"
    with ManagedPanel(database, None) as running:  # nobody asks the nodes any more
        assert read() == (200, [True, True])


def test_the_key_of_the_other_end_is_never_accepted(pair: Pair) -> None:
    held = pair.first.tunnels[pair.tunnel["uuid"]]
    held["public_key"] = pair.second.tunnels[pair.tunnel["uuid"]]["public_key"]  # a copy of the other node
    until(lambda: pair.panel.service(pair.first)["changed_keys"])
    body = {"tunnel_id": pair.tunnel["id"], "public_key": held["public_key"]}
    refused = pair.panel.api.refused("POST", f"/api/tunnels/nodes/{pair.ids[0]}/confirm", body, 409)
    assert "copies of each other" in refused
