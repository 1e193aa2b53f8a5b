# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What others take from under a tunnel, or put elsewhere: it is named, and put back."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.lab.lab import Lab
from tests.support import labs
from tests.support.nodes import Answer, Directly, View, no_packet_lost, uuid
from tests.support.world import until

pytestmark = pytest.mark.lab
REGISTER = "/etc/marzban/tunnels/host.json"
DROP_IN = "/etc/systemd/networkd.conf.d/marzban-tunnels.conf"
RULES = ["routing rule 220 (IPv4) added", "routing rule 220 (IPv6) added"]
NETWORKS = ["10.201.1.3/32", "192.168.8.0/24", "fd6d:7a00::1:3/128"]
LOST = (
    "something else on this host has taken away the routing rule 220 (IPv4), the routing rule 220 (IPv6): run marzban"
)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    hosts = {"a": "trixie+tunnels+networkd", "b": "bookworm+tunnels"}
    with Lab.up(labs.named("taken-hosts"), hosts) as lab:
        yield lab


def changes(nodes: Directly, views: dict[str, list[View]], number: int) -> list[str]:
    """What a run says that it changed on a, after a check said that it would."""
    would = nodes.check({"a": views["a"]}, probe=False)["a"].tunnel(number)["changes"]
    did: list[str] = nodes.apply({"a": views["a"]}, probe=False)["a"].tunnel(number)["changes"]
    assert would == did
    return did


def status(nodes: Directly, views: dict[str, list[View]], wait: int = 0) -> Answer:
    return nodes.health({"a": views["a"]}, wait=wait)["a"]


def rules(nodes: Directly) -> tuple[bool, bool]:
    """Whether charon's rules are there, for IPv4 and for IPv6."""
    return tuple("220:" in nodes.sh("a", f"ip {family} rule") for family in ("-4", "-6"))  # type: ignore[return-value]


def restart_networkd(nodes: Directly) -> None:
    nodes.sh("a", "systemctl restart systemd-networkd")
    until("networkd has configured eth0", lambda: "configured" in nodes.sh("a", "networkctl list --no-legend eth0"))


def test_networkd_takes_the_rules_of_ipsec_once(nodes: Directly) -> None:
    """B1: with its defaults networkd removes charon's rules whenever it starts."""
    views = nodes.up(1, type="ipsec")
    told = json.loads(nodes.sh("a", f"cat {REGISTER}"))
    assert {path: (entry["before"], entry["tunnels"]) for path, entry in told.items()} == {DROP_IN: (None, [uuid(1)])}
    assert nodes.sh("a", f"stat -c '%a %n' {DROP_IN} {REGISTER}") == f"644 {DROP_IN}\n600 {REGISTER}\n"

    nodes.sh("a", f"rm {DROP_IN}")  # as it is on a host of an older version
    restart_networkd(nodes)
    assert rules(nodes) == (False, False)
    dead = status(nodes, views)
    assert dead.statuses() == {"error"}
    assert LOST in dead.errors()[0]
    assert changes(nodes, views, 1) == [f"{DROP_IN} written", *RULES]
    assert status(nodes, views, wait=60).statuses() == {"active"}
    assert not nodes.apply(views)["a"]["changed"]

    restart_networkd(nodes)
    assert rules(nodes) == (True, True)
    assert nodes.reaches("a", 1, 1)

    # The last tunnel takes the setting along.
    views = nodes.views(nodes.pair(1, type="ipsec", active=False))
    nodes.apply(views)
    assert nodes.sh("a", f"ls -d $(dirname {DROP_IN}) {REGISTER} 2>/dev/null; true") == ""
    again = nodes.up(1, type="ipsec")
    nodes.sh("a", f"echo '# mine' >> {DROP_IN}")
    assert changes(nodes, again, 1) == [f"{DROP_IN} written"]
    nodes.sh("a", f"echo '# mine' >> {DROP_IN}")
    answer = nodes.apply({"a": []}, remove_all=True)["a"]
    assert answer["warnings"] == [
        f"{DROP_IN} was changed by somebody else, and is left as it is. No tunnel needs it any more."
    ]
    assert "# mine" in nodes.sh("a", f"cat {DROP_IN}; rm {DROP_IN}")


def test_what_is_taken_from_a_tunnel_is_named_by_status_and_put_back(nodes: Directly) -> None:
    """Tunnels of all types: each piece that others can take away, one after the other."""
    for host in "ab":
        nodes.sh(host, "ip link add lan type veth peer name end; ip link set lan up")
        nodes.sh(host, f"ip addr add 192.168.{7 if host == 'a' else 8}.1/24 dev lan")
    try:
        ends = {"b": {"routes": ["192.168.8.0/24"]}}
        pairs = [nodes.pair(1, type="ipsec", ends=ends), nodes.pair(2), nodes.pair(3, type="openvpn")]
        for _round in range(3):  # OpenVPN agrees on certificates
            nodes.apply(nodes.views(*pairs))
            pairs = [nodes.pair(1, type="ipsec", ends=ends), nodes.pair(2), nodes.pair(3, type="openvpn")]
        views = nodes.views(*pairs)
        nodes.apply(views)
        assert status(nodes, views, wait=60).statuses() == {"active"}
        for number, taking, seen, put_back in (
            (
                1,
                "ip rule del priority 220; ip -6 route flush table 220; ip route del 192.168.8.0/24 table 220",
                "the routing rule 220 (IPv4), the route 192.168.8.0/24 in table 220, the route fd6d:7a00::1:3/128 in",
                [
                    *(RULES[0], "route 192.168.8.0/24 added to table 220"),
                    "route fd6d:7a00::1:3/128 added to table 220",
                ],
            ),
            (
                1,
                "ip link set ipsec0 down",
                "the device ipsec0 (down), the route 10.201.1.3/32 in table 220",
                ["ipsec0 up", *(f"route {network} added to table 220" for network in NETWORKS)],
            ),
            (1, "ip link delete ipsec0", "the device ipsec0,", ["strongSwan restarted for its device ipsec0"]),
            (
                2,
                f"ip addr del 10.201.2.2/31 dev mz2; nft delete table inet marzban-{uuid(2)}",
                "the address 10.201.2.2/31, the firewall rules",
                ["firewall rules loaded", "address 10.201.2.2/31 added"],
            ),
            (
                2,
                "echo 1 > /proc/sys/net/ipv6/conf/mz2/disable_ipv6",
                "the address fd6d:7a00::2:2/127",
                ["IPv6 switched on", "address fd6d:7a00::2:2/127 added"],
            ),
            (3, "ip addr flush dev mz3", "the address 10.201.3.2/31", None),
        ):
            nodes.sh("a", taking)
            told = status(nodes, views).tunnel(number)
            assert (taking, told["status"]) == (taking, "error")
            assert seen in told["error"], told
            did = changes(nodes, views, number)
            assert (
                put_back is None or [change for change in did if "ipsec0" in taking or "conf" not in change] == put_back
            )
            assert status(nodes, views, wait=60).statuses() == {"active"}, taking
            assert nodes.reaches("a", number, 1)
            assert not nodes.apply(views)["a"]["changed"]
    finally:
        for host in "ab":
            nodes.sh(host, "ip link delete lan")


def test_a_route_that_was_put_back_goes_with_its_session(nodes: Directly) -> None:
    views = nodes.up(1, type="ipsec")
    nodes.sh("a", "ip route flush table 220; ip -6 route flush table 220")
    assert changes(nodes, views, 1) == [f"route {NETWORKS[index]} added to table 220" for index in (0, 2)]
    nodes.sh("a", "systemctl stop marzban-ipsec; swanctl --terminate --ike mz1 --timeout 3")
    assert nodes.sh("a", "ip route show table 220; ip -6 route show table 220") == ""


def test_a_host_with_networkd_comes_back_after_a_reboot(nodes: Directly) -> None:
    views = nodes.up(1, type="ipsec")
    nodes.reboot("a")
    until("b from a", lambda: nodes.reaches("a", 1, 1))
    assert rules(nodes) == (True, True)
    assert not nodes.apply(views)["a"]["changed"]


def test_a_peer_that_moved_is_looked_up_while_its_session_seems_to_last(nodes: Directly) -> None:
    """B5: it does not dial, so that nothing but its name tells where it is."""
    old, new = nodes.lab.host("b").address, nodes.lab.host("b").address.rpartition(".")[0] + ".200"
    nodes.sh("a", f"sed -i /b.example/d /etc/hosts; echo {old} b.example >> /etc/hosts")
    ends = {"b": {"endpoint": "b.example"}}

    def views() -> dict[str, list[View]]:
        pair = nodes.pair(1, ends=ends, keepalive=0)
        pair["b"]["dial"] = False
        return nodes.views(pair)

    nodes.apply(views())
    nodes.apply(views())
    assert nodes.health(views(), wait=60)["a"].statuses() == {"active"}
    nodes.sh("b", f"systemctl stop wg-quick@mz1; ip addr del {old}/24 dev eth0; ip addr add {new}/24 dev eth0")
    try:
        nodes.sh("b", "systemctl start wg-quick@mz1")
        nodes.sh("a", f"sed -i 's/.* b.example/{new} b.example/' /etc/hosts")
        assert nodes.apply({"a": views()["a"]})["a"].tunnel(1)["changes"] == ["endpoint b.example port 20001"]
        assert nodes.health(views(), wait=20)["a"].statuses() == {"active"}
        # A peer that is where its packets come from may have a name that says something else.
        nodes.sh("a", f"sed -i 's/.* b.example/{old} b.example/' /etc/hosts")
        assert nodes.apply({"a": views()["a"]})["a"].tunnel(1)["changes"] == []
    finally:
        nodes.sh("b", f"ip addr del {new}/24 dev eth0; ip addr add {old}/24 dev eth0")
        nodes.sh("b", f"ip route replace default via {old.rpartition('.')[0]}.1")


def test_a_name_is_looked_up_between_runs(nodes: Directly) -> None:
    """B5: by a timer, which comes and goes with the tunnel, and only where there is a name."""
    right, wrong = nodes.lab.host("b").address, nodes.lab.host("b").address.rpartition(".")[0] + ".201"
    nodes.sh("a", f"sed -i /b.example/d /etc/hosts; echo {wrong} b.example >> /etc/hosts")
    timers = (
        "systemctl list-timers --all --no-legend --plain 'marzban-*'; ls -A /etc/systemd/system | grep marzban-wire"
    )

    def views(endpoint: str) -> dict[str, list[View]]:
        pair = nodes.pair(1, ends={"b": {"endpoint": endpoint}})
        pair["b"]["dial"] = False
        return nodes.views(pair)

    nodes.apply(views("b.example"))
    nodes.apply(views("b.example"))
    assert nodes.health(views("b.example"))["a"].statuses() == {"connecting"}
    nodes.sh("a", f"sed -i 's/.* b.example/{right} b.example/' /etc/hosts")
    until("b from a, without a run", lambda: nodes.reaches("a", 1, 1))
    assert not nodes.apply(views("b.example"))["a"]["changed"]
    assert nodes.sh("b", timers, check=False) == "", "it does not dial"
    nodes.sh("a", "systemctl stop marzban-wireguard-mz1.timer")
    lost = "something else on this host has taken away marzban-wireguard-mz1.timer: run marzban.tunnels.apply"
    assert lost in status(nodes, views("b.example")).errors()[0]
    assert changes(nodes, views("b.example"), 1) == ["marzban-wireguard-mz1.timer started"]

    for endpoint, units in ((right, ""), ("b.example", "marzban-wireguard-mz1.timer")):
        with no_packet_lost(nodes, 1):
            changed = nodes.apply(views(endpoint))["a"].tunnel(1)["changes"]
        assert changed == ["conf changed", f"endpoint {endpoint} port 20001", "unit changed"]
        there = nodes.sh("a", timers, check=False)
        assert units in there
        assert bool(there) is bool(units)
    nodes.clear()
    assert nodes.sh("a", timers, check=False) == ""
    assert "degraded" not in nodes.sh("a", "systemctl is-system-running", check=False)


@pytest.mark.variation
def test_networkmanager_leaves_tunnels_alone(tmp_path_factory: pytest.TempPathFactory) -> None:
    hosts = {"a": "trixie+tunnels+networkmanager", "b": "bookworm+tunnels"}
    with Lab.up(labs.named("taken-nm"), hosts) as lab, Directly(lab, tmp_path_factory.mktemp("nodes")) as nodes:
        until("eth0 is managed", lambda: "eth0:connected" in nodes.sh("a", "nmcli -t -f device,state device"))
        for _round in range(4):
            views = nodes.views(nodes.pair(1, type="ipsec"), nodes.pair(2), nodes.pair(3, type="openvpn"))
            nodes.apply(views)
        assert status(nodes, views, wait=60).statuses() == {"active"}
        nodes.sh("a", "systemctl restart NetworkManager; nmcli connection reload; nmcli device reapply eth0")
        until("eth0 is managed", lambda: "eth0:connected" in nodes.sh("a", "nmcli -t -f device,state device"))
        assert status(nodes, views).statuses() == {"active"}
        assert not nodes.apply(views)["a"]["changed"]
