# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""From records on the panel to packets, and through the life of a tunnel."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.integration.world import World

pytestmark = pytest.mark.lab
TUNNELS = (("a-b", "a", "b"), ("b-c", "b", "c"), ("a-c", "a", "c"))


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    """Three bare hosts: what they need is installed by the first run."""
    world = make_world(a="bookworm", b="bookworm", c="trixie")
    for name, source, target in TUNNELS:
        world.tunnel(name, source, target)
    return world


def test_the_quartet_on_fresh_hosts(world: World) -> None:
    before = len(world.panel.writes())
    predicted = world.apply("--check", "--diff").expect()
    assert predicted.changed("a") and predicted.changed("b") and predicted.changed("c")
    assert len(world.panel.writes()) == before, "check mode wrote to the panel"
    assert not world.lab.hosts["a"].run("ls /etc/marzban /etc/wireguard", check=False).stdout

    assert world.apply("--diff").expect().changed("a")
    world.expect_traffic(*TUNNELS)

    assert world.apply("--check", "--diff").expect().changed() == []
    assert world.apply("--diff").expect().changed() == []
    assert {one["status"] for one in world.tunnels().values()} == {"active"}
