# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Nodes that go, hang and lie, and a panel that ends in the middle, in a seeded order: at the end records and nodes
agree, nothing is left over, and no key was changed."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.managed_panel import ManagedPanel, until
from tests.support.simulated_node import Nodes, SimulatedNode

_GARBAGE = (b"", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", b"\x00" * 5000, b"HTTP/1.1 200 OK\r\n")


class Chaos:
    """A panel and four nodes."""

    def __init__(self, path: Path, nodes: Nodes, seed: int) -> None:
        self.path, self.random = path, random.Random(seed)
        self.nodes = [nodes.add(f"chaos-{number}-{seed}") for number in range(4)]
        self.panel = ManagedPanel(path)
        for node in self.nodes:
            self.panel.node(node)
        self.tunnels: list[int] = []
        self.down: set[str] = set()

    def step(self) -> None:
        """One thing happens; the next does not wait for it."""
        act = self.random.choice([self.create] * 4 + [self.change] * 4 + [self.delete] * 2 + [self.node] * 6)
        act()
        time.sleep(self.random.random() * 0.1)

    def create(self) -> None:
        source, target = self.random.sample(self.nodes, 2)
        self.tunnels.append(self.panel.tunnel(source, target)["id"])

    def change(self) -> None:
        if self.tunnels:
            what = self.random.choice(["activate", "deactivate"])
            self.panel.api.send("POST", f"/api/tunnels/{self.random.choice(self.tunnels)}/{what}")

    def delete(self) -> None:
        if len(self.tunnels) > 2:
            number = self.tunnels.pop(self.random.randrange(len(self.tunnels)))
            self.panel.api.send("DELETE", f"/api/tunnels/{number}")

    def node(self) -> None:
        node = self.random.choice(self.nodes)
        if node.name in self.down:
            node.up()
            self.down.discard(node.name)
            return
        what = self.random.choice(["down", "slow", "lies", "well", "well"])
        if what == "down":
            node.down()
            self.down.add(node.name)
        node.slow = 1.5 if what == "slow" else 0.0
        garbage = self.random.choice(_GARBAGE)
        node.instead = (lambda method, path: garbage) if what == "lies" else (lambda method, path: None)

    def restart(self) -> None:
        self.panel.stop()
        self.panel = ManagedPanel(self.path)
        for node in self.nodes:
            self.panel.node(node, publish=False)

    def heal(self) -> None:
        for node in self.nodes:
            node.slow, node.instead = 0.0, lambda method, path: None
            if node.name in self.down:
                node.up()
        self.down.clear()

    def agree(self) -> bool:
        records = self.panel.api.send("GET", "/api/tunnels")
        wanted: dict[str, set[tuple[str, int, bool]]] = {node.name: set() for node in self.nodes}
        for record in records:
            for end in record["ends"]:
                wanted[end["node"]].add((record["uuid"], record["version"], record["is_active"]))
        return all(wanted[node.name] == self.held(node) for node in self.nodes)

    def held(self, node: SimulatedNode) -> set[tuple[str, int, bool]]:
        told = [item["tunnel"] for item in node.tunnels.values()]
        return {(item["uuid"], item["version"], item["is_active"]) for item in told}

    def halves(self) -> list[Any]:
        """Of each tunnel: what its nodes have as their own keys and as the peers'."""
        held: dict[str, list[Any]] = {}
        for node in self.nodes:
            for uuid, item in node.tunnels.items():
                held.setdefault(uuid, []).append((item["public_key"], item["peer"]))
        return list(held.values())


@pytest.mark.parametrize("seed", [11, *(pytest.param(seed, marks=pytest.mark.variation) for seed in (12, 13, 14))])
def test_records_and_nodes_agree_whatever_happens(tmp_path: Path, seed: int) -> None:
    with Nodes() as nodes:
        chaos = Chaos(tmp_path / "panel.db", nodes, seed)
        try:
            for number in range(45):
                chaos.step()
                if number in (15, 30):
                    chaos.restart()
            chaos.heal()
            until(chaos.agree, 20)
            until(lambda: all(len(ends) == 2 and ends[0] == ends[1][::-1] for ends in chaos.halves()), 20)
            for node in chaos.nodes:
                until(lambda node=node: not chaos.panel.service(node)["deletions"])  # type: ignore[misc]
                service = chaos.panel.service(node)
                assert (service["orphans"], service["changed_keys"], service["problem"]) == ([], [], None)
        finally:
            chaos.panel.stop()
