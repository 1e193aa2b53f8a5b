# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Debian 12, 13 and testing side by side: a tunnel of each type between each two of them, and what the wire shows."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.world import MESH, World, of_type, until

pytestmark = pytest.mark.lab

#: What pings carry that may be read on the wire, and those that may not: 16 bytes, in hex.
PLAIN = "506c61696e2074657874206f6e206c61"
INNER = "496e7369646520612074756e6e656c21"
CIPHERS = {"wireguard": "ChaCha20-Poly1305", "openvpn": "AES-256-GCM", "ipsec": "AES-128-GCM"}


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    world = make_world(login=False, a="bookworm+tunnels", b="trixie+tunnels", c="forky+tunnels")
    world.mesh()
    world.apply().expect()
    return world


def measured(world: World, name: str) -> dict[str, dict[str, Any]]:
    """What each end of a tunnel reported last."""
    return {end["node"]: end["measured"] for end in world.tunnels()[name]["ends"]}


def test_each_pair_of_releases_has_each_type(world: World) -> None:
    world.expect_traffic(*MESH)
    world.play("status").expect()
    assert {value["status"] for value in world.tunnels().values()} == {"active"}
    assert world.apply().expect().changed() == []
    for name, source, target in MESH:
        kind = name.partition("-")[2]
        for node, item in measured(world, name).items():
            told = item.get("cipher"), item.get("data_path"), item.get("handshake_age") is not None
            assert (name, node, *told) == (name, node, CIPHERS[kind], "userspace", True), item
            assert item["rx_bytes"] > 0 < item["tx_bytes"]
        if kind == "openvpn":
            assert all(700 < value["certificate_days"] <= 730 for value in measured(world, name).values()), (
                source,
                target,
            )


def able(world: World, node: str, kind: str) -> bool:
    """Whether a host has a key exchange that holds against quantum computers."""
    host = world.lab.host(node)
    if kind == "ipsec":
        return "ML_KEM_768" in host.run(["swanctl", "--list-algs"]).stdout
    return "X25519MLKEM768" in host.run("openssl list -tls-groups -tls1_3 2>/dev/null || true").stdout


@pytest.mark.parametrize("kind", ["openvpn", "ipsec"])
def test_post_quantum_where_both_ends_can(world: World, kind: str) -> None:
    can = {node: able(world, node, kind) for node in "abc"}
    assert can["c"], "Debian's newest can"
    assert not can["a"], "Debian 12 can't"
    for name, source, target in of_type(kind):
        for node, item in measured(world, name).items():
            assert (name, node, item["post_quantum"]) == (name, node, can[source] and can[target])
            assert item["post_quantum"] == ("MLKEM768" in item["key_exchange"].replace("-", ""))


def test_wireguard_has_its_pre_shared_keys(world: World) -> None:
    for name, source, target in of_type("wireguard"):
        keys = set()
        for end in world.tunnels()[name]["ends"]:
            host = world.lab.host(end["node"])
            keys.add(host.run(["wg", "show", end["interface"], "preshared-keys"]).stdout.split()[1])
        assert len(keys) == 1, (source, target)
        assert keys != {"(none)"}


def test_the_wire_shows_the_protocols_own_packets_only(world: World) -> None:
    a, b = world.lab.host("a"), world.lab.host("b")
    ports = {name: world.tunnels()[name]["ends"][1]["port"] for name, *ends in MESH if ends == ["a", "b"]}
    pings = [
        f"ping -n -q -i 0.2 -W 2 -c 5 {full} -p {INNER} {address}"
        for name in ports
        for address in world.addresses(name, "b")
        for full in ("", "-s 1200")
    ]
    unit, file = "wire.service", "/root/wire.pcap"
    capture = f"tcpdump -n -U --immediate-mode -i eth0 -w {file} host {a.address} or host {a.address6}".split()
    b.run(["systemd-run", "--quiet", f"--unit={unit}", *capture])
    until("start of the capture", lambda: "listening on eth0" in b.run(["journalctl", "-u", unit]).stdout)
    # What is looked for can be found: these go beside the tunnels.
    pings += [f"ping -n -q -i 0.2 -W 2 -c 5 -p {PLAIN} {address}" for address in (b.address, b.address6)]
    a.run(" && ".join(pings))

    def packets(condition: str) -> int:
        return len(b.run(["tcpdump", "-n", "-r", file, condition]).stdout.splitlines())

    beside = "icmp or (icmp6 and ip6[40] < 133)"
    until("all pings in the capture", lambda: packets(beside) == 20)
    b.run(["systemctl", "stop", unit])
    for name, port in ports.items():
        assert packets(f"udp port {port}") >= 40, name  # ten there and back, over IPv4 and over IPv6
    neighbours = "arp or (icmp6 and ip6[40] >= 133)"
    own = " or ".join([f"udp port {port}" for port in ports.values()] + ["udp port 500", "tcp port 22", neighbours])
    assert packets(f"not ({own})") == 20, "nothing but the pings beside the tunnels"
    read = re.sub(r"\s", "", b.run(["od", "-An", "-v", "-tx1", file]).stdout)
    assert PLAIN in read
    assert INNER not in read


@pytest.mark.variation
def test_requiring_what_one_end_can_not_is_an_error_that_names_it(world: World) -> None:
    for kind in ("openvpn", "ipsec"):
        world.tunnel(f"strict-{kind}", "a", "c", {"post_quantum": "require"}, tunnel_type=kind)
    run = world.apply("--limit", "a,c")
    assert run.code == 2, run.text
    errors = {
        tunnel["name"]: tunnel["error"]
        for tunnel in run.results("tunnel_apply", "a")[-1]["tunnels"]
        if tunnel["refused"]
    }
    assert set(errors) == {"strict-openvpn", "strict-ipsec"}
    for error in errors.values():
        assert "post_quantum: 'require'" in error
    world.expect_traffic(*MESH)
    for name in errors:
        world.api("DELETE", f"/tunnels/{world.tunnels()[name]['id']}")
