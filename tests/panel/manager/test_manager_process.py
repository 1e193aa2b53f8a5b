# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The manager in the panel's own process, at its own pace, with stand-ins for the node service."""

from __future__ import annotations

import itertools
import json
import os
import signal
import statistics
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.managed_panel import until
from tests.support.panel import Panel
from tests.support.panel_api import client
from tests.support.simulated_node import Nodes, SimulatedNode

KEY = "0123456789abcdef0123456789abcdef"


class Scene:
    """A panel process, nodes, and tunnels between them."""

    def __init__(self, directory: Path, nodes: Nodes, count: int, tunnels: int) -> None:
        self.panel = Panel.start(directory, env={"NODE_API_KEY": KEY}, tls=False)
        self.nodes = [nodes.add(f"node-{number:03}-{count}", shared=count > 10) for number in range(count)]
        self.ids = {node.name: self.panel.add_node(node.name, node.address)["id"] for node in self.nodes}
        names = [node.name for node in self.nodes]
        access = self.panel.call("POST", "/api/tunnels/nodes/access", {"nodes": names})
        for node, item in zip(self.nodes, access["nodes"], strict=True):
            node.allow(item, access["panel"])
        items = [{"node": node.name, "uuid": node.uuid, "port": node.port, "pin": node.pin} for node in self.nodes]
        assert self.panel.call("PUT", "/api/tunnels/nodes", {"nodes": items})["rejected"] == []
        around = itertools.cycle((first, step) for step in range(1, count) for first in range(count))
        self.pairs = [(first, (first + step) % count) for first, step in itertools.islice(around, tunnels)]
        self.tunnels: list[Any] = []
        for start in range(0, tunnels, 100):
            bodies = [self.body(*pair) for pair in self.pairs[start : start + 100]]
            answer = self.panel.call("POST", "/api/tunnels/bulk", {"tunnels": bodies})
            assert answer["rejected"] == [], answer["rejected"][:1]
            self.tunnels += answer["tunnels"]

    def body(self, source: int, target: int) -> dict[str, Any]:
        ends = (("source", self.nodes[source]), ("target", self.nodes[target]))
        config = {role: {"endpoint": node.endpoint} for role, node in ends}
        ids = {f"{role}_node_id": self.ids[node.name] for role, node in ends}
        return {**ids, "tunnel_type": "wireguard", "config": json.dumps(config)}

    def agree(self, tunnel: Any) -> bool:
        held = [node.tunnels[tunnel["uuid"]] for node in self.ends(tunnel) if tunnel["uuid"] in node.tunnels]
        return len(held) == 2 and all(one["peer"] == two["public_key"] for one, two in (held, held[::-1]))

    def ends(self, tunnel: Any) -> list[SimulatedNode]:
        by_id = {self.ids[node.name]: node for node in self.nodes}
        return [by_id[tunnel["source_node_id"]], by_id[tunnel["target_node_id"]]]

    def quick(self) -> float:
        """Seconds that a call for the panel's nodes takes: of many, in rounds, because others use this machine too."""
        api = client(self.panel)
        rounds = []
        for _time in range(6):
            taken = []
            for _time in range(60):
                begun = time.monotonic()
                api.send("GET", "/api/nodes")
                taken.append(time.monotonic() - begun)
            rounds.append(statistics.median(taken))
        api.session.close()
        return min(rounds)

    def processor(self) -> float:
        """Seconds of CPU that the panel has used."""
        fields = Path(f"/proc/{self.panel.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_created_changed_and_deleted_within_seconds_and_after_a_crash(tmp_path: Path) -> None:
    with Nodes() as nodes:
        scene = Scene(tmp_path, nodes, 2, 1)
        with scene.panel as panel:
            (tunnel,) = scene.tunnels
            until(lambda: scene.agree(tunnel), 5)
            panel.call("POST", f"/api/tunnels/{tunnel['id']}/deactivate")
            held = [node.tunnels[tunnel["uuid"]] for node in scene.nodes]
            until(lambda: not any(node.tunnels[tunnel["uuid"]]["tunnel"]["is_active"] for node in scene.nodes), 5)
            assert held[0]["public_key"] == scene.nodes[0].tunnels[tunnel["uuid"]]["public_key"]
            panel.call("DELETE", f"/api/tunnels/{tunnel['id']}")
            panel.kill()  # in the middle: perhaps one of them was told already
            panel.restart()
            until(lambda: not any(node.tunnels for node in scene.nodes), 5)  # its dead self's lease holds up nobody
            os.kill(panel.pid, signal.SIGTERM)
            begun = time.monotonic()
            panel.stop()
            assert time.monotonic() - begun < 5
        assert not [line for line in panel.log_path.read_text().splitlines() if "marzban_tunnels" in line]


@pytest.mark.variation
def test_a_hundred_nodes_and_a_thousand_tunnels(tmp_path: Path) -> None:
    costs: dict[int, float] = {}
    for count, tunnels in ((10, 100), (100, 1000)):
        with Nodes() as nodes:
            begun = time.monotonic()
            scene = Scene(tmp_path / str(count), nodes, count, tunnels)
            with scene.panel as panel:
                made = time.monotonic() - begun
                begun = time.monotonic()
                until(lambda: all(scene.agree(tunnel) for tunnel in scene.tunnels), 120)  # noqa: B023
                there, spent = time.monotonic() - begun, scene.processor()
                time.sleep(15)  # the settling is over
                idle, writes = scene.processor(), sum(len(node.wrote()) for node in scene.nodes)
                time.sleep(60)
                costs[count] = scene.processor() - idle
                assert sum(len(node.wrote()) for node in scene.nodes) == writes
                begun = time.monotonic()
                one = panel.call("POST", "/api/tunnels", scene.body(0, 1))
                until(lambda: scene.agree(one), 10)  # noqa: B023
                change = time.monotonic() - begun
                print(
                    f"\n{count} nodes, {tunnels} tunnels: recorded in {made:.1f} s, on all nodes {there:.1f} s later "
                    f"({spent:.1f} s of CPU until then), an idle minute {costs[count]:.2f} s of CPU, one new tunnel "
                    f"on both nodes after {change:.2f} s"
                )
                assert change < 5
                busy = scene.quick()
                panel._env["NODE_API_KEY"] = ""
                panel.restart()
                ratio = busy / scene.quick()
                print(f"reading the nodes takes {ratio:.2f} times as long as without the manager")
                assert ratio < 2
    assert costs[100] < 12 * max(costs[10], 0.1)
    assert costs[100] < 6
