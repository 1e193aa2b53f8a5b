# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""A client of a panel's calls, for tests of panels."""

from __future__ import annotations

import base64
import itertools
import os
import time
from dataclasses import dataclass, field
from typing import Any

import requests

from tests.support.panel import Panel

_names = itertools.count(1)


@dataclass
class Api:
    """A client that keeps its connection, and knows what the contract calls want."""

    url: str
    username: str
    password: str
    ca: str | bool
    #: Marzban's own writes wait 5 seconds for SQLite's lock and then answer 500: with many clients on a busy machine
    #: that happens, with or without tunnels. ``own`` asks again.
    impatient: bool = False
    session: requests.Session = field(default_factory=requests.Session)

    def __post_init__(self) -> None:
        self.session.trust_env = False
        self.session.verify = self.ca

    def login(self) -> Api:
        """Send a fresh token from now on."""
        answer = self.bare("POST", "/api/admin/token", data={"username": self.username, "password": self.password})
        self.session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        return self

    def another(self) -> Api:
        """A client of the same panel for a thread of its own, with this one's token (a login costs the panel much CPU)
        and a connection for each call: where twenty wait for each other, one is idle for the 5 seconds after which
        uvicorn hangs up, at times just as it sends again."""
        api = Api(self.url, self.username, self.password, self.ca, self.impatient)
        api.session.headers.update({"Connection": "close", "Authorization": self.session.headers["Authorization"]})
        return api

    def bare(self, method: str, path: str, **options: Any) -> requests.Response:
        """Any request; the session's headers are sent."""
        options.setdefault("allow_redirects", False)
        return self.session.request(method, self.url + path, timeout=120, **options)

    def own(self, method: str, path: str, body: Any = None) -> requests.Response:
        """A call of the panel's own that writes, while others write."""
        end = time.monotonic() + 120
        while True:
            answer = self.bare(method, path, json=body)
            if not (self.impatient and answer.status_code == 500 and time.monotonic() < end):
                return answer

    def send(self, method: str, path: str, body: Any = None, status: int = 200, **headers: str) -> Any:
        """A call whose status is known; answers the JSON."""
        answer = self.bare(
            method, path, json=body, headers={key.replace("_", "-"): text for key, text in headers.items()}
        )
        assert answer.status_code == status, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()

    def node(self, **fields: Any) -> Any:
        """A new node with a name of its own."""
        body = {"name": f"node-{next(_names)}-{os.getpid()}", "address": "203.0.113.1", "add_as_new_host": False}
        answer = self.own("POST", "/api/node", body | fields)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def tunnel(self, source: Any, target: Any, status: int = 200, **fields: Any) -> Any:
        """A new tunnel between two nodes, a WireGuard one unless ``fields`` say otherwise."""
        body = {"source_node_id": source["id"], "target_node_id": target["id"], "tunnel_type": "wireguard"}
        return self.send("POST", "/api/tunnels", body | fields, status)

    def refused(self, method: str, path: str, body: Any, status: int) -> Any:
        """The detail of an error."""
        return self.send(method, path, body, status)["detail"]


def key(kind: str = "wireguard") -> dict[str, str]:
    """A public half of an end of this type, with no more than it has to show."""
    head = bytes.fromhex("302a300506032b6570032100") if kind == "ipsec" else b""
    half = {"public_key": base64.b64encode(head + os.urandom(32)).decode()}
    return half | ({"fingerprint": os.urandom(32).hex()} if kind == "openvpn" else {})


def publish(api: Api, tunnel: Any, node: Any, public: Any) -> Any:
    """Publish one end's public half."""
    return api.send(
        "POST", "/api/tunnels/keys", {"keys": [{"uuid": tunnel["uuid"], "node": node["name"], "public": public}]}
    )


def report(api: Api, tunnel: Any, node: Any, status: str = "active", **fields: Any) -> Any:
    """Report one end\'s status."""
    item = {"uuid": tunnel["uuid"], "node": node["name"], "version": tunnel["version"], "status": status} | fields
    return api.send("POST", "/api/tunnels/status", {"reports": [item]})


def client(panel: Panel) -> Api:
    """A logged-in client of a panel of ours."""
    return Api(panel.url, panel.username, panel.password, panel.ca_path or True).login()
