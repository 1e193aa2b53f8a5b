# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""What a node says by itself: on a panel that would ask it so seldom that a test would not see it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from marzban_tunnels.manager.ear import Ear
from marzban_tunnels.manager.problems import Place, refused
from tests.support.managed_pair import Pair, copied, told
from tests.support.managed_panel import FAST, ManagedPanel, until
from tests.support.simulated_node import Nodes, SimulatedNode

BUSY = 3  # times as long it may take here, where other tests share the machine
SELDOM = replace(FAST, poll=60.0, listen=6.0, silent=60.0, settling=0.0)


@pytest.fixture(scope="module")
def panel(tables: Path) -> Iterator[ManagedPanel]:
    with ManagedPanel(copied(tables, tables.with_name("seldom.db")), pace=SELDOM) as panel:
        yield panel


@pytest.fixture(scope="module")
def pair(panel: ManagedPanel, nodes: Nodes) -> Pair:
    return Pair(panel, nodes, "heard")


def rests(node: SimulatedNode) -> bool:
    return node.listening == 1


def measures(node: SimulatedNode, number: int) -> None:
    """Something that was not seen before."""
    node.measured = {"rx_bytes": number}
    node.look()


def sees(pair: Pair, node: SimulatedNode, number: int) -> Callable[[], bool]:
    return lambda: (told(pair, pair.tunnel, node)["measured"] or {}).get("rx_bytes") == number


def test_what_a_node_has_measured_is_here_at_once_and_nobody_asks(pair: Pair) -> None:
    for node in (pair.first, pair.second):
        until(lambda: rests(node))  # noqa: B023
    requests = len(pair.first.requests) - pair.first.listened
    for number in range(5):
        begun = time.monotonic()
        measures(pair.first, number)
        until(sees(pair, pair.first, number))
        assert time.monotonic() - begun < 0.5 * BUSY
    assert len(pair.first.requests) - pair.first.listened == requests
    assert pair.panel.service(pair.first)["contact_age"] <= 1
    assert pair.panel.service(pair.second)["contact_age"] <= SELDOM.listen + BUSY


def test_a_change_does_not_wait_for_news_nor_take_a_new_connection(pair: Pair) -> None:
    until(lambda: rests(pair.first))
    pair.call("PUT", "", {"name": "first"})
    until(lambda: pair.first.tunnels[pair.tunnel["uuid"]]["tunnel"]["name"] == "first")
    connections = pair.first.connections
    for number in range(3):
        until(lambda: rests(pair.first))
        begun = time.monotonic()
        pair.call("PUT", "", {"name": f"t{number}"})
        until(lambda: pair.first.tunnels[pair.tunnel["uuid"]]["tunnel"]["name"] == f"t{number}")  # noqa: B023
        assert time.monotonic() - begun < BUSY
        assert pair.call("GET", "/status")["status"] == "active"
    assert pair.first.connections == connections
    measures(pair.first, 20)
    until(sees(pair, pair.first, 20), BUSY)


def test_a_node_that_starts_again_is_heard_again(pair: Pair) -> None:
    until(lambda: rests(pair.first))
    pair.first.restart()
    until(lambda: rests(pair.first), 2 * BUSY)
    measures(pair.first, 30)
    until(sees(pair, pair.first, 30), BUSY)
    assert pair.panel.problem(pair.first) is None
    pair.first.down()
    until(lambda: pair.panel.problem(pair.first) == "refused", BUSY)  # not only when it would have been asked
    pair.first.up()
    until(lambda: rests(pair.first), 3 * BUSY)
    assert pair.panel.problem(pair.first) is None


def test_who_listens_shows_the_key_of_now(pair: Pair) -> None:
    until(lambda: rests(pair.first))
    connections = pair.first.connections
    pair.panel.api.send("POST", f"/api/tunnels/nodes/{pair.ids[0]}/revoke")
    until(lambda: pair.first.connections > connections, BUSY)
    until(lambda: rests(pair.first), BUSY)
    del pair.first.hashes[0]  # it has known the next key all the time
    measures(pair.first, 40)
    until(sees(pair, pair.first, 40), BUSY)
    assert (pair.panel.problem(pair.first), rests(pair.second)) == (None, True)


def test_a_node_that_always_has_news_is_not_heard_all_the_time(pair: Pair) -> None:
    until(lambda: rests(pair.second))
    before, end = pair.second.listened, threading.Event()

    def chatter() -> None:
        while not end.wait(0.005):
            pair.second.look()

    talking = threading.Thread(target=chatter)
    talking.start()
    time.sleep(3)  # what is counted is what happens in this time
    end.set()
    talking.join()
    assert 3 <= pair.second.listened - before <= 8
    until(lambda: rests(pair.second), BUSY)


@pytest.mark.parametrize("kind", ["old", "deaf"])
def test_a_node_that_can_not_be_listened_to_is_asked(nodes: Nodes, database: Path, kind: str) -> None:
    """An older service; and one that never answers who listens."""
    with ManagedPanel(database) as panel:
        pair = Pair(panel, nodes, kind)
        until(lambda: pair.first.listened)
        setattr(pair.first, kind, True)
        until(lambda: pair.first.listening or panel.manager._watches[pair.first.uuid]._news is None)
        listened = pair.first.listened
        for number in range(4):
            measures(pair.first, number)
            until(sees(pair, pair.first, number), BUSY)
            assert panel.problem(pair.first) is None
        assert pair.first.listened - listened <= (0 if kind == "old" else 3)
        setattr(pair.first, kind, False)
        until(lambda: pair.first.listened > listened + 3)


def test_the_panel_ends_at_once_and_so_does_a_manager_without_its_lease(nodes: Nodes, database: Path) -> None:
    with ManagedPanel(database, pace=SELDOM) as panel:
        many = [nodes.add(f"many-{number}", shared=True) for number in range(50)]
        for node in many:
            panel.api.node(name=node.name, address=node.address)
        access = panel.api.send("POST", "/api/tunnels/nodes/access", {"nodes": [node.name for node in many]})
        by_name = {item["node"]: item for item in access["nodes"]}
        for node in many:
            node.allow(by_name[node.name], access["panel"])
        items = [{"node": node.name, "uuid": node.uuid, "port": node.port, "pin": node.pin} for node in many]
        panel.api.send("PUT", "/api/tunnels/nodes", {"nodes": items})
        until(lambda: all(rests(node) for node in many), 5 * BUSY)
        with closing(panel._database.engine.connect()) as connection:
            connection.execute(text("UPDATE tunnel_panel SET lease_holder = 'another'"))
            connection.commit()
        until(lambda: not any(node._writers for node in many))
        until(lambda: all(rests(node) for node in many), 5 * BUSY)  # the other one gave no sign of life
        begun = time.monotonic()
        panel.manager.stop(20)
        assert time.monotonic() - begun < 0.5 * BUSY
        until(lambda: not any(node._writers for node in many))


class FakeClient:
    """FAKE: it answers what the test puts in."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.answers: asyncio.Queue[Any] = asyncio.Queue()

    async def call(self, method: str, path: str) -> Any:
        self.paths.append(path)
        answer = await self.answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        pass


def test_what_was_asked_before_a_visit_is_older_than_the_visit() -> None:
    async def hearing() -> None:
        client: Any = FakeClient()
        heard = asyncio.Event()
        ear = Ear(client, SELDOM, heard.set)
        ear.start()
        ear.listen("a-1", 0)
        await asyncio.sleep(0.05)
        assert ear.take() is None, "a visit, in the middle"
        client.answers.put_nowait((200, "older"))
        ear.listen("a-2", 0)
        await asyncio.sleep(0.3)
        assert (heard.is_set(), client.paths) == (False, [f"/api/tunnels?after=a-{n}&wait=6" for n in (1, 2)])
        client.answers.put_nowait((200, "newer"))
        await asyncio.wait_for(heard.wait(), 2)
        assert (ear.take(), ear.take()) == ("newer", None)
        heard.clear()
        ear.listen("a-3", 0)
        client.answers.put_nowait(refused()(Place("de-1", "192.0.2.1", 1)))
        await asyncio.wait_for(heard.wait(), 2)
        assert (ear.take(), ear.failures) == (None, 1), "the watch asks, and says what is wrong"
        await ear.end()

    asyncio.run(hearing())
