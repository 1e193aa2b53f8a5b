# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""From records on the panel to packets, and through the life of tunnels of all types."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.lab.host import Host
from tests.lab.site import Site
from tests.support.world import MESH, TYPES, Pings, World, between, inside, of_type, unanswered, until

pytestmark = pytest.mark.lab
AB = [name for name, _source, _target in between("ab")]
PROGRAMS = "command -v wg; command -v openvpn; command -v swanctl"
#: What pings carry that may be read on the wire, and those that may not: 16 bytes, in hex.
PLAIN = "506c61696e2074657874206f6e206c61"
INNER = "496e7369646520612074756e6e656c21"
CIPHERS = {"wireguard": "ChaCha20-Poly1305", "openvpn": "AES-256-GCM", "ipsec": "AES-128-GCM"}
OWN = "own0"
OWN_ADDRESS = {"a": "192.0.2.1", "b": "192.0.2.2"}


@pytest.fixture(scope="module")
def bare(make_world: Callable[..., World]) -> World:
    """Debian 12, testing and 13, for which the panel has the tunnels of MESH. One host is bare: what it needs is
    installed by the first run.

    It has python3-apt, as most servers do; hosts without it, and bare ones of Debian 12, are in the molecule scenarios.
    """
    world = make_world(login=False, a="bookworm+tunnels", b="forky+tunnels", c="trixie+demo")
    world.mesh()
    return world


def not_up(world: World) -> list[tuple[str, str, str]]:
    """The tunnels of MESH that the panel does not have as active, a host lacks, or that pass no packets."""
    records = world.tunnels()
    missing = {item for item in MESH if records.get(item[0], {}).get("status") != "active"}
    asked: dict[str, dict[str, tuple[str, str, str]]] = {}
    for name, source, target in set(MESH) - missing:
        folder = f"etc/marzban/tunnels/{records[name]['uuid']}"
        if not all((world.lab.host(host).root / folder).exists() for host in (source, target)):
            missing.add((name, source, target))
        asked.setdefault(source, {}).update(dict.fromkeys(inside(records[name], target), (name, source, target)))
    for source, owners in asked.items():
        missing |= {owners[address] for address in unanswered(world.lab.host(source), owners)}
    return [item for item in MESH if item in missing]


@pytest.fixture
def world(bare: World) -> World:
    """The same, with all tunnels up, whatever the test before has done."""
    missing = not_up(bare)
    for name, source, target in missing:
        if name not in bare.tunnels():
            bare.tunnel(name, source, target, tunnel_type=name.partition("-")[2])
    if missing:
        bare.apply().expect()
        bare.expect_traffic(*MESH)
    return bare


def own_config(host: Host, peer: Host, private: str, public: str) -> str:
    return (
        f"[Interface]\nAddress = {OWN_ADDRESS[host.name]}/24\nListenPort = 7\nPrivateKey = {private}\n"
        f"[Peer]\nPublicKey = {public}\nAllowedIPs = {OWN_ADDRESS[peer.name]}/32\nEndpoint = {peer.address}:7\n"
    )


def own_state(host: Host) -> str:
    """All there is to the operator's own tunnel, except for handshakes and counters."""
    show = "; ".join(f"wg show {OWN} {what}" for what in ("public-key", "listen-port", "peers", "allowed-ips"))
    commands = f"ip addr show {OWN}; ip route show dev {OWN}; {show}; cat /etc/wireguard/{OWN}.conf"
    return host.run(f"{commands}; systemctl is-enabled wg-quick@{OWN}").stdout


@pytest.fixture
def own(world: World) -> Iterator[tuple[Pings, dict[str, str]]]:
    """A tunnel of the operator's own between a and b, made by hand, with pings in it."""
    a, b = world.lab.host("a"), world.lab.host("b")
    keys = {}
    for host in (a, b):
        private = host.run("wg genkey").stdout.strip()
        keys[host.name] = private, host.run("wg pubkey", input=private).stdout.strip()
    for host, peer in ((a, b), (b, a)):
        text = own_config(host, peer, keys[host.name][0], keys[peer.name][1])
        host.run(f"umask 077; cat >/etc/wireguard/{OWN}.conf", input=text)
        host.run(f"systemctl enable --quiet --now wg-quick@{OWN}")
    pings = Pings(a, OWN_ADDRESS["b"]).start()
    yield pings, {host.name: own_state(host) for host in (a, b)}
    lost = pings.stop()
    for host in (a, b):
        host.run(f"systemctl disable --quiet --now wg-quick@{OWN}; rm /etc/wireguard/{OWN}.conf")
    assert lost == set()


def expect_own_untouched(world: World, own: tuple[Pings, dict[str, str]]) -> None:
    pings, looks = own
    for name, state in looks.items():
        assert own_state(world.lab.host(name)) == state
    assert pings.lost() == set(), "pings in the operator's own tunnel were lost"


def test_the_quartet_on_a_bare_host(bare: World) -> None:
    """Check, apply, and apply again after a reboot of one of the hosts. That a check then finds nothing to do is in the
    quartets of test_*_hosts.py."""
    before = len(bare.panel.writes())
    predicted = bare.apply("--check", "--diff").expect()
    for name in "abc":
        assert predicted.changes(name)
    assert len(bare.panel.writes()) == before, "check mode wrote to the panel"
    for host in bare.lab.hosts.values():
        assert host.run("ls -d /etc/marzban", check=False).stdout == ""
    bare.lab.host("c").run("! ls -d /etc/wireguard /etc/openvpn /etc/swanctl")
    assert bare.lab.host("c").run(PROGRAMS, check=False).stdout == ""

    done = bare.apply("--diff").expect()
    for name in "abc":
        assert done.changes(name)
    bare.expect_traffic(*MESH)
    assert {value["status"] for value in bare.tunnels().values()} == {"active"}

    bare.lab.host("c").reboot()
    bare.expect_traffic(*MESH)
    assert bare.apply("--diff").expect().changed() == []
    bare.expect_traffic(*MESH)


def measured(world: World, name: str) -> dict[str, dict[str, Any]]:
    """What each end of a tunnel reported last."""
    return {end["node"]: end["measured"] for end in world.tunnels()[name]["ends"]}


def test_each_pair_of_releases_has_each_type(world: World) -> None:
    world.play("status").expect()
    assert {value["status"] for value in world.tunnels().values()} == {"active"}
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
    assert can["b"], "Debian's newest can"
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
        world.tunnel(f"strict-{kind}", "a", "b", {"post_quantum": "require"}, tunnel_type=kind)
    run = world.apply("--limit", "a,b")
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


@pytest.mark.variation
def test_deactivate_and_activate(world: World, own: tuple[Pings, dict[str, str]]) -> None:
    before = world.tunnels()
    for name in AB:
        world.api("POST", f"/tunnels/{before[name]['id']}/deactivate")
    stopped = world.apply("--diff").expect()
    assert stopped.changes("a") == {name: ["stopped"] for name in AB} == stopped.changes("b")
    assert stopped.changes("c") == {}
    for name in AB:
        assert world.silent(name, "a", "b")
        assert world.silent(name, "b", "a")
        assert world.tunnels()[name]["status"] == "inactive"
    world.expect_traffic(*between("bc"), *between("ac"))

    for name in AB:
        world.api("POST", f"/tunnels/{before[name]['id']}/activate")
    started = world.apply("--diff").expect()
    assert sorted(started.changes("a")) == sorted(AB) == sorted(started.changes("b"))
    world.expect_traffic(*MESH)
    for name in AB:
        ends = zip(before[name]["ends"], world.tunnels()[name]["ends"], strict=True)
        assert all(old["public"]["public_key"] == new["public"]["public_key"] for old, new in ends)
    expect_own_untouched(world, own)


@pytest.mark.variation
def test_drift_is_named_and_repaired(world: World, own: tuple[Pings, dict[str, str]]) -> None:
    """Of several tunnels at once; what check mode says is repaired on one host, and nothing else anywhere."""
    ends = {
        name: next(end for end in world.tunnels()[name]["ends"] if end["node"] == "a")
        for name, source, target in MESH
        if "a" in (source, target)
    }
    address = ends["ab-wireguard"]["addresses"][1]
    first, second, third, fourth = (
        ends[name]["interface"] for name in ("ab-wireguard", "ac-wireguard", "ab-openvpn", "ac-openvpn")
    )
    world.lab.host("a").run(
        f"ip addr del {address} dev {first}; systemctl stop wg-quick@{second} openvpn-server@{third};"
        f" ip link set {fourth} mtu 1300; systemctl disable -q openvpn-server@{fourth}; rm /etc/wireguard/{first}.conf"
    )
    expected = {
        "ab-wireguard": ["conf written", f"address {address} added"],
        "ac-wireguard": ["started"],
        "ab-openvpn": ["started"],
        "ac-openvpn": ["enabled", "MTU 1444 instead of 1300"],
    }
    predicted = world.apply("--check", "--diff").expect()
    assert {name: predicted.changes(name) for name in "abc"} == {"a": expected, "b": {}, "c": {}}
    repaired = world.apply("--diff", "--limit", "a").expect()
    assert repaired.changes("a") == expected
    world.expect_traffic(*MESH)
    expect_own_untouched(world, own)


@pytest.mark.variation
def test_a_fresh_host_in_the_place_of_an_old_one(world: World, own: tuple[Pings, dict[str, str]]) -> None:
    before = world.tunnels()
    c = world.lab.host("c")
    c.replace()
    assert c.run(PROGRAMS, check=False).stdout == ""
    replaced = world.apply("--diff").expect()
    assert c.run(PROGRAMS).stdout.split() == ["/usr/bin/wg", "/usr/sbin/openvpn", "/usr/sbin/swanctl"]
    world.expect_traffic(*MESH)
    for name, tunnel in world.tunnels().items():
        for old, new in zip(before[name]["ends"], tunnel["ends"], strict=True):
            same = new["public"]["public_key"] == old["public"]["public_key"]
            assert same == (new["node"] != "c")
    assert not set(AB) & set(replaced.changes("a"))
    expect_own_untouched(world, own)


@pytest.fixture(scope="module")
def sites(bare: World) -> tuple[Site, Site]:
    """A network behind a, and one behind b."""
    left = bare.lab.host("a").add_site("left", "192.168.50.0/24", "fd50::/64")
    return left, bare.lab.host("b").add_site("right", "192.168.60.0/24", "fd60::/64")


@pytest.mark.parametrize(
    "kind", [*(pytest.param(kind, marks=pytest.mark.variation) for kind in TYPES if kind != "ipsec"), "ipsec"]
)
def test_networks_behind_two_nodes(world: World, sites: tuple[Site, Site], kind: str) -> None:
    """Two sites reach each other through a tunnel whose ends name their networks."""
    a, b = world.lab.host("a"), world.lab.host("b")
    left, right = sites
    tunnel = f"ab-{kind}"
    for host in (a, b):  # the operator's own decision, which the collection leaves to them
        host.run("sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")

    def crosses() -> bool:
        there = [
            left.run(["ping", "-n", "-c1", "-W1", address], check=False).returncode == 0 for address in right.addresses
        ]
        back = [
            right.run(["ping", "-n", "-c1", "-W1", address], check=False).returncode == 0 for address in left.addresses
        ]
        return all(there + back)

    assert not crosses()
    config = {"source": {"routes": left.plan.networks}, "target": {"routes": right.plan.networks}}
    world.change(tunnel, config=config)
    routed = world.apply("--diff").expect()
    assert "route 192.168.60.0/24 added" in routed.changes("a")[tunnel]
    assert "started" not in routed.changes("a")[tunnel]
    until("the two sites reach each other", crosses)

    b.reboot()
    b.run("sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
    until("the two sites reach each other after a reboot", crosses)

    world.change(tunnel, config={})
    world.apply("--diff").expect()
    assert not crosses()
    assert "192.168.60.0/24" not in a.run("ip route").stdout
    world.expect_traffic(*between("ab"), *between("bc"))


# Last, because all tunnels have to come up again after it.


def traces(host: Host) -> str:
    """Whatever of ours a host still has: folders, confs, units, interfaces, tables, processes."""
    return host.run(
        f"ls -d /etc/marzban 2>/dev/null; ls -A /etc/wireguard | grep -v '^{OWN}.conf$';"
        " find /etc/openvpn /etc/swanctl /etc/strongswan.d /run/openvpn* -name 'mz[0-9]*' -o -name '*marzban*';"
        f" systemctl list-units --all --no-legend --plain 'wg-quick@*' | grep -v '^wg-quick@{OWN}.service';"
        " systemctl list-units --all --no-legend --plain 'openvpn-*@*' 'marzban*';"
        " find /etc/systemd /run/systemd -name '*@mz*' -o -name 'marzban*';"
        " ip -o link | grep -w 'mz[0-9]*'; ip addr | grep 'inet.* 10\\.201\\.';"
        " ip route show table all | grep -w 'mz[0-9]*'; nft list tables | grep marzban;"
        " pgrep -a 'wireguard-go|openvpn' | grep -w 'mz[0-9]*'; swanctl --list-conns | grep mz;"
        " ls -A /root/.ansible/tmp",
        check=False,
    ).stdout


@pytest.mark.parametrize(
    "kind", ["openvpn", *(pytest.param(kind, marks=pytest.mark.variation) for kind in TYPES if kind != "openvpn")]
)
def test_remove_one_and_then_all(world: World, own: tuple[Pings, dict[str, str]], kind: str) -> None:
    tunnel = f"ac-{kind}"
    interface = world.tunnels()[tunnel]["ends"][0]["interface"]
    removed = world.play("remove", "-e", f"marzban_tunnel={tunnel}", "--diff").expect()
    for name in "ac":
        gone = [item["name"] for answer in removed.results("tunnel_apply", name) for item in answer["removed"]]
        assert gone == [tunnel]
        assert interface not in traces(world.lab.host(name))
    left = [item for item in MESH if item[0] != tunnel]
    assert sorted(world.tunnels()) == sorted(name for name, _a, _b in left)
    world.expect_traffic(*left)

    # The records stay, and so does what is on the hosts that are not in the run.
    world.play("remove", "-e", "marzban_all=true", "--limit", "a,c", "--diff").expect()
    assert traces(world.lab.host("a")) == ""
    assert traces(world.lab.host("c")) == ""
    assert len(world.tunnels()) == len(left)
    assert "mz" in traces(world.lab.host("b"))
    everywhere = world.play("remove", "-e", "marzban_all=true", "--diff").expect()
    assert traces(world.lab.host("b")) == ""
    assert everywhere.changed("a", "c") == []
    expect_own_untouched(world, own)
