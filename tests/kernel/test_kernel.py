# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The kernel's own data paths: a virtual machine with Debian's kernel, joined to a container that has none of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.world import World
from tests.lab.host import Host

pytestmark = pytest.mark.lab
TYPES = ("wireguard",)
TUNNELS = [(name, "vm", "ct") for name in TYPES]


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    """A tunnel of each type, named like it."""
    world = make_world(vm="forky+tunnels+kernel", ct="trixie+tunnels")
    for name, source, target in TUNNELS:
        world.tunnel(name, source, target, tunnel_type=name)
    return world


def kind(host: Host, interface: str) -> str:
    """What the kernel says an interface is."""
    (link,) = json.loads(host.run(["ip", "-j", "-d", "link", "show", interface]).stdout)
    return str(link["linkinfo"]["info_kind"])


def interfaces(world: World, node: str) -> dict[str, str]:
    """Names of a node's interfaces by those of the tunnels."""
    ends = {name: one["ends"] for name, one in world.tunnels().items()}
    return {name: end["interface"] for name, both in ends.items() for end in both if end["node"] == node}


def measured(world: World, node: str) -> dict[str, dict[str, Any]]:
    """What a node last reported."""
    ends = {name: one["ends"] for name, one in world.tunnels().items()}
    return {name: end["measured"] for name, both in ends.items() for end in both if end["node"] == node}


def test_one_run_brings_up_all(world: World) -> None:
    world.apply().expect()
    world.expect_traffic(*TUNNELS)
    assert world.apply("--diff").expect().changed() == []


def test_wireguard_is_the_kernels(world: World) -> None:
    vm = world.lab.host("vm")
    assert kind(vm, interfaces(world, "vm")["wireguard"]) == "wireguard"
    assert vm.run(["pgrep", "--list-full", "wireguard-go"], check=False).stdout == ""
    assert kind(world.lab.host("ct"), interfaces(world, "ct")["wireguard"]) == "tun"
