# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The manager behind the door into Marzban, with stand-ins for the node service: in the stand-in for Marzban, and in a
real one where MARZBAN_SRC names a checkout."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import pytest

from tests.contract.conftest import DOORS
from tests.support import marzban
from tests.support.managed_panel import KEY, Services, until
from tests.support.marzban import Marzban
from tests.support.panel_api import report
from tests.support.simulated_node import Nodes
from tests.support.webhook_receiver import TOKEN, Receiver

_DATABASES = {"mounted": "", "marzban-sqlite": "", "marzban-mariadb": "mariadb"}


_PARAMS = [
    pytest.param(door, marks=pytest.mark.variation) if server else door
    for door, server in _DATABASES.items()
    if door in DOORS
]


@pytest.fixture(params=_PARAMS)
def door(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """How to make a Marzban of this kind."""
    if request.param != "mounted" and not marzban.source():
        pytest.skip(marzban.MISSING)
    server = _DATABASES[request.param]
    url = request.getfixturevalue(server).database(f"managed{time.monotonic_ns()}") if server else ""
    return {"directory": tmp_path, "database": url, "real": request.param != "mounted"}


def test_a_tunnel_is_on_both_nodes_within_seconds(door: dict[str, Any]) -> None:
    with Nodes() as nodes, Marzban(**door, NODE_API_KEY=KEY) as running:
        panel = Services(running.api())
        pair = [nodes.add("de-1"), nodes.add("nl-1")]
        for node in pair:
            panel.node(node)
        before = running.log.read_text()
        tunnel = panel.tunnel(*pair)
        path = f"/api/tunnels/{tunnel['id']}"
        until(lambda: panel.api.send("GET", path)["status"] == "active", 5)
        panel.api.send("POST", f"{path}/deactivate")
        until(lambda: not any(node.tunnels[tunnel["uuid"]]["tunnel"]["is_active"] for node in pair), 5)
        panel.api.send("DELETE", path)
        until(lambda: not any(node.tunnels for node in pair), 5)
        noise = [line for line in running.log.read_text()[len(before) :].splitlines() if "marzban_tunnels" in line]
        assert noise == []


def test_without_a_key_the_certificate_serves_that_nodes_trust(door: dict[str, Any]) -> None:
    with Nodes() as nodes, Marzban(**door) as running:
        panel = Services(running.api())
        assert panel.api.send("GET", "/api/tunnels/nodes")["manager"]["state"] == "on"
        shown = panel.api.send("GET", "/api/node/settings")["certificate"]
        pair = [nodes.add("de-1"), nodes.add("nl-1")]
        for node in pair:
            node.down()
            node.trust(shown)
            node.up()
            panel.node(node)
        (told,) = panel.api.send("POST", "/api/tunnels/nodes/access", {"nodes": ["de-1"]})["nodes"]
        assert (told["hashes"], told["certificate"]) == ([], shown), "what the role brings to the node"
        tunnel = panel.tunnel(*pair)
        until(lambda: panel.api.send("GET", f"/api/tunnels/{tunnel['id']}")["status"] == "active", 5)


def test_nodes_that_hang_do_not_hold_up_its_end(door: dict[str, Any]) -> None:
    with Nodes() as nodes, Marzban(**door, NODE_API_KEY="") as running:
        alone = ended(running)  # without the manager
        running.env["NODE_API_KEY"] = KEY
        running.start()
        panel = Services(running.api())
        hanging = [nodes.add(f"hang-{number}") for number in range(8)]
        for node in hanging:
            node.slow = 600.0
            panel.node(node)
        until(lambda: all(("GET", "/api/tunnels") in node.requests for node in hanging), 10)
        panel.api.session.close()  # uvicorn waits for its clients
        held = ended(running)
        print(f"it ends within {alone:.2f} s without the manager, {held:.2f} s with nodes that hang")
        assert held < alone + 2


def test_a_webhook_gets_what_runs_have_reported(door: dict[str, Any]) -> None:
    """Without node services, and with its settings in the environment of Marzban."""
    secret = "a secret of the webhook and of nobody else"
    with (
        Receiver() as receiver,
        Marzban(**door, NODE_API_KEY="", TUNNEL_WEBHOOK_URL=receiver.url, TUNNEL_WEBHOOK_SECRET=secret) as running,
    ):
        api = running.api()
        pair = [api.node(name=name, address=f"198.51.100.{number}") for number, name in enumerate(("de-1", "nl-1"), 1)]
        tunnel = api.tunnel(*pair)
        statuses = itertools.cycle(["active", "error"])
        due = time.monotonic()

        def told() -> Any:
            """One run after the other."""
            nonlocal due
            if not receiver.changes and time.monotonic() >= due:
                due += 1
                report(api, tunnel, pair[0], next(statuses))
            return receiver.changes

        (change, *_more) = until(told, 20)
        assert (change["uuid"], {change["before"], change["status"]}) == (tunnel["uuid"], {"active", "error"})
        assert receiver.messages[0]["panel"] == api.bare("GET", "/api/tunnels").headers["Marzban-Panel-Id"]
        log = running.log.read_text()
        assert "changes of status are told to the webhook at 127.0.0.1\n" in log
        assert not [word for word in (TOKEN, secret) if word in log]


def ended(running: Marzban) -> float:
    """Seconds that its end takes."""
    begun = time.monotonic()
    running.stop()
    return time.monotonic() - begun
