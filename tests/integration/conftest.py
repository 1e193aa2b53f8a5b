# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.world import World
from tests.lab.lab import Lab
from tests.panel.running import Panel


@pytest.fixture(scope="module")
def make_world(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Callable[..., World]]:
    """Call it with names of hosts and their images: a fresh panel, a fresh lab, all hosts registered as nodes."""
    open_worlds: list[World] = []

    def make(name: str = "", register: bool = True, **hosts: str) -> World:
        directory = tmp_path_factory.mktemp("world")
        label = f"test-{Path(request.node.nodeid).stem.removeprefix('test_')}{name}"
        panel = Panel.start(directory / "panel")
        lab = Lab.up(label, hosts) if hosts else None
        world = World(directory, panel, lab)
        open_worlds.append(world)
        if lab and register:
            world.register()
        return world

    yield make
    for world in open_worlds:
        world.panel.stop()
        if world.lab:
            world.lab.down()
