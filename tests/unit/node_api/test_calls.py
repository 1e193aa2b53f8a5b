# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the root half answers about tunnels that are off, or gone: the real one, on a host that does nothing."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.marzban.tunnels.plugins.module_utils._node.host import Host
from ansible_collections.marzban.tunnels.plugins.module_utils._node.kept import Kept
from ansible_collections.marzban.tunnels.plugins.module_utils._node.state import Folders, new_state
from marzban_node import calls as calls_module
from marzban_node import engine as engine_module
from marzban_node.board import Board
from marzban_node.calls import Calls
from marzban_node.engine import Engine, Settings
from marzban_node.panels import Panels
from marzban_node.work import Worker
from tests.support import hostile_requests, records, views
from tests.support.node_document import check
from tests.support.world import until

OURS, OTHER = views.PANEL, "0d1f3b52-7c9e-4c8e-9b0f-3a2d5e6f7a81"
UUID, NEVER = views.UUID, "1b4e28ba-2fa1-41d2-883f-00000000ffff"
DIGEST = "0" * 16


class Deaf(Host):
    """FAKE host, whose commands say nothing."""

    def prefetch(self, *commands: Any) -> None:
        pass

    def _run(self, *args: Any, **more: Any) -> str:
        return ""


class Node:
    """The root half in a folder, with two panels."""

    def __init__(self, place: Path) -> None:
        for folder in ("panels", "kept"):
            (place / folder).mkdir()
        for panel in (OURS, OTHER):
            raw = {"panel": panel, "node": NEVER, "hashes": [hashlib.sha256(panel.encode()).hexdigest()]}
            (place / f"panels/{panel}.json").write_text(json.dumps(raw))
        self.folders = Folders(str(place / "tunnels"))
        self.kept = Kept(str(place / "kept"))
        settings = Settings(str(place), DIGEST, self.folders.root, "auto", "auto", ("wireguard",))
        self.place, self.board = place, Board()
        engine, board = Engine(settings, self.kept), self.board
        self.worker = Worker(engine, board, threading.Event())
        self.worker.start()
        panels = Panels(str(place / "panels"), str(place / "kept/counters.json"))
        self._calls, self.counter = Calls(engine, board, panels, self.worker), 0

    def call(self, call: str, panel: str = OURS, **more: Any) -> tuple[int, dict[str, Any]]:
        self.counter += 1
        return self.ask({"call": call, "counter": self.counter, **more}, panel)

    def ask(self, request: dict[str, Any], panel: str = OURS) -> tuple[int, dict[str, Any]]:
        status, body = self._calls.answer({"key": panel, **request})
        check(request["call"], status, body)
        return status, body

    def delete(self, given: object, panel: str = OURS) -> tuple[int, str]:
        status, body = self.call("delete", panel, id=given)
        return status, body.get("message") or body["code"]

    def post(self, **more: Any) -> tuple[int, dict[str, Any]]:
        record = records.tunnel(is_active=False, **more)
        body = {"panel": OURS, "node": "de-1", "counter": self.counter + 1, "tunnel": record}
        return self.call("post", body=body)

    def make(self, **state: Any) -> None:
        """What a run has left that came before the service: a tunnel that is off."""
        made: Any = {**new_state(views.view()), **state}
        self.folders.write_state(made)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    monkeypatch.setattr(engine_module, "Host", Deaf)
    node = Node(tmp_path)
    yield node
    node.worker.end()
    node.worker.join()


def test_what_is_gone_was_removed_before_and_what_was_never_here_is_unknown(node: Node) -> None:
    number = views.view()["id"]
    node.make()
    assert node.delete(number, OTHER) == node.delete(UUID, OTHER) == (404, "unknown")
    assert node.delete(number) == (200, "removed")
    for given in (UUID, number, str(number)):
        assert node.delete(given) == (200, "was removed before")
        assert node.delete(given, OTHER) == (404, "unknown"), "it was another panel's"
        assert node.delete(given) == (200, "was removed before"), "another panel has asked for it"
    for _time in range(2):
        assert node.delete(NEVER) == node.delete(9) == (404, "unknown"), "a call is not a tunnel"
    assert node.kept.removals()[NEVER].version is None, "a run may make it that has read it before"


@pytest.mark.parametrize("state", [{}, {"node": None}, {"interface": "mz3", "peer": {"node": "fi-1"}}])
def test_what_a_run_made_before_the_service_came_is_told_as_documented(node: Node, state: dict[str, Any]) -> None:
    node.make(**state)  # ``call`` compares each answer with the document
    told = node.call("status", id=UUID)[1]
    assert node.call("list")[1]["tunnels"] == [told]
    assert (told["role"], told["status"], told["active"]) == (None, "connecting", "interface" in state)


def test_what_a_run_makes_while_the_call_is_read_is_removed(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at what is here and the removal."""
    counted = Panels.count

    def count(*given: Any) -> None:
        counted(*given)
        node.make()

    monkeypatch.setattr(Panels, "count", count)
    assert node.delete(UUID) == (200, "removed")
    assert node.folders.uuids() == []


def test_a_removal_that_was_written_without_a_panel_counts(node: Node) -> None:
    (Path(node.kept.place) / "removed.json").write_text(json.dumps({UUID: [time.time(), 4]}))
    assert node.delete(UUID) == (200, "was removed before")


def test_slow_work_is_told_to_go_on(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here it is slow because another one has the lock of this host."""
    monkeypatch.setattr(calls_module, "WAIT", 0.05)
    number = records.tunnel()["id"]
    with node.folders.locked():
        status, body = node.post()
        assert (status, body["doing"]) == (202, True)
        assert node.call("status", id=number)[1]["doing"]
    until("it is done", lambda: not node.call("status", id=number)[1]["doing"], 10)
    assert node.call("status", id=number)[1]["status"] == "inactive"
    with node.folders.locked():
        assert node.delete(number) == (202, "is being removed")
        assert node.delete(NEVER) == (202, "is being removed"), "a run may be making it"
    until("it is gone", lambda: node.call("status", id=number)[0] == 404, 10)
    until("a call about what was never here has ended", lambda: node.delete(NEVER) == (404, "unknown"), 10)


def test_a_list_comes_when_there_is_news(node: Node) -> None:
    assert node.post()[0] == 200
    known = node.call("list")[1]["news"]
    begun = time.monotonic()
    assert node.call("list", after=known, wait=0.2)[1]["news"] == known
    assert time.monotonic() - begun >= 0.2
    for key, status in ((OTHER, 200), ("w" * 43, 403)):
        before = time.monotonic()
        assert node.ask({"call": "list", "after": "old", "wait": 20}, key)[0] == status
        assert time.monotonic() - before < 3
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(node.ask, {"call": "list", "after": known, "wait": 20})
        until("it waits", lambda: node.board.latest._waiting[OURS])
        assert node.delete(records.tunnel()["id"]) == (200, "removed"), "who waits holds up no other call"
        status, told = waiting.result(5)
        assert (status, told["news"] != known) == (200, True)
        until("nothing goes on", lambda: node.call("list")[1]["tunnels"] == [])
        known = node.call("list")[1]["news"]
        waiting = pool.submit(node.ask, {"call": "list", "after": known, "wait": 20})
        until("it waits", lambda: node.board.latest._waiting[OURS])
        (node.place / f"panels/{OURS}.json").unlink()
        node.board.latest.tell([OURS])
        assert waiting.result(5)[0] == 403, "its key was revoked meanwhile"


def test_hostile_requests_are_refused_and_leave_no_file(node: Node, tmp_path: Path) -> None:
    """What the front would never let pass; on a host in test_service_hosts.py."""

    def body(record: dict[str, Any]) -> dict[str, Any]:
        node.counter += 1
        return {"panel": OURS, "node": "de-1", "counter": node.counter, "revision": "r", "tunnel": record}

    for request in hostile_requests.calls(records.tunnel, body):
        status, told = node.ask(request)
        assert 400 <= status < 500, (status, told, str(request)[:300])
        json.dumps(told).encode()
    left = {str(path.relative_to(tmp_path)).partition("/")[0] for path in tmp_path.rglob("*")}
    assert left == {"panels", "kept"}
    assert not list((tmp_path / "kept/views").glob("*")), "one was taken"
