# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""A panel's writes at the root half: they are done in their order, and to nothing that is another panel's."""

from __future__ import annotations

import hashlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.marzban.tunnels.plugins.module_utils._node.kept import Kept
from marzban_node import calls as calls_module
from marzban_node.board import Board
from marzban_node.calls import Answer, Calls
from marzban_node.engine import Engine, Settings
from marzban_node.panels import Panels
from marzban_node.work import Worker
from tests.support import records

OURS, OTHER = "0d1f3b52-7c9e-4c8e-9b0f-3a2d5e6f7a81", "9d1f3b52-7c9e-4c8e-9b0f-3a2d5e6f7a89"
RECORD = records.tunnel()


class Node:
    """The root half of a node with two panels, whose worker does not begin."""

    def __init__(self, place: Path) -> None:
        for panel in (OURS, OTHER):
            told = {"panel": panel, "node": RECORD["uuid"], "hashes": [hashlib.sha256(panel.encode()).hexdigest()]}
            (place / f"{panel}.json").write_text(json.dumps(told))
        self.kept = Kept(str(place))
        settings = Settings(str(place), "0" * 16, str(place / "tunnels"), "auto", "auto", ("wireguard",))
        engine, board = Engine(settings, self.kept), Board()
        self.worker = Worker(engine, board, threading.Event())
        self._calls = Calls(engine, board, Panels(str(place), str(place / "counters")), self.worker)

    def post(self, counter: int, panel: str = OURS) -> Answer:
        body = {"panel": panel, "node": "de-1", "counter": counter, "tunnel": RECORD}
        return self._calls.answer({"call": "post", "key": panel, "body": body})

    def delete(self, counter: int) -> Answer:
        return self._calls.answer({"call": "delete", "key": OURS, "id": RECORD["uuid"], "counter": counter})


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setattr(calls_module, "WAIT", 0)
    return Node(tmp_path)


def test_a_removal_does_not_overtake_the_post_before_it(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is slow, so that the panel has given up its POST and sends what comes after it."""
    stalled, goes_on, keep = threading.Event(), threading.Event(), node.kept.keep

    def slowly(views: Any) -> None:
        stalled.set()
        assert goes_on.wait(10)
        keep(views)

    monkeypatch.setattr(node.kept, "keep", slowly)
    with ThreadPoolExecutor() as pool:
        post = pool.submit(node.post, 1)
        assert stalled.wait(10)
        delete = pool.submit(node.delete, 2)
        wait([delete], 0.2)
        goes_on.set()
        assert (post.result()[0], delete.result()[0]) == (202, 202)
    jobs = [node.worker._jobs.get() for _job in range(node.worker._jobs.qsize())]
    assert [job.wanted is None for job in jobs if job] == [False, True]


def test_a_record_of_another_panel_is_not_replaced_while_that_panel_is_served(node: Node, tmp_path: Path) -> None:
    """Nothing of it runs yet: it waits for its turn, or was refused."""
    assert node.post(1)[0] == 202
    kept = node.kept.view(RECORD["uuid"])
    status, told = node.post(1, OTHER)
    assert (status, told["code"]) == (409, "foreign")
    assert node.kept.view(RECORD["uuid"]) == kept
    assert node.post(2)[0] == 202
    (tmp_path / f"{OURS}.json").unlink()
    assert node.post(2, OTHER)[0] == 202
