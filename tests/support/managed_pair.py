# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Two simulated nodes and a tunnel between them, on a panel whose manager sees to them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.support.managed_panel import ManagedPanel, until
from tests.support.simulated_node import Nodes, SimulatedNode


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


def settled(pair: Pair) -> Callable[[], bool]:
    """Nothing is to be done: both nodes were asked twice more, and told nothing."""
    counts = {node.name: len(node.requests) for node in (pair.first, pair.second)}
    writes = len(pair.first.wrote() + pair.second.wrote())

    def check() -> bool:
        assert len(pair.first.wrote() + pair.second.wrote()) == writes
        return all(len(node.requests) >= counts[node.name] + 3 for node in (pair.first, pair.second))

    return check


def copied(database: Path, to: Path) -> Path:
    """A backup of a database that is in use."""
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(to)) as target:
        source.backup(target)
    return to


def told(pair: Pair, tunnel: Any, node: SimulatedNode) -> Any:
    ends = pair.panel.api.send("GET", f"/api/tunnels/{tunnel['id']}")["ends"]
    return next(end for end in ends if end["node"] == node.name)


def public(pair: Pair, tunnel: Any, node: SimulatedNode) -> Any:
    return (told(pair, tunnel, node)["public"] or {}).get("public_key")


def state(panel: ManagedPanel) -> Any:
    return panel.api.send("GET", "/api/tunnels/nodes")["manager"]["state"]


def fine(panel: ManagedPanel, node: SimulatedNode) -> bool:
    return panel.problem(node) is None
