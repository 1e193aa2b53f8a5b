# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever is done to tunnels of each type, the others on the hosts lose not one packet: pings every 10 ms tell."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from tests.support.world import TYPES, Pings, Run, World, between, until

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
    # An address in the networks behind b: IPsec's userspace data path wants one.
    addresses = "; ".join(f"ip address add 192.168.{77 + number}.1/24 dev lan" for number in range(len(TYPES)))
    world.lab.host("b").run(f"ip link add lan type bridge; ip link set lan up; {addresses}")
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


def others(world: World) -> dict[str, str]:
    """The interfaces, by type, of the tunnels that things are done to, which are there and up."""
    missing = [kind for kind in TYPES if NAMES[kind] not in world.tunnels()]
    for kind in missing:
        world.tunnel(NAMES[kind], "a", "b", tunnel_type=kind)
    if missing:
        world.apply().expect()
        world.expect_traffic(*((NAMES[kind], "a", "b") for kind in missing))
    tunnels = world.tunnels()
    return {kind: str(tunnels[NAMES[kind]]["ends"][0]["interface"]) for kind in TYPES}


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
    for kind in TYPES:
        world.tunnel(NAMES[kind], "a", "b", tunnel_type=kind)
    run = world.apply().expect()
    world.expect_traffic(*((NAMES[kind], "a", "b") for kind in TYPES))
    assert run.changed("a", "b")
    expect_unchanged(run, "c")
    expect_no_loss(pings, before)


Look = Callable[[World, str], bool]
Change = tuple[dict[str, Any], Look]


def has_link(world: World, name: str) -> bool:
    return name in look(world, "ls /sys/class/net").split()


# For a tunnel of each type, whose number is in its values; of WireGuard alone what can be seen with its own program
def changes(number: int) -> dict[str, Change]:
    network, route = f"10.77.{number}", f"192.168.{77 + number}.0/24"
    return {
        "mtu": (
            {"config": {"mtu": 1312}},
            lambda world, name: json.loads(look(world, f"ip -j link show dev {name}"))[0]["mtu"] == 1312,
        ),
        "routes": (
            {"config": {"target": {"routes": [route]}}},
            lambda world, name: f"dev {name}" in look(world, f"ip route show {route}"),
        ),
        "routes away": ({"config": {}}, lambda world, name: look(world, f"ip route show {route}") == ""),
        "addresses": (
            {"config": {"source": {"addresses": [f"{network}.1/30"]}, "target": {"addresses": [f"{network}.2/30"]}}},
            lambda world, name: f"{network}.1/30" in look(world, f"ip -o address show dev {name}"),
        ),
        "interface": (
            {"config": {"source": {"interface": f"moved{number}"}}},
            lambda world, name: has_link(world, f"moved{number}"),
        ),
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
EACH = [changes(number) for number in range(len(TYPES))]
CASES: dict[str, dict[str, Change]] = {
    **{what: {kind: each[what] for kind, each in zip(TYPES, EACH, strict=True)} for what in EACH[0]},
    **{what: {"wireguard": change} for what, change in OF_WIREGUARD.items()},
}
ALWAYS = ("mtu", "interface", "not active", "active")


@pytest.mark.parametrize(
    "what", [pytest.param(what, marks=() if what in ALWAYS else pytest.mark.variation) for what in CASES]
)
def test_changing(world: World, pings: dict[str, Pings], what: str) -> None:
    interfaces = others(world)
    before = {what: max(one.answered()) for what, one in pings.items()}
    records = {kind: change_record(world, NAMES[kind], fields) for kind, (fields, _done) in CASES[what].items()}
    try:
        run = world.apply().expect()
        for kind, (_fields, done) in CASES[what].items():
            assert done(world, interfaces[kind]), run.text
        world.expect_traffic(*((record["name"], "a", "b") for record in records.values() if record["is_active"]))
        expect_unchanged(run, "c")
        expect_no_loss(pings, before)
    finally:
        for kind, (fields, _done) in CASES[what].items():  # or it would be in the way of the next one
            if "config" in fields or "name" in fields:
                change_record(world, records[kind]["name"], {"name": NAMES[kind], "config": {}})


def test_removing(world: World, pings: dict[str, Pings]) -> None:
    interfaces = others(world)
    before = {what: max(one.answered()) for what, one in pings.items()}
    for kind in TYPES:
        world.api("DELETE", f"/tunnels/{world.tunnels()[NAMES[kind]]['id']}")
    run = world.apply().expect()
    assert run.changed("a", "b")
    assert not any(has_link(world, interface) for interface in interfaces.values())
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
