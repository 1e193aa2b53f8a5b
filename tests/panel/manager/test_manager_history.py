# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The history of a real panel process's parts: manager, feed, recorder and API, with simulated nodes."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from marzban_tunnels.tables import Panel
from tests.support.managed_pair import Pair
from tests.support.managed_panel import ManagedPanel, until
from tests.support.simulated_node import Nodes


def test_what_a_node_reports_is_in_the_history(
    panel: ManagedPanel, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    tunnel, node = pair.tunnel, pair.second

    def history() -> Any:
        return pair.call("GET", "/history")

    until(lambda: history()["status"] == "active" == history()["changes"][-1]["status"])
    assert [change["status"] for change in history()["changes"]] == ["connecting", "active"]
    assert history()["since"] == history()["changes"][-1]["at"] == pair.sees()["since"]
    usual, broken = node.told, {"status": "error", "error": "no answer to the probe"}
    monkeypatch.setattr(node, "told", lambda uuid: usual(uuid) | broken)
    until(lambda: history()["changes"][-1]["error"] == "no answer to the probe")
    seen = until(lambda: (found := pair.sees())["since"] == history()["changes"][-1]["at"] and found)
    assert seen["status"] == "error"
    # What the feed hands to others has it too, without another write that all would read the list for
    feed = panel.events.feed

    def kept() -> Any:
        return feed._known.kept.records[tunnel["id"]]

    until(lambda: (kept()["status"], kept()["since"]) == ("error", seen["since"]))
    with panel.engine.connect() as connection:
        writes = connection.execute(select(Panel.writes)).scalar_one()
    pair.call("POST", "/deactivate")
    until(lambda: pair.sees()["since"] is not None and history()["changes"][-1]["status"] == "inactive")
    with panel.engine.connect() as connection:
        assert connection.execute(select(Panel.writes)).scalar_one() - writes <= 3
    statuses = [change["status"] for change in history()["changes"]]
    assert statuses == ["connecting", "active", "error", "inactive"], "each once"


def test_a_panel_that_ends_writes_its_sums(database: Path, nodes: Nodes) -> None:
    """Before the first minute is over."""
    with ManagedPanel(database) as panel:
        pair = Pair(panel, nodes, "ends")
        begun = until(lambda: pair.sees()["status"] == "active" and time.monotonic())
        until(lambda: time.monotonic() > begun + 2)
        assert pair.call("GET", "/history")["day"]["rows"] == []
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT up, down FROM tunnel_sums WHERE up > 0").fetchall()
