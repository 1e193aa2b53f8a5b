# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The standalone panel with its manager in this process, over HTTP, and in more of a hurry than a real one.

with Nodes() as nodes, ManagedPanel(tmp_path / "panel.db") as panel:
    first, second = nodes.add("de-1"), nodes.add("nl-1")
    panel.node(first), panel.node(second)
    tunnel = panel.tunnel(first, second)
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import uvicorn

from marzban_tunnels import metrics_access
from marzban_tunnels.manager.hub import Pace
from marzban_tunnels.node_access import check_key
from marzban_tunnels.settings import Settings
from marzban_tunnels.standalone.access_log import Lines
from marzban_tunnels.standalone.admins import Admins
from marzban_tunnels.standalone.app import build
from marzban_tunnels.standalone.database import Database
from marzban_tunnels.standalone.serve import listen
from tests.support.panel_api import Api
from tests.support.simulated_node import SimulatedNode

KEY = "0123456789abcdef0123456789abcdef"
FAST = Pace(
    poll=0.2, tick=0.1, beat=0.2, patience=1.0, soon=0.05, settle=0.1, settling=1.0, flush=0.02, connect=1.0, call=1.0,
    retry=0.1, doubtful=0.1, idle=0.1, away=0.2, slow=0.2, measured=0.1, sure=0.1, listen=0.2, silent=0.3,
)  # fmt: skip
PASSWORD = "correct horse battery"


class NoLines(Lines):
    def write(self, **fields: Any) -> None:
        """Nothing is kept of what was asked."""


class Services:
    """What a run of ``node_api`` does, and what the API then says. ``api`` is a client of any panel."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self._ids: dict[str, int] = {}

    def node(self, node: SimulatedNode, publish: bool = True) -> Any:
        """A node of the panel, that is made unless it is there, whose service is this one; what the role does."""
        known = {item["name"]: item for item in self.api.send("GET", "/api/nodes")}
        made = known.get(node.name) or self.api.node(name=node.name, address=node.address)
        self._ids[node.name] = made["id"]
        self.allow(node)
        if publish:
            self.publish(node)
        return made

    def tunnel(self, source: SimulatedNode, target: SimulatedNode, *, kind: str = "wireguard", **config: Any) -> Any:
        """A new tunnel between two nodes. They are on this machine, where no other would reach them: so each end has an
        endpoint of its own."""
        ends = {"source": {"endpoint": source.endpoint}, "target": {"endpoint": target.endpoint}}
        first, second = ({"id": self._ids[node.name]} for node in (source, target))
        return self.api.tunnel(first, second, tunnel_type=kind, config=json.dumps(ends | config))

    def allow(self, node: SimulatedNode) -> None:
        """Let the panel in, as the role does."""
        answer = self.api.send("POST", "/api/tunnels/nodes/access", {"nodes": [node.name]})
        node.allow(answer["nodes"][0], answer["panel"])

    def publish(self, node: SimulatedNode) -> None:
        """Tell the panel where the service is, and its pin."""
        item = {"node": node.name, "uuid": node.uuid, "port": node.port, "pin": node.pin}
        answer = self.api.send("PUT", "/api/tunnels/nodes", {"nodes": [item]})
        assert answer["rejected"] == [], answer

    def service(self, node: SimulatedNode) -> Any:
        """The node's NODE_SERVICE."""
        return next(item for item in self.services() if item["node"] == node.name)

    def services(self) -> Any:
        """All of them."""
        return self.api.send("GET", "/api/tunnels/nodes")["nodes"]

    def problem(self, node: SimulatedNode) -> str | None:
        """The code of its problem."""
        found = self.service(node)["problem"]
        return found["code"] if found else None


class ManagedPanel(Services):
    """``api`` is a client of it."""

    def __init__(
        self,
        database: Path | str,
        key: str | None = KEY,
        pace: Pace = FAST,
        metrics_key: str | None = None,
        environ: Mapping[str, str] = {},
    ) -> None:
        self._database = Database(str(database))
        self._database.upgrade()
        self.engine = self._database.engine
        self.admins = admins = Admins(self._database, 60)
        if not admins.exist():
            admins.put("admin", PASSWORD, is_sudo=True)
        lines = NoLines(None)
        access, settings = check_key(key), Settings.from_env({})
        app, self.manager, self.events = build(
            self._database,
            admins,
            settings,
            access,
            lines,
            "",
            "/dashboard/",
            pace,
            metrics_access.check_key(metrics_key, key),
            environ,
        )
        bound = listen("127.0.0.1", 0)
        self._server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [bound]})
        bound.listen()
        self._thread.start()
        self.manager.start()
        self.events.feed.start()
        self.writing = self._database.writing  # for what the API does not do
        super().__init__(Api(f"http://127.0.0.1:{bound.getsockname()[1]}", "admin", PASSWORD, True).login())

    def stop(self) -> None:
        """End it; the database stays."""
        self.events.end()
        self.events.feed.stop()
        self.manager.stop()
        self.api.session.close()
        self._server.should_exit = True
        self._thread.join(20)
        self._database.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()


def until(what: Callable[[], Any], seconds: float = 10) -> Any:
    """Wait until this is true; answers it."""
    end = time.monotonic() + seconds
    while not (found := what()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(0.05)
    return found
