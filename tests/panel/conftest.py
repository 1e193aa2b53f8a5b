# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Fixtures for the panel's tests.

``api`` is a client of the panel under test. With ``PANEL_URL``, ``PANEL_USERNAME`` and ``PANEL_PASSWORD`` (and
``PANEL_CA``) in the environment the contract tests run against that panel instead of one of their own; they leave
nothing behind on it.
"""

from __future__ import annotations

import base64
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests

from tests.panel.running import Panel

_names = itertools.count(1)


@dataclass
class Api:
    """A client that keeps its connection, and knows what the contract calls want."""

    url: str
    username: str
    password: str
    ca: str | bool
    session: requests.Session = field(default_factory=requests.Session)

    def __post_init__(self) -> None:
        self.session.trust_env = False
        self.session.verify = self.ca

    def login(self) -> Api:
        """Send a fresh token from now on."""
        answer = self.bare("POST", "/api/admin/token", data={"username": self.username, "password": self.password})
        self.session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        return self

    def bare(self, method: str, path: str, **options: Any) -> requests.Response:
        """Any request; the session's headers are sent."""
        options.setdefault("allow_redirects", False)
        return self.session.request(method, self.url + path, timeout=30, **options)

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
        return self.send("POST", "/api/node", body | fields)

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


@pytest.fixture(scope="session")
def panel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Panel]:
    """A standalone panel that all tests share. Its tokens are good for 70 minutes."""
    env = {"JWT_ACCESS_TOKEN_EXPIRE_MINUTES": "70"}
    with Panel.start(tmp_path_factory.mktemp("panel"), env=env) as panel:
        yield panel


@pytest.fixture(scope="session")
def api(request: pytest.FixtureRequest) -> Iterator[Api]:
    """The panel under test: the shared one, or that of the environment."""
    if os.environ.get("PANEL_URL"):
        ca = os.environ.get("PANEL_CA", True)
        api = Api(os.environ["PANEL_URL"], os.environ["PANEL_USERNAME"], os.environ["PANEL_PASSWORD"], ca).login()
        yield api
        api.session.close()
        return
    api = client(request.getfixturevalue("panel"))
    yield api
    api.session.close()


@pytest.fixture
def make_node(api: Api) -> Iterator[Callable[..., Any]]:
    """Makes nodes, and deletes them after the test (with their tunnels)."""
    made = []

    def make(**fields: Any) -> Any:
        made.append(api.node(**fields))
        return made[-1]

    yield make
    for node in made:
        assert api.bare("DELETE", f"/api/node/{node['id']}").status_code in (200, 404)


@pytest.fixture
def pair(make_node: Callable[..., Any]) -> tuple[Any, Any]:
    """Two nodes."""
    return make_node(address="203.0.113.1"), make_node(address="203.0.113.2")
