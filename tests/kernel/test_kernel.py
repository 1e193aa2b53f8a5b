# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The kernel's own data paths: a virtual machine with Debian's kernel, joined to a container that has none of them.

Commands in the machine are slow, so there are few of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.lab import Host
from tests.support.world import World, until

pytestmark = pytest.mark.lab

#: Type of a tunnel, which is also its name: what the kernel calls its interface.
KINDS = {"wireguard": "wireguard", "openvpn": "ovpn", "ipsec": "xfrm"}
TUNNELS = [(name, "vm", "ct") for name in KINDS]
#: Seconds for what takes one or two on an idle machine.
PATIENCE = 60
PING = "ping -n -q -i 0.2 -W 5"
#: What pings carry that may be read on the wire, and those that may not: 16 bytes, in hex.
PLAIN = "506c61696e2074657874206f6e206c61"
INNER = "496e7369646520612074756e6e656c21"


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    return make_world(vm="forky+tunnels+kernel", ct="forky+tunnels")


@pytest.fixture
def joined(world: World) -> None:
    """A tunnel of each type, named like it."""
    world.bring_about(*TUNNELS, seconds=PATIENCE)


@pytest.fixture
def vm(world: World) -> Host:
    return world.lab.host("vm")


@pytest.fixture
def ct(world: World) -> Host:
    return world.lab.host("ct")


def ends(world: World, node: str) -> dict[str, dict[str, Any]]:
    """A node's end of each tunnel, as the panel has it."""
    return {name: end for name, tunnel in world.tunnels().items() for end in tunnel["ends"] if end["node"] == node}


def links(world: World, host: Host) -> dict[str, dict[str, Any]]:
    """What a host's kernel reports about the interface of each tunnel; what is missing is left out."""
    there = {link["ifname"]: link for link in json.loads(host.run(["ip", "-json", "-details", "link"]).stdout)}
    interfaces = {name: end["interface"] for name, end in ends(world, host.name).items()}
    return {name: there[interface] for name, interface in interfaces.items() if interface in there}


def kinds(world: World, host: Host) -> dict[str, str | None]:
    """What the kernel calls them."""
    return {name: link["linkinfo"]["info_kind"] for name, link in links(world, host).items()}


def data_paths(world: World, node: str) -> dict[str, str | None]:
    """What a node reported last."""
    return {name: (end["measured"] or {}).get("data_path") for name, end in ends(world, node).items()}


def associations(host: Host) -> int:
    """How many of IPsec's the kernel has."""
    return len(re.findall("^src", host.run(["ip", "xfrm", "state"]).stdout, re.MULTILINE))


def expect_the_kernels_paths(world: World) -> None:
    world.expect_traffic(*TUNNELS, seconds=PATIENCE)
    assert kinds(world, world.lab.host("vm")) == KINDS
    assert kinds(world, world.lab.host("ct")) == dict.fromkeys(KINDS, "tun")
    assert associations(world.lab.host("vm")) >= 2  # there and back; twice, if both called at the same moment
    assert associations(world.lab.host("ct")) == 0


def expect_nothing_to_do(world: World) -> None:
    run = world.apply("--diff").expect()
    assert {name: changes for name in world.lab.hosts if (changes := run.changes(name))} == {}
    assert run.changed() == []


@pytest.mark.usefixtures("joined")
def test_one_run_brings_up_all(world: World, vm: Host) -> None:
    expect_the_kernels_paths(world)
    assert data_paths(world, "vm") == dict.fromkeys(KINDS, "kernel")
    assert data_paths(world, "ct") == dict.fromkeys(KINDS, "userspace")
    assert vm.run(["pgrep", "--list-full", "wireguard-go"], check=False).stdout == ""


@pytest.mark.usefixtures("joined")
def test_a_second_run_changes_nothing(world: World) -> None:
    expect_nothing_to_do(world)


@pytest.mark.usefixtures("joined")
def test_only_the_protocols_own_packets_are_on_the_wire(world: World, vm: Host, ct: Host) -> None:
    """Neither the inner ones, nor pieces of those that fill the interface."""
    pings = []
    for name, link in links(world, vm).items():
        for address, head in zip(world.addresses(name, "ct"), (28, 48), strict=True):  # of IPv4 and IPv6, with ICMP's
            full = f"-M do -s {link['mtu'] - head}"
            pings += [f"{PING} -c 5 -p {INNER} {address}", f"{PING} -c 1 -p {INNER} {full} {address}"]
    unit, file = "wire.service", "/root/wire.pcap"
    capture = f"tcpdump -n -U --immediate-mode -i eth0 -w {file} host {vm.address} or host {vm.address6}".split()
    ct.run(["systemd-run", "--quiet", f"--unit={unit}", *capture])
    until("start of the capture", lambda: "listening on eth0" in ct.run(["journalctl", "-u", unit]).stdout)
    # What is looked for can be found: these go beside the tunnels.
    pings += [f"{PING} -c 5 -p {PLAIN} {address}" for address in (ct.address, ct.address6)]
    vm.run(" && ".join(pings))

    def packets(condition: str) -> int:
        return len(ct.run(["tcpdump", "-n", "-r", file, condition]).stdout.splitlines())

    def port(name: str) -> str:
        return f"udp port {ends(world, 'ct')[name]['port']}"

    beside = "icmp or (icmp6 and ip6[40] < 133)"
    until("all pings in the capture", lambda: packets(beside) == 20)
    ct.run(["systemctl", "stop", unit])
    for name in KINDS:
        assert packets(port(name)) >= 20, name  # five there and back, over IPv4 and over IPv6
    neighbours = "arp or (icmp6 and ip6[40] >= 133)"
    own = " or ".join([port(name) for name in KINDS] + ["udp port 500", "tcp port 22", neighbours])
    assert packets(f"not ({own})") == 20
    assert packets("ip[6:2] & 0x3fff != 0 or ip6 proto 44") == 0

    seen = ct.run(["od", "-An", "-v", "-tx1", file]).stdout
    read = "".join(seen.split())
    assert PLAIN in read
    assert INNER not in read


@pytest.mark.usefixtures("joined")
def test_a_reboot(world: World, vm: Host) -> None:
    """The machine comes back with all tunnels, and with nobody's help."""
    vm.run("echo kept > /root/kept; echo lost > /run/lost; ip address add 198.51.100.1/32 dev eth0")
    vm.reboot()
    assert vm.run("cat /root/kept; cat /run/lost 2> /dev/null", check=False).stdout == "kept\n"
    assert "198.51.100.1" not in vm.run("ip address show dev eth0").stdout
    expect_the_kernels_paths(world)
    expect_nothing_to_do(world)


@pytest.mark.usefixtures("joined")
def test_what_is_removed_leaves_nothing(world: World, vm: Host, ct: Host) -> None:
    for value in world.tunnels().values():
        world.api("DELETE", f"/tunnels/{value['id']}")
    world.apply().expect()
    for host in (vm, ct):
        links = [link["ifname"] for link in json.loads(host.run(["ip", "-json", "link"]).stdout)]
        assert [name for name in links if name.startswith("mz")] == []
        assert host.run("ip xfrm state; ip xfrm policy | grep if_id", check=False).stdout == ""
        assert host.run("nft list tables | grep marzban; ls /etc/marzban/tunnels", check=False).stdout == ""
        assert host.run("systemctl --failed --no-legend").stdout == ""


def test_the_machine_is_a_host_like_the_others(vm: Host, ct: Host) -> None:
    """Its cable can be cut, and what fails in it is told."""
    assert vm.run("cat; exit 3", check=False, input="in").stdout == "in"
    ping = ["ping", "-q", "-c", "1", "-W", "2", vm.address]
    vm.cut()
    assert ct.run(ping, check=False).returncode == 1
    vm.repair()
    until("an answer after the cable was repaired", lambda: ct.run(ping, check=False).returncode == 0)
