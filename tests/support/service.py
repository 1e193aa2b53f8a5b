# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The root half of the node service on lab hosts without a panel: its files as the installer puts them, and its calls.

The front is not there: what it would hand on is sent to the socket.
"""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Iterable
from typing import Any

from ansible_collections.marzban.tunnels.plugins.plugin_utils import _engine
from tests.lab.host import Host
from tests.support.node_document import check
from tests.support.nodes import PANEL, TEMPLATES, Directly, uuid
from tests.support.world import TOP, until

KEY = "k" * 43
HOME, SETTINGS, STATE = "usr/local/lib/marzban-node", "etc/marzban/node_service", "var/lib/marzban-node"
UNIT = "marzban-node-root"


class Answer(dict[str, Any]):
    """A body, with the status of HTTP."""

    status: int


class Service:
    """The root half on one host. Whatever it answers has to be as documented."""

    def __init__(self, nodes: Directly, name: str, **settings: Any) -> None:
        self.nodes, self.name = nodes, name
        self.counter = 0
        self.settings = {
            "engine": _engine.digest(),
            "config_dir": "/etc/marzban/tunnels",
            "post_quantum": "off",
            "ipsec_data_path": "auto",
            "types": list(TEMPLATES),
            "port": 62052,
            **settings,
        }

    @property
    def host(self) -> Host:
        return self.nodes.lab.host(self.name)

    def install(self) -> None:
        """Puts the files where the installer does, and starts the root half."""
        root = self.host.root
        place = f"{HOME}/ansible_collections/marzban/tunnels/plugins/module_utils"
        files = {f"{place}/{path}": text for path, text in _engine.files().items()}
        source = TOP / "roles/node_api/files"
        files |= {f"{HOME}/marzban_node/{path.name}": path.read_bytes() for path in source.glob("marzban_node/*.py")}
        files[f"{HOME}/root.py"] = (source / "root.py").read_bytes()
        for kind in TEMPLATES:
            text = (TOP / "roles" / TEMPLATES[kind]).read_bytes()
            files[f"{SETTINGS}/templates/{kind}.conf.j2"] = text
        files[f"{SETTINGS}/settings.json"] = json.dumps(self.settings).encode()
        files |= {f"{SETTINGS}/panels/{PANEL}.json": self.panel(PANEL, [KEY])}
        for path, text in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(text)
        self.nodes.sh(self.name, f"mkdir -m 0700 -p /{STATE}; mkdir -p /run/marzban-node")
        self.start()

    @staticmethod
    def panel(panel: str, keys: Iterable[str]) -> bytes:
        hashes = [hashlib.sha256(key.encode()).hexdigest() for key in keys]
        return json.dumps({"panel": panel, "node": uuid(0xFFFF), "hashes": hashes}).encode()

    def start(self) -> None:
        self.nodes.sh(
            self.name,
            f"systemctl reset-failed {UNIT} 2>/dev/null; rm -f /run/marzban-node/root.sock; systemd-run --quiet"
            f" --unit={UNIT} --property=Type=notify --property=WatchdogSec=60 python3 -I /{HOME}/root.py",
        )

    def stop(self) -> None:
        self.nodes.sh(self.name, f"systemctl stop {UNIT}")

    def forget(self) -> None:
        """As if a day had passed since the last removal."""
        self.nodes.sh(self.name, f"rm -f /{STATE}/removed.json")

    def said(self) -> str:
        return self.nodes.sh(self.name, f"journalctl --no-pager -o cat -u {UNIT}")

    # Calls

    def call(self, call: object, key: object = KEY, **more: Any) -> Answer:
        """What the front would hand on, and what it would answer."""
        answer = self.exchange(json.dumps({"call": call, "key": key, **more}).encode() + b"\n")
        check(call, answer.status, answer)
        return answer

    def exchange(self, sent: bytes) -> Answer:
        """What is answered to a line."""
        with socket.socket(socket.AF_UNIX) as asked:
            asked.settimeout(30)
            asked.connect(f"/proc/{self.host.leader}/root/run/marzban-node/root.sock")
            asked.sendall(sent)
            line = b""
            while not line.endswith(b"\n"):
                part = asked.recv(65536)
                assert part, self.said()
                line += part
        told = json.loads(line)
        answer = Answer(told["body"])
        answer.status = told["status"]
        return answer

    def body(self, record: dict[str, Any]) -> dict[str, Any]:
        """Of the next ``post``."""
        self.counter += 1
        return {"panel": PANEL, "node": self.name, "counter": self.counter, "revision": "r", "tunnel": record}

    def send(self, record: dict[str, Any], **more: Any) -> Answer:
        """The first answer, which may be that it goes on."""
        return self.call("post", body={**self.body(record), **more})

    def post(self, record: dict[str, Any], **more: Any) -> Answer:
        answer = self.send(record, **more)
        if answer.status == 202:
            number = str(answer["id"])
            until("it is done", lambda: not self.call("status", id=number)["doing"], 60)
            answer = self.call("status", id=number)
        if answer.get("public"):
            self.nodes.publics[answer["uuid"], self.name] = answer["public"]
        return answer

    def delete(self, number: int, by: str | None = None) -> Answer:
        self.counter += 1
        answer = self.call("delete", id=by or uuid(number), counter=self.counter)
        if answer.status == 202:
            until("it is gone", lambda: self.tunnel(number).get("code"), 60)
            answer.status, answer["message"] = 200, "removed"
        return answer

    def tunnel(self, number: int) -> dict[str, Any]:
        return self.call("status", id=uuid(number))

    def is_not_active(self, number: int) -> bool:
        return bool(self.tunnel(number).get("status") != "active")

    def waits_for(self, number: int, status: str, seconds: float = 30) -> dict[str, Any]:
        """Waits until a tunnel has this status."""
        until(f"{status} on {self.name}", lambda: self.tunnel(number).get("status") == status, seconds)
        return self.tunnel(number)


def tunnel(nodes: Directly, number: int, **more: Any) -> dict[str, Any]:
    """A tunnel between a and b as the panel answers it, with the public halves that are known by now."""
    chosen = json.dumps(more.pop("config", {}))
    pair = nodes.pair(number, **more)
    ends = []
    for place, node in enumerate(pair):
        side = pair[node]["local"]
        ends.append({**side, "node_id": place + 1, "interface": pair[node]["interface"]})
    view = pair["a"]
    return {
        **{key: view[key] for key in ("id", "uuid", "name", "version")},
        "tunnel_type": view["type"],
        "is_active": view["active"],
        "config": chosen,
        "status": "connecting",
        "source_node_id": 1,
        "target_node_id": 2,
        "source_node_name": "a",
        "target_node_name": "b",
        "ends": ends,
    }


def bring_up(services: list[Service], number: int, **more: Any) -> None:
    """What the panel does with a new tunnel: keys first, then the configuration."""
    for _round in range(2):
        for service in services:
            answer = service.post(tunnel(service.nodes, number, **more))
            assert answer.status == 200, answer
    for service in services:
        service.waits_for(number, "active")
