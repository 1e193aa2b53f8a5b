# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever is done to one tunnel, the others on the same hosts lose not one packet: pings every 10 ms tell."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from tests.integration.world import Pings, Run, World, until

pytestmark = pytest.mark.lab

STEADY = (("a-b", "a", "b"), ("b-c", "b", "c"), ("a-c", "a", "c"))
INTERVAL = 0.01  # seconds
NAME = "other"  # of the tunnel that things are done to, between a and b


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    world = make_world(a="bookworm+wireguard", b="bookworm+wireguard", c="bookworm+wireguard")
    for tunnel, source, target in STEADY:
        world.tunnel(tunnel, source, target)
    world.apply().expect()
    return world


@pytest.fixture(scope="module")
def pings(world: World) -> Iterator[dict[str, Pings]]:
    """Each steady tunnel under pings both ways, IPv4 one way, IPv6 the other: from the first test to the last."""
    assert world.lab is not None
    running = {}
    for tunnel, source, target in STEADY:
        for family, (here, there) in enumerate(((source, target), (target, source))):
            address = world.addresses(tunnel, there)[family]
            running[f"{here} to {there} in {tunnel}"] = Pings(world.lab.hosts[here], address, INTERVAL).start()
    yield running
    for one in running.values():
        one.stop()


@pytest.fixture
def interface(world: World) -> str:
    """The interface of the tunnel that things are done to, which is there and up."""
    if NAME not in world.tunnels():
        world.tunnel(NAME, "a", "b")
        world.apply().expect()
        world.expect_traffic((NAME, "a", "b"))
    return str(world.tunnels()[NAME]["ends"][0]["interface"])


def goes_on(one: Pings, last: int) -> bool:
    return max(one.answered()) > last


def expect_no_loss(pings: dict[str, Pings], before: dict[str, int]) -> None:
    """Every ping since the last look was answered, and they go on: some are answered that were sent after it all."""
    for what, one in pings.items():
        last = max(one.answered())
        until(f"pings from {what} go on", partial(goes_on, one, last))
        assert one.lost() == set(), f"{what}: lost pings"
        assert last > before[what] + 20, f"{what}: too few pings to tell anything"


def expect_unchanged(run: Run, host: str) -> None:
    changes = [tunnel["changes"] for answer in run.results("tunnel_apply", host) for tunnel in answer["tunnels"]]
    assert not run.changed(host), changes


def change_record(world: World, name: str, fields: dict[str, Any]) -> dict[str, Any]:
    sent = {**fields, "config": json.dumps(fields["config"])} if "config" in fields else fields
    record: dict[str, Any] = world.api("PUT", f"/tunnels/{world.tunnels()[name]['id']}", json=sent)
    return record


def look(world: World, command: str) -> str:
    assert world.lab is not None
    return world.lab.hosts["a"].run(command, check=False).stdout


def test_adding(world: World, pings: dict[str, Pings]) -> None:
    before = {what: max(one.answered()) for what, one in pings.items()}
    world.tunnel(NAME, "a", "b")
    run = world.apply().expect()
    world.expect_traffic((NAME, "a", "b"))
    assert run.changed("a", "b")
    expect_unchanged(run, "c")
    expect_no_loss(pings, before)


Look = Callable[[World, str], bool]
CHANGES: dict[str, tuple[dict[str, Any], Look]] = {
    "mtu": (
        {"config": {"mtu": 1312}},
        lambda world, name: json.loads(look(world, f"ip -j link show dev {name}"))[0]["mtu"] == 1312,
    ),
    "keepalive": (
        {"config": {"keepalive": 7}},
        lambda world, name: look(world, f"wg show {name} persistent-keepalive").split()[-1] == "7",
    ),
    "routes": (
        {"config": {"target": {"routes": ["192.168.77.0/24"]}}},
        lambda world, name: f"dev {name}" in look(world, "ip route show 192.168.77.0/24"),
    ),
    "routes away": ({"config": {}}, lambda world, name: look(world, "ip route show 192.168.77.0/24") == ""),
    "port": (
        {"config": {"source": {"port": 23456}}},
        lambda world, name: look(world, f"wg show {name} listen-port").strip() == "23456",
    ),
    "addresses": (
        {"config": {"source": {"addresses": ["10.77.0.1/30"]}, "target": {"addresses": ["10.77.0.2/30"]}}},
        lambda world, name: "10.77.0.1/30" in look(world, f"ip -o address show dev {name}"),
    ),
    "interface": (
        {"config": {"source": {"interface": "moved"}}},
        lambda world, name: "moved" in look(world, "wg show interfaces").split(),
    ),
    "name": ({"name": "renamed"}, lambda world, name: "renamed" in look(world, f"head -2 /etc/wireguard/{name}.conf")),
    "not active": ({"is_active": False}, lambda world, name: name not in look(world, "wg show interfaces").split()),
    "active": ({"is_active": True}, lambda world, name: name in look(world, "wg show interfaces").split()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changing(world: World, pings: dict[str, Pings], interface: str, change: str) -> None:
    fields, done = CHANGES[change]
    before = {what: max(one.answered()) for what, one in pings.items()}
    record = change_record(world, NAME, fields)
    try:
        run = world.apply().expect()
        assert done(world, interface), run.text
        if record["is_active"]:
            world.expect_traffic((record["name"], "a", "b"))
        expect_unchanged(run, "c")
        expect_no_loss(pings, before)
    finally:
        if record["name"] != NAME:
            change_record(world, record["name"], {"name": NAME})


def test_removing(world: World, pings: dict[str, Pings], interface: str) -> None:
    before = {what: max(one.answered()) for what, one in pings.items()}
    world.api("DELETE", f"/tunnels/{world.tunnels()[NAME]['id']}")
    run = world.apply().expect()
    assert run.changed("a", "b")
    assert look(world, f"ip link show dev {interface}") == ""
    expect_unchanged(run, "c")
    expect_no_loss(pings, before)


def test_pings_can_tell_a_loss(world: World, pings: dict[str, Pings]) -> None:
    """A test of these tests, and their last one: when packets go missing on the wire, the pings notice."""
    assert world.lab is not None
    host = world.lab.hosts["a"]
    host.lose(20)
    try:
        until("a lost ping", pings["a to b in a-b"].lost)
    finally:
        host.lose(0)
