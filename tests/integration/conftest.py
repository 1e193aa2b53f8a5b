# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab.lab import Lab
from tests.support import labs
from tests.support.nodes import Directly
from tests.support.panel import Panel
from tests.support.world import World

# Files that take minutes, the longest first: no worker is to be left alone with one of them at the end.
LONG = [
    "killed_runs",
    "apply",
    "service_kills",
    "service_hosts",
    "service_recoveries",
    "taken_hosts",
    "docker_hosts",
    "secrets",
    "service_databases",
    "openvpn_hosts",
    "scale",
    "no_loss",
    "preshared",
    "demo",
    "node_modules",
    "panel_modules",
    "recipes",
    "absence",
    "inventory",
    "combined",
    "node_hosts",
    "ipsec_hosts",
    "limit",
    "role_wireguard",
    "marzban",
    "playbooks",
    "role_panel",
    "role_node_api",
    "panel_runs",
    "bad_input",
    "node_guard",
    "upgrade",
    "openvpn_choices",
    "ipsec_choices",
    "role_openvpn",
    "role_strongswan",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {f"test_{name}": place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path.stem, len(LONG)))


@pytest.fixture(scope="module")
def make_world(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Callable[..., World]]:
    """Call it with names of hosts and their images: a fresh panel, a fresh lab, all hosts registered as nodes.

    ``login=False`` for runs with a static inventory and a token (World). ``env``: the panel's own settings.
    """
    panels: list[Panel] = []
    running: list[Lab] = []

    def make(
        name: str = "", register: bool = True, login: bool = True, env: dict[str, str] | None = None, **hosts: str
    ) -> World:
        directory = tmp_path_factory.mktemp("world")
        label = labs.named(f"{Path(request.node.nodeid).stem.removeprefix('test_')}{name}")
        panels.append(Panel.start(directory / "panel", env=env))
        if hosts:
            running.append(Lab.up(label, hosts))
        world = World(directory, panels[-1], running[-1] if hosts else None, login)
        if hosts and register:
            world.register()
        return world

    yield make
    for panel in panels:
        panel.stop()
    for lab in running:
        lab.down()


@pytest.fixture(scope="module")
def served(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Directly]:
    """The hosts of a file's own ``lab``, with what serves the calls on them."""
    with Directly(lab, tmp_path_factory.mktemp("nodes")) as served:
        yield served


@pytest.fixture
def nodes(served: Directly) -> Directly:
    """The same, for a test that begins with nothing on them."""
    served.start_over()
    return served
