# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""How fast it is: always one thing beside another in the same run, because a second here is not a second there.

`make bench` prints the numbers. What is asserted is so loose that only a fault of design breaks it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from tests.integration.world import World, until
from tests.lab.host import Host

pytestmark = pytest.mark.lab
MANY = 50
TIMES = 3
SECONDS = 2


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    return make_world(a="bookworm+wireguard", b="bookworm+wireguard")


def fastest(run: Callable[[], object]) -> float:
    """Seconds of the fastest of some runs: the others were disturbed."""
    taken = []
    for _time in range(TIMES):
        start = time.monotonic()
        run()
        taken.append(time.monotonic() - start)
    return min(taken)


def throughput(host: Host, address: str) -> float:
    """Mbit/s of one TCP stream."""
    said = host.run(["iperf3", "--client", address, "--time", str(SECONDS), "--json"]).stdout
    return float(json.loads(said)["end"]["sum_received"]["bits_per_second"]) / 1e6


def by_hand(world: World) -> str:
    """A tunnel as one would write it for wg-quick; answers b's address in it."""
    hosts = world.lab.host("a"), world.lab.host("b")
    keys = {}
    for host in hosts:
        private = host.run("wg genkey").stdout.strip()
        keys[host.name] = private, host.run("wg pubkey", input=private).stdout.strip()
    for number, (host, peer) in enumerate((hosts, hosts[::-1]), 1):
        text = (
            f"[Interface]\nAddress = 192.0.2.{number}/24\nListenPort = 7\nPrivateKey = {keys[host.name][0]}\n"
            f"[Peer]\nPublicKey = {keys[peer.name][1]}\nAllowedIPs = 192.0.2.0/24\nEndpoint = {peer.address}:7\n"
        )
        host.run("umask 077; cat >/etc/wireguard/own0.conf", input=text)
        host.run("systemctl start wg-quick@own0")
    return "192.0.2.2"


def test_one_run_by_the_number_of_tunnels(world: World) -> None:
    def unchanged() -> None:
        assert world.apply().expect().changed() == []

    def timed_apply() -> float:
        start = time.monotonic()
        world.apply().expect()
        return time.monotonic() - start

    world.tunnel("t1", "a", "b")
    first_one, one = timed_apply(), fastest(unchanged)
    for number in range(2, MANY + 1):
        world.tunnel(f"t{number}", "a", "b")
    first_many, many = timed_apply(), fastest(unchanged)
    print(
        f"\n  new:        1 tunnel {first_one:.1f} s, {MANY - 1} tunnels {first_many:.1f} s"
        f"\n  unchanged:  1 tunnel {one:.1f} s, {MANY} tunnels {many:.1f} s, ratio {many / one:.1f}"
    )
    assert many / one < MANY / 5


def test_throughput_beside_a_tunnel_made_by_hand(world: World) -> None:
    a, b = world.lab.host("a"), world.lab.host("b")
    if "t1" not in world.tunnels():
        world.tunnel("t1", "a", "b")
        world.apply().expect()
    b.run(["iperf3", "--server", "--daemon"])
    places = {"by hand": by_hand(world), "ours": world.addresses("t1", "b")[0], "no tunnel": b.address}
    until(
        "the one by hand works", lambda: a.run(["ping", "-c1", "-W1", places["by hand"]], check=False).returncode == 0
    )
    best = dict.fromkeys(places, 0.0)
    for _time in range(TIMES):  # in turns, so that a disturbance hits all of them
        for name, address in places.items():
            best[name] = max(best[name], throughput(a, address))
    ratio = best["ours"] / best["by hand"]
    print("\n  " + ", ".join(f"{name} {value:.0f} Mbit/s" for name, value in best.items()) + f", ratio {ratio:.2f}")
    assert ratio > 0.5
