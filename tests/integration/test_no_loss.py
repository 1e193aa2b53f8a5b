# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever is done to one tunnel, the others on the same hosts lose not one packet: pings every 10 ms tell."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from tests.integration.world import TYPES, Pings, Run, World, between, until

pytestmark = pytest.mark.lab

# One of each type between a and b, where things are done, and one that is c's
STEADY = (*between("ab"), ("bc-wireguard", "b", "c"))
INTERVAL = 0.01  # seconds
NAMES = {kind: f"other-{kind}" for kind in TYPES}  # of the tunnels that things are done to, between a and b


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    world = make_world(a="bookworm+tunnels", b="trixie+tunnels", c="bookworm+tunnels")
    for tunnel, source, target in STEADY:
        world.tunnel(tunnel, source, target, tunnel_type=tunnel.partition("-")[2])
    # An address in what is to stand behind b: IPsec's userspace data path wants one.
    world.lab.host("b").run("ip link add lan type bridge; ip address add 192.168.77.1/24 dev lan; ip link set lan up")
    world.apply().expect()
    return world


@pytest.fixture(scope="module")
def pings(world: World) -> Iterator[dict[str, Pings]]:
    """Each steady tunnel under pings, IPv4 and IPv6 in turn, from the first test to the last; answers pass too."""
    assert world.lab is not None
    running = {}
    for number, (tunnel, source, target) in enumerate(STEADY):
        address = world.addresses(tunnel, target)[number % 2]
        running[f"{source} to {target} in {tunnel}"] = Pings(world.lab.hosts[source], address, INTERVAL).start()
    yield running
    for one in running.values():
        one.stop()


def other(world: World, kind: str) -> str:
    """The interface of the tunnel that things are done to, which is there and up."""
    name = NAMES[kind]
    if name not in world.tunnels():
        world.tunnel(name, "a", "b", tunnel_type=kind)
        world.apply().expect()
        world.expect_traffic((name, "a", "b"))
    return str(world.tunnels()[name]["ends"][0]["interface"])


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


@pytest.mark.parametrize("kind", TYPES)
def test_adding(world: World, pings: dict[str, Pings], kind: str) -> None:
    before = {what: max(one.answered()) for what, one in pings.items()}
    world.tunnel(NAMES[kind], "a", "b", tunnel_type=kind)
    run = world.apply().expect()
    world.expect_traffic((NAMES[kind], "a", "b"))
    assert run.changed("a", "b")
    expect_unchanged(run, "c")
    expect_no_loss(pings, before)


Look = Callable[[World, str], bool]
Change = tuple[dict[str, Any], Look]


def has_link(world: World, name: str) -> bool:
    return name in look(world, "ls /sys/class/net").split()


# For every type; of WireGuard alone what can be seen with its own program
CHANGES: dict[str, Change] = {
    "mtu": (
        {"config": {"mtu": 1312}},
        lambda world, name: json.loads(look(world, f"ip -j link show dev {name}"))[0]["mtu"] == 1312,
    ),
    "routes": (
        {"config": {"target": {"routes": ["192.168.77.0/24"]}}},
        lambda world, name: f"dev {name}" in look(world, "ip route show 192.168.77.0/24"),
    ),
    "routes away": ({"config": {}}, lambda world, name: look(world, "ip route show 192.168.77.0/24") == ""),
    "addresses": (
        {"config": {"source": {"addresses": ["10.77.0.1/30"]}, "target": {"addresses": ["10.77.0.2/30"]}}},
        lambda world, name: "10.77.0.1/30" in look(world, f"ip -o address show dev {name}"),
    ),
    "interface": ({"config": {"source": {"interface": "moved"}}}, lambda world, name: has_link(world, "moved")),
    "not active": ({"is_active": False}, lambda world, name: not has_link(world, name)),
    "active": ({"is_active": True}, has_link),
}
OF_WIREGUARD: dict[str, Change] = {
    "keepalive": (
        {"config": {"keepalive": 7}},
        lambda world, name: look(world, f"wg show {name} persistent-keepalive").split()[-1] == "7",
    ),
    "port": (
        {"config": {"source": {"port": 23456}}},
        lambda world, name: look(world, f"wg show {name} listen-port").strip() == "23456",
    ),
    "name": ({"name": "renamed"}, lambda world, name: "renamed" in look(world, f"head -2 /etc/wireguard/{name}.conf")),
}
ALWAYS = ("mtu", "not active", "active")
CASES = [(kind, change, CHANGES[change]) for kind in TYPES for change in CHANGES]
CASES += [("wireguard", change, OF_WIREGUARD[change]) for change in OF_WIREGUARD]


@pytest.mark.parametrize(
    ("kind", "case"),
    [
        pytest.param(kind, case, id=f"{kind} {what}", marks=() if what in ALWAYS else pytest.mark.variation)
        for kind, what, case in CASES
    ],
)
def test_changing(world: World, pings: dict[str, Pings], kind: str, case: Change) -> None:
    fields, done = case
    name, interface = NAMES[kind], other(world, kind)
    before = {what: max(one.answered()) for what, one in pings.items()}
    record = change_record(world, name, fields)
    try:
        run = world.apply().expect()
        assert done(world, interface), run.text
        if record["is_active"]:
            world.expect_traffic((record["name"], "a", "b"))
        expect_unchanged(run, "c")
        expect_no_loss(pings, before)
    finally:
        if "config" in fields or "name" in fields:  # or it would be in the way of the next one
            change_record(world, record["name"], {"name": name, "config": {}})


@pytest.mark.parametrize("kind", TYPES)
def test_removing(world: World, pings: dict[str, Pings], kind: str) -> None:
    interface = other(world, kind)
    before = {what: max(one.answered()) for what, one in pings.items()}
    world.api("DELETE", f"/tunnels/{world.tunnels()[NAMES[kind]]['id']}")
    run = world.apply().expect()
    assert run.changed("a", "b")
    assert not has_link(world, interface)
    expect_unchanged(run, "c")
    expect_no_loss(pings, before)


def test_pings_can_tell_a_loss(world: World, pings: dict[str, Pings]) -> None:
    """A test of these tests, and their last one: when packets go missing on the wire, the pings notice."""
    assert world.lab is not None
    host = world.lab.hosts["a"]
    host.lose(20)
    try:
        until("a lost ping", pings["a to b in ab-wireguard"].lost)
    finally:
        host.lose(0)
