# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a record asks of a host that it must not get, what several changes in one run do to each other, and what is said
of a tunnel that does not work."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.lab.lab import Lab
from tests.support import labs
from tests.support.nodes import Directly, leftovers, uuid
from tests.support.world import until

pytestmark = pytest.mark.lab
CONFIG = "/etc/marzban/tunnels"
OTHER_PANEL = "9d1f3b52-7c9e-4c8e-9b0f-3a2d5e6f7a89"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.up(labs.named("guard"), {"a": "bookworm+tunnels", "b": "trixie+tunnels"}) as lab:
        yield lab


@pytest.fixture
def controller(nodes: Directly) -> Iterator[str]:
    """The address from which a is driven, over an ssh session that lasts as long as the test."""
    session = subprocess.Popen(["ssh", "-F", str(nodes.lab.ssh_config), "a", "sleep 300"])
    try:
        until("the session", lambda: nodes.sh("a", "pgrep -f '^sleep 300' || true"))
        yield nodes.sh("a", "ip route show default").split()[2]
    finally:
        session.terminate()
        session.wait()


def expect_refused(nodes: Directly, ends: dict[str, dict[str, list[str]]], value: str, why: str) -> None:
    answer = nodes.apply({"a": [nodes.pair(1, ends=ends)["a"]]})["a"]
    assert answer.tunnel(1)["refused"], value
    assert why in answer.tunnel(1)["error"], answer.tunnel(1)
    assert value in answer.tunnel(1)["error"]
    assert not answer["changed"]


def test_addresses_that_would_cut_off_are_refused(nodes: Directly, controller: str) -> None:
    """The host's own address inside a tunnel would close the host to everybody; a wide one would take the way out."""
    nodes.up(1)
    a, b = nodes.lab.host("a"), nodes.lab.host("b")
    network, _dot, last = b.address.rpartition(".")
    for address, why in (
        (f"{a.address}/32", "This host has it already, on "),
        (f"{controller.rpartition('.')[0]}.250/24", "SSH connection"),
        (f"{network}.{int(last) ^ 1}/31", "own packets"),
    ):
        expect_refused(nodes, {"a": {"addresses": [address]}}, address, why)
    assert nodes.reaches("a", 1, 1)


def test_routes_that_would_cut_off_are_refused(nodes: Directly, controller: str) -> None:
    nodes.up(1)
    b = nodes.lab.host("b")
    nodes.sh("a", f"ip route add 10.55.0.0/24 via {controller}")
    try:
        for route, why in (
            (f"{controller}/32", "SSH connection"),
            (f"{b.address}/32", "own packets"),
            ("10.55.0.0/24", "already"),
        ):
            expect_refused(nodes, {"b": {"routes": [route]}}, route, why)
    finally:
        nodes.sh("a", "ip route del 10.55.0.0/24")
    assert nodes.reaches("a", 1, 1)
    both = [
        nodes.pair(1, ends={"b": {"routes": ["10.43.0.0/24"]}})["a"],
        nodes.pair(2, ends={"b": {"routes": ["10.43.0.0/24"]}})["a"],
    ]
    nodes.publics[uuid(2), "b"] = nodes.publics[uuid(1), "b"]
    both[1]["peer"]["public"] = nodes.publics[uuid(2), "b"]
    answer = nodes.apply({"a": both})["a"]
    assert "route 10.43.0.0/24 added" in answer.tunnel(1)["changes"]
    assert "The tunnel t1 takes it already" in answer.tunnel(2)["error"]
    answer = nodes.apply({"a": [nodes.pair(1)["a"]]})["a"]
    assert "route 10.43.0.0/24 removed" in answer.tunnel(1)["changes"]


def test_the_way_to_what_a_host_needs_is_not_taken(nodes: Directly) -> None:
    nodes.up(1)
    gateway = nodes.sh("a", "ip route show default").split()[2]
    nodes.sh("a", "cp /etc/resolv.conf /root/resolv.conf; echo nameserver 10.66.0.53 > /etc/resolv.conf")
    try:
        expect_refused(nodes, {"b": {"routes": ["10.66.0.0/24"]}}, "10.66.0.53", "a name server of this host")
        expect_refused(nodes, {"b": {"routes": [f"{gateway}/32"]}}, gateway, "the gateway of this host")
        new = [nodes.pair(1, ends={"b": {"routes": ["10.44.0.0/24"]}})["a"]]
        answer = nodes.apply({"a": new}, panel_addresses=["10.44.0.9"])["a"]
        assert "It covers 10.44.0.9, the panel" in answer.tunnel(1)["error"]
        nodes.sh("a", "cp /root/resolv.conf /etc/resolv.conf")
        views = nodes.views(nodes.pair(1, ends={"b": {"routes": ["10.66.0.0/24"]}}))
        assert nodes.apply(views)["a"].errors() == []
        nodes.sh("a", "echo nameserver 10.66.0.53 > /etc/resolv.conf")
        assert nodes.apply(views)["a"].errors() == [], "which is reached through the tunnel now"
    finally:
        nodes.sh("a", "cp /root/resolv.conf /etc/resolv.conf")


def test_a_session_through_the_tunnel_keeps_nothing(nodes: Directly) -> None:
    """Somebody's backup from the other end does not drive it: changes are applied, a lost interface is put back."""
    nodes.up(1)
    nodes.sh("b", "systemd-run --quiet --unit=session bash -c 'exec 3<>/dev/tcp/10.201.1.2/22; sleep 300'")
    try:
        established = "ss -Htn state established sport = :22 dst 10.201.1.3"
        until("the session", lambda: nodes.sh("a", established))
        assert not nodes.apply(nodes.views(nodes.pair(1)))["a"]["changed"]
        views = nodes.views(nodes.pair(1, mtu=1300))
        for host, answer in nodes.apply(views).items():
            assert answer.errors() == [], host
            assert "MTU 1300 instead of 1440" in answer.tunnel(1)["changes"]
        nodes.sh("a", "ip link delete mz1")
        assert nodes.sh("a", established), "or it proves nothing"
        assert nodes.apply(views)["a"].tunnel(1)["changes"] == ["started"]
        assert nodes.health(views, wait=60)["a"].statuses() == {"active"}
    finally:
        nodes.sh("b", "systemctl stop session")


def test_what_runs_needs_no_resolver(nodes: Directly) -> None:
    """The name of the peer can't be resolved for a while: nothing of any type is refused, or changed."""
    name = "b.tunnels.test"
    nodes.sh("a", f"echo '{nodes.lab.host('b').address} {name}' >> /etc/hosts")
    ends = {"b": {"endpoint": name}}
    kinds = {1: "wireguard", 2: "openvpn", 3: "ipsec"}
    try:
        for _round in range(2):
            views = nodes.views(*(nodes.pair(number, type=kind, ends=ends) for number, kind in kinds.items()))
            nodes.apply(views)
        assert nodes.health(views, wait=60)["a"].statuses() == {"active"}
        assert not nodes.apply(views)["a"]["changed"]
    finally:
        nodes.sh("a", f"sed -i '/{name}/d' /etc/hosts")
    answer = nodes.apply(views)["a"]
    assert (answer.errors(), answer["changed"]) == ([], False)
    assert answer.statuses() == {"active"}
    nodes.sh("a", "systemctl stop openvpn-server@mz2")
    assert "can't resolve the name" in nodes.apply(views)["a"].tunnel(2)["error"]


def test_a_route_over_the_way_of_another_tunnel_is_refused(nodes: Directly) -> None:
    nodes.up(1, 2)
    b = nodes.lab.host("b").address
    pairs = [
        nodes.pair(1),
        nodes.pair(2, ends={"b": {"routes": [f"{b}/32"], "endpoint": nodes.lab.host("b").address6}}),
    ]
    answer = nodes.apply({"a": [pair["a"] for pair in pairs]})["a"]
    assert "where the packets of the tunnel t1 go" in answer.tunnel(2)["error"]
    assert nodes.reaches("a", 1, 1)
    assert nodes.reaches("a", 2, 1)


def test_a_route_moves_from_one_tunnel_to_another_in_one_run(nodes: Directly) -> None:
    route = {"b": {"routes": ["10.43.0.0/24"]}}
    nodes.up(1, ends=route)
    for has_it, other in ((2, 1), (1, 2)):
        views = nodes.views(nodes.pair(has_it, ends=route), nodes.pair(other))
        if has_it == 2:
            nodes.apply(nodes.views(nodes.pair(2)))  # makes its keys
            views = nodes.views(nodes.pair(has_it, ends=route), nodes.pair(other))
        would = nodes.check(views)["a"]
        did = nodes.apply(views)["a"]
        assert did.errors() == []
        assert would.tunnel(other)["changes"] == did.tunnel(other)["changes"]
        assert "route 10.43.0.0/24 removed" in did.tunnel(other)["changes"]
        assert f"dev mz{has_it}" in nodes.sh("a", "ip route show 10.43.0.0/24")
        assert not nodes.apply(views)["a"]["changed"]


def test_another_address_of_the_same_network_leaves_the_routes(nodes: Directly) -> None:
    """The kernel takes the new one away with the old one, and the routes as well."""

    def ends(last: int) -> dict[str, dict[str, list[str]]]:
        return {
            "a": {"addresses": [f"10.9.0.{last}/24", "fd09::1/64"]},
            "b": {"addresses": ["10.9.0.2/24", "fd09::2/64"], "routes": ["10.43.0.0/24", "fd43::/64"]},
        }

    nodes.sh("a", "sysctl -q -w net.ipv4.conf.all.promote_secondaries=0 net.ipv4.conf.default.promote_secondaries=0")
    nodes.up(1, ends=ends(1))
    views = nodes.views(nodes.pair(1, ends=ends(3)))
    answer = nodes.apply(views)["a"]
    assert "address 10.9.0.1/24 removed" in answer.tunnel(1)["changes"]
    assert "started" not in answer.tunnel(1)["changes"]
    there = nodes.sh("a", "ip -o addr show dev mz1; ip route show dev mz1; ip -6 route show dev mz1")
    for kept in ("10.9.0.3/24", "10.43.0.0/24", "fd43::/64", "fd09::1/64"):
        assert kept in there
    assert "10.9.0.1/24" not in there
    assert not nodes.apply(views)["a"]["changed"]
    assert nodes.health(views, wait=60)["a"].statuses() == {"active"}


def test_a_host_without_ipv6_has_the_rest_of_the_tunnel(nodes: Directly) -> None:
    off = "sysctl -q -w net.ipv6.conf.all.disable_ipv6={0} net.ipv6.conf.default.disable_ipv6={0}"
    nodes.sh("a", off.format(1))
    try:
        views = nodes.up(1, ends={"b": {"routes": ["10.43.0.0/24", "fd43::/64"]}})
        assert "inet6" not in nodes.sh("a", "ip -o addr show dev mz1")
        assert nodes.sh("a", "ip route show 10.43.0.0/24")
        assert not nodes.apply(views)["a"]["changed"]
        only = nodes.pair(1, ends={"a": {"addresses": ["fd09::2/127"]}, "b": {"addresses": ["fd09::3/127"]}})
        assert "IPv6 is off on this host" in nodes.apply({"a": [only["a"]]})["a"].tunnel(1)["error"]
    finally:
        nodes.sh("a", off.format(0))
    changes = nodes.apply(views)["a"].tunnel(1)["changes"]
    assert "address fd6d:7a00::1:2/127 added" in changes, "with IPv6 on again"
    assert "started" not in changes
    assert nodes.reaches("a", 1, 1)


def test_what_is_deactivated_stops_whatever_else_is_wrong_with_it(nodes: Directly) -> None:
    nodes.up(1, 2)
    off = nodes.views(nodes.pair(1, active=False, post_quantum="require"), nodes.pair(2, active=False))
    templates = {"rendered": [{"text": ""}, {"error": "The template can't be rendered: broken."}]}
    answer = nodes.apply({"a": off["a"]}, **templates)["a"]
    assert answer.errors() == []
    assert answer.statuses() == {"inactive"}
    assert nodes.sh("a", "wg show interfaces").strip() == ""


def test_a_masked_unit_keeps_no_other_tunnel(nodes: Directly) -> None:
    views = nodes.views(nodes.pair(1), nodes.pair(2))
    nodes.apply(views)
    views = nodes.views(nodes.pair(1), nodes.pair(2))
    nodes.sh("a", "systemctl mask -q wg-quick@mz1")
    try:
        answer = nodes.apply(views)["a"]
    finally:
        nodes.sh("a", "systemctl unmask -q wg-quick@mz1")
    assert "wg-quick@mz1.service" in answer.tunnel(1)["error"]
    assert "masked" in answer.tunnel(1)["error"]
    assert not answer.tunnel(2)["error"]
    assert nodes.sh("a", "systemctl is-active wg-quick@mz2; systemctl is-enabled wg-quick@mz2").split() == [
        "active",
        "enabled",
    ]
    assert nodes.apply(views)["a"].errors() == []
    assert nodes.health(views, wait=60)["a"].statuses() == {"active"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("interface", "mz1\nPostUp = touch /root/pwned"),
        ("interface", "../../root/x"),
        ("interface", "mz=1"),
        ("name", "x\n[Peer]\nPublicKey = a"),
        ("uuid", "../../../root/pwned"),
        ("keepalive", "25\nPostUp = touch /root/pwned"),
        ("mtu", "1400; touch /root/pwned"),
        ("local.addresses", ["10.0.0.1/31\nPostUp = touch /root/pwned"]),
        ("peer.endpoint", "$(touch /root/pwned)"),
        ("peer.endpoint", "a.example\nPostUp = touch /root/pwned"),
        ("peer.public", {"public_key": "@node.dir@" + "A" * 34}),
        ("routes", ["10.0.0.0/24 dev lo; touch /root/pwned"]),
        ("routes", ["0.0.0.0/0"]),
        ("local.node", "localhost"),
        ("panel", OTHER_PANEL),
        ("active", "yes"),
        ("type", "wireguard\n"),
    ],
)
def test_a_hostile_view_stops_its_own_tunnel_only(nodes: Directly, field: str, value: object) -> None:
    bad, good = nodes.pair(5)["a"], nodes.pair(6)["a"]
    place = bad
    *path, last = field.split(".")
    for part in path:
        place = place[part]
    place[last] = value
    answer = nodes.apply({"a": [bad, good]})["a"]
    assert len(answer.errors()) == 1
    assert field.rpartition(".")[2] in answer.errors()[0]
    refused = next(tunnel for tunnel in answer["tunnels"] if tunnel["error"])
    assert refused["refused"]
    assert refused["changes"] == []
    assert answer.tunnel(6)["changes"] == ["key made"]
    assert not nodes.sh("a", "ls /root/pwned 2>/dev/null || true")
    assert nodes.sh("a", f"ls {CONFIG}").split() == [uuid(6)]


def test_health_says_what_is_wrong(nodes: Directly) -> None:
    views = nodes.views(nodes.pair(1))
    answer = nodes.health({"a": views["a"]})["a"]
    assert answer.tunnel(1)["waiting_for"] == "b"
    assert answer.tunnel(1)["status"] == "connecting"
    views = nodes.up(1)
    # Where the way between the nodes is cut, and where a firewall drops what comes out of the tunnel, alone or while
    # something else comes in.
    meanwhile = "systemd-run --quiet --unit=meanwhile ping -n -i 0.1 10.201.1.2"
    for rule, besides, said in (
        (f"ip saddr {nodes.lab.host('a').address} udp dport 20001 drop", "true", "is UDP 20001 open at"),
        ("iifname mz1 drop", "true", "does a firewall on b drop what comes out of the tunnel"),
        ("iifname mz1 drop", meanwhile, "other packets came in from it: does a firewall on b drop"),
    ):
        nodes.sh(
            "b",
            f"{besides}; nft add table inet cut; nft 'add chain inet cut in {{ type filter hook input priority 0; }}';"
            f" nft add rule inet cut in {rule}",
        )
        try:
            answer = nodes.health({"a": views["a"]}, wait=1)["a"]
        finally:
            nodes.sh("b", "nft delete table inet cut; systemctl stop meanwhile 2>/dev/null || true")
        assert answer.tunnel(1)["status"] == "error"
        assert "10.201.1.3 did not answer" in answer.tunnel(1)["error"]
        assert said in answer.tunnel(1)["error"]
        assert ("nothing else came in" in answer.tunnel(1)["error"]) is (besides == "true")
    assert nodes.health(views, wait=60)["a"].statuses() == {"active"}
    nodes.sh("a", "systemctl stop wg-quick@mz1")
    assert "wg-quick@mz1.service is not running" in nodes.health({"a": views["a"]})["a"].errors()[0]


def test_what_can_not_start_says_why(nodes: Directly) -> None:
    nodes.up(1)
    nodes.publics[uuid(2), "b"] = nodes.publics[uuid(3), "b"] = nodes.publics[uuid(1), "b"]
    listen = "import socket, time; s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('', 20002)); time.sleep(300)"
    nodes.sh("a", f'systemd-run --quiet --unit=listening python3 -c "{listen}"')
    try:
        until("the listener", lambda: ":20002" in nodes.sh("a", "ss -Hlun"))
        views = [nodes.pair(1), nodes.pair(2), nodes.pair(3, ends={"b": {"endpoint": "no-such-host.invalid"}})]
        answer = nodes.apply({"a": [view["a"] for view in views]})["a"]
    finally:
        nodes.sh("a", "systemctl stop listening")
    assert "20002" in answer.tunnel(2)["error"]
    assert "no-such-host.invalid" in answer.tunnel(3)["error"]
    assert answer.tunnel(1)["status"] == "active"
    assert leftovers(nodes, "a").count("mz") == 3, "conf, interface and unit of mz1 and of no other"
