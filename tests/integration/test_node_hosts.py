# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What tunnel_apply and tunnel_health do on real hosts, without Ansible in between."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Iterator

import pytest

from ansible_collections.marzban.tunnels.plugins.module_utils._node.packages import NO_TUN
from tests.lab.lab import Lab
from tests.support import labs
from tests.support.nodes import PANEL, Directly, leftovers, no_packet_lost, uuid
from tests.support.records import ED25519
from tests.support.world import TOP, until

pytestmark = pytest.mark.lab
CONFIG = "/etc/marzban/tunnels"
OTHER_PANEL = "9d1f3b52-7c9e-4c8e-9b0f-3a2d5e6f7a89"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.up(labs.named("node-hosts"), {"a": "bookworm+tunnels", "b": "trixie+tunnels", "bare": "bookworm"}) as lab:
        yield lab


def test_quartet_from_nothing(nodes: Directly) -> None:
    pair = nodes.views(nodes.pair(1))
    first = nodes.check(pair)
    assert all(first[host].tunnel(1)["changes"] == ["key made"] and first[host]["changed"] for host in "ab")
    assert all(leftovers(nodes, host) == "" for host in "ab"), "check mode wrote something"
    made = nodes.apply(pair)
    for host, peer in (("a", "b"), ("b", "a")):
        assert made[host].tunnel(1)["publish"]
        assert made[host].tunnel(1)["waiting_for"] == peer
        assert made[host].tunnel(1)["status"] == "connecting"
        assert not made[host].tunnel(1)["refused"]
    assert not nodes.apply(pair)["a"]["changed"], "waiting is not a change"

    pair = nodes.views(nodes.pair(1))
    would = nodes.check(pair)
    did = nodes.apply(pair)
    for host in "ab":
        assert (
            would[host].tunnel(1)["changes"] == did[host].tunnel(1)["changes"] == ["conf written", "enabled", "started"]
        )
        assert [part["after_header"] for part in would[host]["diff"]] == [
            part["after_header"] for part in did[host]["diff"]
        ]
        assert not did[host].tunnel(1)["publish"]
    for answer in nodes.health(pair, "--check", wait=60).values():
        assert answer.statuses() == {"active"}
        assert not answer["changed"]
    assert nodes.reaches("a", 1, 1)
    assert nodes.reaches("b", 1, 0)
    for answers in (nodes.check(pair), nodes.apply(pair)):
        for host in "ab":
            assert not answers[host]["changed"], answers[host]
            assert answers[host]["diff"] == []
            assert answers[host].statuses() == {"active"}
            measured = answers[host].tunnel(1)["measured"]
            assert measured["loss_percent"] == 0
            assert 0 < measured["rtt_ms"] < 1000
            assert measured["handshake_age"] < 180
            assert measured["rx_bytes"] > 0 < measured["tx_bytes"]
    assert nodes.sh(
        "a", "stat -c %a /etc/wireguard/mz1.conf /etc/marzban/tunnels /etc/marzban/tunnels/*/*"
    ).split() == (["600", "700", "600", "600", "600"])
    nodes.clear()
    assert all(leftovers(nodes, host) == "" for host in "ab")


def test_drift_is_put_back_and_named(nodes: Directly) -> None:
    views = nodes.up(1)
    key = nodes.publics[uuid(1), "b"]["public_key"]
    nodes.sh(
        "a",
        f"""ip addr del 10.201.1.2/31 dev mz1; ip link set mz1 mtu 1300; nft flush ruleset; rm /etc/wireguard/mz1.conf
        systemctl disable wg-quick@mz1 2>/dev/null; wg set mz1 listen-port 0 fwmark 7
        wg set mz1 peer {key} persistent-keepalive 0 allowed-ips 10.9.0.0/24""",
    )
    changes = nodes.apply(views)["a"].tunnel(1)["changes"]
    assert [re.sub(r"instead of \d+", "instead", change) for change in changes] == [
        "conf written",
        "enabled",
        "firewall rules loaded",
        "MTU 1440 instead",
        "address 10.201.1.2/31 added",
        "listen port 20001 instead",
        "firewall mark 0 instead",
        "allowed IPs 10.201.1.3/32, fd6d:7a00::1:3/128",
        "keepalive 25 s instead",
    ]
    for broken, wanted in (
        (
            f"ip link set mz1 down; wg set mz1 peer {key} remove",
            ["link up", "address fd6d:7a00::1:2/127 added", f"peer {key[:8]}… added"],
        ),
        ("wg genkey | wg set mz1 private-key /dev/stdin", ["private key loaded"]),
        ("wg set mz1 peer $(wg genkey | wg pubkey) allowed-ips 10.77.0.0/24", None),
        (f"nft add rule inet marzban-{uuid(1)} guard accept", ["firewall rules loaded"]),
        ("systemctl stop wg-quick@mz1", ["started"]),
        ("ip link delete mz1", ["started"]),
        ("systemctl stop wg-quick@mz1; wg-quick up mz1 2>/dev/null", ["started"]),
        (f"chmod 644 {CONFIG}/{uuid(1)}/private.key", ["private key closed to others"]),
    ):
        nodes.sh("a", broken)
        would = nodes.check({"a": views["a"]})["a"].tunnel(1)["changes"]
        changes = nodes.apply({"a": views["a"]})["a"].tunnel(1)["changes"]
        assert would == changes
        if wanted is None:
            assert len(changes) == 1
            assert re.match(r"peer .{8}… removed\Z", changes[0])
        else:
            assert changes == wanted
    assert nodes.health(views, wait=60)["a"].statuses() == {"active"}
    assert not nodes.apply(views)["a"]["changed"]


def test_wireguard_go_that_dies_comes_back_by_itself(nodes: Directly) -> None:
    """wg-quick's unit, a oneshot, would stay active without it."""
    views = nodes.up(1)
    place = "/etc/systemd/system/wg-quick@mz1.service.d"

    def process(host: str) -> str:
        return nodes.sh(host, "pgrep -f '^wireguard-go mz1$'", check=False).strip()

    for host in "ab":
        dead = process(host)
        nodes.sh(host, f"kill -KILL {dead}")
        until("another process", lambda host=host, dead=dead: process(host) not in ("", dead))  # type: ignore[misc]
        until("traffic", lambda: nodes.reaches("a", 1, 1))
        assert not nodes.apply({host: views[host]})[host]["changed"]

    # As a version before this one has left it: the unit is changed while the tunnel runs on.
    nodes.sh("a", f"systemctl stop wg-quick@mz1; rm -r {place}; systemctl daemon-reload; systemctl start wg-quick@mz1")
    with no_packet_lost(nodes, 1):
        assert nodes.apply({"a": views["a"]})["a"].tunnel(1)["changes"] == ["unit changed"]
    nodes.sh("a", f"kill -KILL {process('a')}")
    assert "wg-quick@mz1.service is not running" in nodes.health({"a": views["a"]})["a"].errors()[0]
    assert nodes.apply({"a": views["a"]})["a"].tunnel(1)["changes"] == ["started"]
    dead = process("a")
    nodes.sh("a", f"kill -KILL {dead}")
    until("another process", lambda: process("a") not in ("", dead))
    nodes.clear()
    assert nodes.sh("a", f"ls -d {place} 2>/dev/null; systemctl show -P Type wg-quick@mz1") == "oneshot\n"


def test_only_the_tunnel_leads_to_its_addresses(nodes: Directly) -> None:
    """A neighbour that sends packets for a tunnel's address over the plain link gets no answer: the rules drop them."""
    views = nodes.up(1)
    a = nodes.lab.host("a")
    ways = [("10.201.1.2", a.address), ("fd6d:7a00::1:2", a.address6)]
    nodes.sh("bare", "; ".join(f"ip route add {address} via {way} dev eth0" for address, way in ways))

    def answered() -> list[bool]:
        return [
            nodes.lab.host("bare").run(["ping", "-n", "-c", "1", "-W", "1", address], check=False).returncode == 0
            for address, _way in ways
        ]

    try:
        assert answered() == [False, False]
        nodes.sh("a", f"nft delete table inet marzban-{uuid(1)}")
        assert answered() == [True, True], "the packets don't come this far, and the rules prove nothing"
        assert nodes.apply(views)["a"].tunnel(1)["changes"] == ["firewall rules loaded"]
        assert answered() == [False, False]
    finally:
        nodes.sh("bare", "; ".join(f"ip route del {address}" for address, _way in ways))
    assert nodes.reaches("b", 1, 0)


def test_the_mtu_does_not_follow_what_a_router_said(nodes: Directly) -> None:
    """The kernel forgets it after ten minutes, and the other end never heard of it."""
    b, router = nodes.lab.host("b").address, nodes.lab.host("bare").address
    views = nodes.up(1)
    quiet = "sysctl -q -w net.ipv4.conf.all.send_redirects={0} net.ipv4.conf.eth0.send_redirects={0}"
    nodes.sh("bare", f"sysctl -q -w net.ipv4.ip_forward=1; {quiet.format(0)}; ip route add {b} dev eth0 mtu lock 1400")
    nodes.sh("a", f"ip route add {b} via {router}; ping -c 1 -W 1 -M do -s 1472 {b} || true")
    try:
        assert "expires" in nodes.sh("a", f"ip route get {b}")
        assert "mtu 1400" in nodes.sh("a", f"ip route get {b}")
        assert not nodes.apply(views)["a"]["changed"]
        nodes.sh("a", f"ip route change {b} via {router} mtu 1410")
        assert nodes.apply(views)["a"].tunnel(1)["changes"][-1] == "MTU 1350 instead of 1440"
    finally:
        nodes.sh("a", f"ip route del {b}; ip route flush cache")
        nodes.sh("bare", f"ip route del {b}; sysctl -q -w net.ipv4.ip_forward=0; {quiet.format(1)}")


def test_large_packets_that_do_not_pass_are_an_error_with_the_size_to_set(nodes: Directly) -> None:
    """Small pings are answered, and no transfer would end: the size that passes is found, and is right."""
    kinds = {1: "wireguard", 2: "openvpn", 3: "ipsec"}

    def views(**mtus: int) -> dict[str, list[dict[str, object]]]:
        pairs = [nodes.pair(number, type=kind, mtu=mtus.get(kind)) for number, kind in kinds.items()]
        return nodes.views(*pairs)

    nodes.apply(views())
    nodes.apply(views())
    for answer in nodes.health(views(), wait=60).values():
        assert (answer.statuses(), answer.errors()) == ({"active"}, [])
    nodes.sh(
        "b",
        "nft add table inet narrow; nft 'add chain inet narrow in { type filter hook input priority 0; }';"
        " nft add rule inet narrow in meta l4proto udp meta length '>' 1400 drop",
    )
    try:
        mtus: dict[str, int] = {}
        for host, answer in nodes.health(views()).items():
            for number, kind in kinds.items():
                tunnel = answer.tunnel(number)
                found = re.search(
                    r"packets of (\d+) bytes, its MTU, do not pass.*: set mtu to (\d+)", tunnel["error"] or ""
                )
                assert found, (host, kind, tunnel)
                assert (tunnel["status"], tunnel["measured"]["loss_percent"]) == ("error", 0)
                mtus[kind] = min(mtus.get(kind, 9999), int(found[2]))
                assert int(found[1]) > mtus[kind] >= 1280
        nodes.apply(views(**mtus))
        for answer in nodes.health(views(**mtus), wait=60).values():
            assert (answer.statuses(), answer.errors()) == ({"active"}, [])
        nodes.sh("b", "nft add rule inet narrow in meta l4proto udp meta length '>' 700 drop")
        error = nodes.health(views(**mtus))["a"].tunnel(1)["error"]
        assert "nor does anything above 1280" in error
    finally:
        nodes.sh("b", "nft delete table inet narrow")


def test_over_ipv6(nodes: Directly) -> None:
    """The MTU leaves room for what IPv6 adds outside, and heeds what the route to the other end says."""
    a, b = nodes.lab.host("a"), nodes.lab.host("b")
    nodes.sh("a", f"ip route add {b.address6} dev eth0 mtu 1400")
    try:
        nodes.up(1, ends={"a": {"endpoint": a.address6}, "b": {"endpoint": b.address6}})
    finally:
        nodes.sh("a", f"ip route del {b.address6}")
    for host, peer, mtu in (("a", b, 1320), ("b", a, 1420)):
        conf = nodes.sh(host, "cat /etc/wireguard/mz1.conf")
        assert f"Endpoint = [{peer.address6}]:20001\n" in conf
        assert f"MTU = {mtu}\n" in conf
        assert f" mtu {mtu} " in nodes.sh(host, "ip link show mz1")
        assert f"[{peer.address6}]:20001" in nodes.sh(host, "wg show mz1 endpoints")
    assert nodes.reaches("a", 1, 1)
    nodes.sh("a", f"ping -n -c 1 -W 1 -M do -s {1320 - 28} 10.201.1.3")  # as large as fits, in one piece


def test_what_others_added_to_our_interface_stays(nodes: Directly) -> None:
    views = nodes.up(1)
    nodes.sh("a", "ip addr add 10.99.0.1/32 dev mz1; ip route add 10.98.0.0/24 dev mz1")
    assert not nodes.apply(views)["a"]["changed"]
    nodes.apply(
        nodes.views(nodes.pair(1, ends={"a": {"addresses": ["10.201.1.4/31"]}, "b": {"addresses": ["10.201.1.5/31"]}}))
    )
    there = nodes.sh("a", "ip -o addr show dev mz1; ip route show dev mz1")
    assert "10.99.0.1/32" in there
    assert "10.98.0.0/24" in there
    assert "10.201.1.4/31" in there
    assert "10.201.1.2" not in there
    assert "fd6d" not in there


def test_deactivate_and_activate(nodes: Directly) -> None:
    nodes.up(1)
    off = nodes.views(nodes.pair(1, active=False))
    assert nodes.check(off)["a"].tunnel(1)["changes"] == ["stopped"]
    assert nodes.reaches("a", 1, 1), "check mode stopped it"
    answer = nodes.apply(off)
    assert all(
        answer[host].tunnel(1)["status"] == "inactive" and answer[host].tunnel(1)["changes"] == ["stopped"]
        for host in "ab"
    )
    assert answer["a"].tunnel(1)["public"] == nodes.publics[uuid(1), "a"]
    assert not nodes.reaches("a", 1, 1)
    assert leftovers(nodes, "a") == "tunnels"
    assert not nodes.apply(off)["a"]["changed"]
    keys = dict(nodes.publics)
    on = nodes.views(nodes.pair(1))
    nodes.apply(on)
    assert nodes.health(on, wait=60)["b"].statuses() == {"active"}
    assert nodes.publics == keys


def test_remove_takes_only_what_is_named(nodes: Directly) -> None:
    views = nodes.up(1, 2)
    nodes.sh(
        "a",
        f"""ip link add wgx type wireguard 2>/dev/null || wireguard-go wgx; ip addr add 10.77.0.1/24 dev wgx
        wg genkey > /root/wgx.key; wg set wgx private-key /root/wgx.key listen-port 33333; ip link set wgx up
        printf '[Interface]\\n' > /etc/wireguard/other.conf; nft add table inet operator
        mkdir -p {CONFIG}/{uuid(77)}; cp -r {CONFIG}/{uuid(1)} {CONFIG}/{uuid(78)}
        sed -i 's/{PANEL}/{OTHER_PANEL}/; s/{uuid(1)}/{uuid(78)}/; s/mz1/mz78/' {CONFIG}/{uuid(78)}/state.json""",
    )
    theirs = (
        "wg show wgx public-key; ip -o addr show dev wgx; ls -l /etc/wireguard/other.conf;"
        f" nft list table inet operator; ls -lR {CONFIG}/{uuid(78)}"
    )
    before = nodes.sh("a", theirs)
    first = {"a": [views["a"][0]]}
    answer = nodes.apply(first)["a"]
    assert answer["orphans"] == [
        {"id": 2, "uuid": uuid(2), "node": "a", "name": "t2", "type": "wireguard", "interface": "mz2"}
    ]
    assert nodes.reaches("a", 2, 1), "absence is not removal"
    assert {(entry["uuid"], entry["panel"]) for entry in answer["foreign"]} == {
        (uuid(77), None),
        (uuid(78), OTHER_PANEL),
    }

    assert nodes.check(first, remove=[uuid(2)])["a"]["removed"][0]["uuid"] == uuid(2)
    assert nodes.reaches("a", 2, 1), "check mode removed it"
    for gone in ([uuid(2), uuid(78)], [uuid(2), uuid(78)]):
        answer = nodes.apply(first, remove=gone)["a"]
        assert answer["orphans"] == []
        assert answer["changed"] == bool(answer["removed"])
    assert nodes.sh("a", "wg show interfaces").split() in (["mz1", "wgx"], ["wgx", "mz1"])
    assert not nodes.sh("a", f"ls -d {CONFIG}/{uuid(2)} /etc/wireguard/mz2.conf 2>/dev/null || true")
    assert nodes.reaches("a", 1, 1)
    assert "views too" in nodes.run_on("a", "tunnel_apply", first["a"], remove=[uuid(1)]).answer["msg"]
    # An interface that isn't ours is never taken over, however the record names it.
    taken = nodes.apply({"a": [nodes.pair(3, interface="wgx")["a"], nodes.pair(4, interface="other")["a"]]})["a"]
    assert taken["changed"] == any(tunnel["changes"] for tunnel in taken["tunnels"])
    nodes.publics[uuid(3), "b"] = nodes.publics[uuid(4), "b"] = nodes.publics[uuid(1), "b"]
    taken = nodes.apply({"a": [nodes.pair(3, interface="wgx")["a"], nodes.pair(4, interface="other")["a"]]})["a"]
    assert all("not made by marzban.tunnels" in error for error in taken.errors())
    assert len(taken.errors()) == 2
    nodes.publics[uuid(5), "b"] = nodes.publics[uuid(1), "b"]
    (anothers,) = nodes.apply({"a": [nodes.pair(5, interface="mz78")["a"]]})["a"].errors()
    assert f"A tunnel that belongs to the panel {OTHER_PANEL} has it on this host, {CONFIG}/{uuid(78)}" in anothers
    assert f"marzban.tunnels.remove -e marzban_foreign={OTHER_PANEL}." in anothers
    nodes.clear()
    assert nodes.sh("a", theirs) == before
    nodes.sh(
        "a",
        f"""ip link delete wgx; nft delete table inet operator
        rm -r /etc/wireguard/other.conf {CONFIG}/{uuid(77)} {CONFIG}/{uuid(78)}""",
    )


def test_changes_lose_no_packet_of_others(nodes: Directly) -> None:
    nodes.up(1, 2, 3)
    ends = {"a": {"port": 21000, "routes": ["10.44.0.0/24"]}, "b": {"routes": ["10.43.0.0/24"]}}
    changed = nodes.pair(2, keepalive=5, mtu=1300, ends=ends)
    nodes.publics[uuid(4), "b"] = nodes.publics[uuid(2), "b"]
    with no_packet_lost(nodes, 3):
        answers = nodes.apply(nodes.views(changed, nodes.pair(3), nodes.pair(4)), remove=[uuid(1)])
    assert "started" not in answers["a"].tunnel(2)["changes"]
    assert answers["a"].tunnel(4)["changes"][-1] == "started"
    assert answers["a"]["removed"]
    assert "10.43.0.0/24" in nodes.sh("a", "ip route show dev mz2")
    assert nodes.health(nodes.views(changed), wait=60)["a"].statuses() == {"active"}


def test_a_hot_change_loses_no_packet_of_the_tunnel_itself(nodes: Directly) -> None:
    nodes.up(1)
    with no_packet_lost(nodes, 1):
        answers = nodes.apply(nodes.views(nodes.pair(1, keepalive=7, ends={"b": {"routes": ["10.43.0.0/24"]}})))
    assert "keepalive 7 s instead of 25" in answers["a"].tunnel(1)["changes"]


def test_reboot(nodes: Directly) -> None:
    views = nodes.up(1, ends={"b": {"routes": ["10.43.0.0/24"]}})
    nodes.reboot("a")
    assert nodes.health(views, wait=60)["b"].statuses() == {"active"}
    assert nodes.reaches("b", 1, 0)
    answer = nodes.apply(views)["a"]
    assert not answer["changed"], answer
    assert "10.43.0.0/24" in nodes.sh("a", "ip route show dev mz1")
    assert nodes.sh("a", "systemctl is-system-running").strip() == "running"


def test_interface_gets_another_name(nodes: Directly) -> None:
    nodes.up(1, 2)
    renamed = nodes.views(nodes.pair(1, interface="mz2"), nodes.pair(2, interface="mz1"))
    answer = nodes.apply(renamed)["a"]
    assert "interface mz2 instead of mz1" in answer.tunnel(1)["changes"]
    assert nodes.health(renamed, wait=60)["a"].statuses() == {"active"}
    assert not nodes.apply(renamed)["a"]["changed"]
    fresh = nodes.views(nodes.pair(1, interface="mz7"), nodes.pair(2, interface="mz1"))
    nodes.apply(fresh)
    assert nodes.health(fresh, wait=60)["a"].statuses() == {"active"}
    assert sorted(nodes.sh("a", "ls /etc/wireguard").split()) == ["mz1.conf", "mz7.conf"]


def test_a_host_without_a_tun_device_is_told_so(nodes: Directly) -> None:
    """As in a container whose provider did not allow it. Before, each type ended in words of another program."""
    pairs = [nodes.pair(number, type=kind) for number, kind in enumerate(("wireguard", "openvpn", "ipsec"), 1)]
    nodes.sh("a", "mount -t tmpfs tmpfs /dev/net")
    try:
        answer = nodes.apply({"a": [pair["a"] for pair in pairs]})["a"]
    finally:
        nodes.sh("a", "umount /dev/net")
    assert answer.errors() == [f"tunnel t{number} on a: {NO_TUN}" for number in (1, 2, 3)]
    assert (answer["missing"], answer["unavailable"], answer["packages"]) == (["tun"], [NO_TUN], [])
    assert "mz" not in leftovers(nodes, "a")


def test_the_strongswan_of_these_tests_is_one_without_the_hole(nodes: Directly) -> None:
    """docs/ipsec.md names the package of Debian 13 that is repaired; what users get today must not be an older one."""
    repaired = "6.0.1-6+deb13u7"
    assert f"`{repaired}`" in (TOP / "docs/ipsec.md").read_text()
    installed = nodes.sh("b", "dpkg-query -W -f '${Version}' charon-systemd")
    nodes.sh("b", f"dpkg --compare-versions {installed} ge {repaired}")


def test_why_strongswan_does_not_start(nodes: Directly) -> None:
    """Its own words, and not those of systemctl, which are to look for them. STAND-IN: a charon that ends at once."""
    folder = "/run/systemd/system/strongswan.service.d"
    lines = (
        "[Service]",
        "SyslogIdentifier=charon-systemd",
        "ExecStart=",
        "ExecStart=sh -c 'echo no luck today; exit 1'",
    )
    nodes.lab.host("a").run(f"systemctl stop strongswan; mkdir {folder}; cat > {folder}/x.conf", input="\n".join(lines))
    nodes.sh("a", "systemctl daemon-reload")
    pair = nodes.pair(1, type="ipsec")
    pair["a"]["peer"]["public"] = {"public_key": ED25519}
    try:
        (error,) = nodes.apply({"a": [pair["a"]]})["a"].errors()
    finally:
        nodes.sh("a", f"rm -r {folder}; systemctl daemon-reload; systemctl reset-failed; systemctl start strongswan")
    assert error.startswith("tunnel t1 on a: strongSwan does not run: ")
    assert error.endswith("no luck today")
    assert "systemctl" not in error


def test_bare_host_says_what_is_missing(nodes: Directly) -> None:
    pair = nodes.pair(1, a="bare", b="b")
    pair["bare"]["peer"]["public"] = {"public_key": base64.b64encode(b"k" * 32).decode()}
    views = {"bare": [pair["bare"]]}
    would = nodes.check(views)["bare"]
    assert set(would["missing"]) >= {"cryptography", "wireguard-tools", "wireguard-go"}
    assert would.tunnel(1)["changes"] == ["key made", "conf written", "enabled", "started"]
    assert would.errors() == []
    answer = nodes.apply(views)["bare"]
    assert answer["missing"] == would["missing"]
    assert not answer["changed"]
    assert answer.tunnel(1)["refused"]
    assert "cryptography" in answer.tunnel(1)["error"]
    assert not nodes.sh("bare", f"ls {CONFIG} 2>/dev/null || true")
    nodes.clear("bare")


@pytest.mark.variation
def test_fifty_tunnels_in_one_call(nodes: Directly) -> None:
    numbers = range(100, 150)
    nodes.apply(nodes.views(*(nodes.pair(number) for number in numbers)))
    views = nodes.views(*(nodes.pair(number) for number in numbers))
    began = time.monotonic()
    answers = nodes.apply(views)
    started = time.monotonic() - began
    assert all(tunnel["changes"] == ["conf written", "enabled", "started"] for tunnel in answers["a"]["tunnels"])
    for answer in nodes.health(views, wait=60).values():
        assert answer.statuses() == {"active"}, answer.errors()
    began = time.monotonic()
    answers = nodes.apply(views)
    idle = time.monotonic() - began
    assert not any(answer["changed"] for answer in answers.values())
    print(f"50 tunnels on 2 hosts: started in {started:.1f} s, nothing to do in {idle:.1f} s")
