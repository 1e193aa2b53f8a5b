# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever is done to tunnels of each type, the others on the hosts lose not one packet: pings every 10 ms tell."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from tests.support.world import TYPES, Pings, Run, World, between, until

pytestmark = pytest.mark.lab

# One of each type between a and b, where things are done, and one that is c's
STEADY = (*between("ab"), ("bc-wireguard", "b", "c"))
INTERVAL = 0.01  # seconds
Look = Callable[[World, str], bool]


@dataclass(frozen=True)
class Change:
    """What is done to a tunnel between a and b: its config before, fields of its record, and what a shows after it."""

    fields: dict[str, Any]
    done: Look
    before: dict[str, Any] | None = None


def on_a(world: World, command: str) -> str:
    return world.lab.host("a").run(command, check=False).stdout


def has_link(world: World, name: str) -> bool:
    return name in on_a(world, "ls /sys/class/net").split()


def behind(number: int) -> str:
    """The network behind b that a tunnel of this number leads to."""
    return f"192.168.{100 + number}.0/24"


def changes(number: int, kind: str) -> dict[str, Change]:
    """For the tunnel of this number, whose values nobody else has."""
    network, route = f"10.77.{number}", behind(number)
    routed = {"target": {"routes": [route]}}
    of_each_type = {
        "mtu": Change(
            {"config": {"mtu": 1312}},
            lambda world, name: json.loads(on_a(world, f"ip -j link show dev {name}"))[0]["mtu"] == 1312,
        ),
        "interface": Change(
            {"config": {"source": {"interface": f"moved{number}"}}},
            lambda world, name: has_link(world, f"moved{number}"),
        ),
        "not-active": Change({"is_active": False}, lambda world, name: not has_link(world, name)),
        "routes": Change(
            {"config": routed}, lambda world, name: f"dev {name}" in on_a(world, f"ip route show {route}")
        ),
        "routes-away": Change(
            {"config": {}}, lambda world, name: on_a(world, f"ip route show {route}") == "", before=routed
        ),
        "addresses": Change(
            {"config": {"source": {"addresses": [f"{network}.1/30"]}, "target": {"addresses": [f"{network}.2/30"]}}},
            lambda world, name: f"{network}.1/30" in on_a(world, f"ip -o address show dev {name}"),
        ),
    }
    # what can be seen with WireGuard's own program
    of_wireguard = {
        "keepalive": Change(
            {"config": {"keepalive": 7}},
            lambda world, name: on_a(world, f"wg show {name} persistent-keepalive").split()[-1] == "7",
        ),
        "port": Change(
            {"config": {"source": {"port": 23456}}},
            lambda world, name: on_a(world, f"wg show {name} listen-port").strip() == "23456",
        ),
        "name": Change(
            {"name": "renamed"}, lambda world, name: "renamed" in on_a(world, f"head -2 /etc/wireguard/{name}.conf")
        ),
    }
    return {**of_each_type, **(of_wireguard if kind == "wireguard" else {})}


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    world = make_world(login=False, a="bookworm+tunnels", b="trixie+tunnels", c="bookworm+tunnels")
    for tunnel, source, target in STEADY:
        world.tunnel(tunnel, source, target, tunnel_type=tunnel.partition("-")[2])
    world.lab.host("b").run("ip link add lan type bridge; ip link set lan up")
    world.apply().expect()
    return world


@pytest.fixture
def pings(world: World) -> Iterator[dict[str, Pings]]:
    """Each steady tunnel under pings, IPv4 and IPv6 in turn; answers pass too."""
    running = {}
    for number, (tunnel, source, target) in enumerate(STEADY):
        address = world.addresses(tunnel, target)[number % 2]
        running[f"{source} to {target} in {tunnel}"] = Pings(world.lab.host(source), address, INTERVAL).start()
    yield running
    for value in running.values():
        value.stop()


def goes_on(pings: Pings, last: int) -> bool:
    return max(pings.answered()) > last


@dataclass
class Watch:
    """Runs under pings, of which none may be lost."""

    world: World
    pings: dict[str, Pings]

    def apply(self, *joined: tuple[str, str, str]) -> Run:
        """A run after which traffic passes in these tunnels; c is not touched, and no steady tunnel loses a packet."""
        before = {what: max(item.answered()) for what, item in self.pings.items()}
        run = self.world.apply().expect()
        self.world.expect_traffic(*joined)
        assert run.changed("a", "b")
        assert not run.changed("c"), run.changes("c")
        for what, item in self.pings.items():
            last = max(item.answered())
            until(f"pings from {what} go on", partial(goes_on, item, last))
            assert item.lost() == set(), f"{what}: lost pings"
            assert last > before[what] + 20, f"{what}: too few pings to tell anything"
        return run


@pytest.mark.parametrize(
    "whats",
    [
        pytest.param(("interface",), id="often"),
        pytest.param(
            ("not-active", "mtu", "routes", "routes-away", "addresses", "keepalive", "port", "name"),
            id="seldom",
            marks=pytest.mark.variation,
        ),
    ],
)
def test_tunnels_come_change_and_go(world: World, pings: dict[str, Pings], whats: tuple[str, ...]) -> None:
    """A tunnel of each type for each change, all in the same runs."""
    watch = Watch(world, pings)
    done: dict[str, Change] = {}
    for number, (what, kind) in enumerate((what, kind) for what in whats for kind in TYPES):
        change = changes(number, kind).get(what)
        if change:
            # An address in the networks behind b: IPsec's userspace data path wants one.
            world.lab.host("b").run(f"ip address replace {behind(number).replace('.0/', '.1/')} dev lan")
            world.tunnel(f"{what}-{kind}", "a", "b", change.before, tunnel_type=kind)
            done[f"{what}-{kind}"] = change
    watch.apply(*((name, "a", "b") for name in done))

    tunnels = world.tunnels()
    interfaces = {name: str(tunnels[name]["ends"][0]["interface"]) for name in done}
    records = {name: world.change(name, **change.fields) for name, change in done.items()}
    watch.apply(*((record["name"], "a", "b") for record in records.values() if record["is_active"]))
    for name, change in done.items():
        assert change.done(world, interfaces[name]), name

    stopped = [record for record in records.values() if not record["is_active"]]
    for record in stopped:
        world.change(record["name"], is_active=True)
    going = {record["name"] for record in records.values() if record["is_active"]}
    tunnels = world.tunnels()
    for name in going:
        world.api("DELETE", f"/tunnels/{tunnels[name]['id']}")
    watch.apply(*((record["name"], "a", "b") for record in stopped))
    assert not any(has_link(world, tunnels[name]["ends"][0]["interface"]) for name in going)
    for record in stopped:
        world.api("DELETE", f"/tunnels/{record['id']}")


def test_pings_can_tell_a_loss(world: World, pings: dict[str, Pings]) -> None:
    """A test of these tests: when packets go missing on the wire, the pings notice."""
    host = world.lab.host("a")
    host.lose(20)
    try:
        until("a lost ping", pings["a to b in ab-wireguard"].lost)
    finally:
        host.lose(0)
