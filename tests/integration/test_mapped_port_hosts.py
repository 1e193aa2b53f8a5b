# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ends behind a real NAT, another host, which has other ports for them than they listen at: all types in one run.

The two ends drop each other's packets, so that what passes has come by the NAT.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.test_ipsec_hosts import known
from tests.lab.lab import Lab
from tests.support import labs
from tests.support.nodes import Directly, View
from tests.support.world import until

pytestmark = pytest.mark.lab
# number of the tunnel: its type, transport, the NAT's port, and the one that the node listens at
BEHIND = {
    1: ("wireguard", "udp", 443, 20001),
    2: ("openvpn", "udp", 80, 20002),
    3: ("openvpn", "tcp", 443, 20003),
    4: ("ipsec", "udp", 14500, 4500),
}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    hosts = {"a": "bookworm+tunnels", "b": "trixie+tunnels", "nat": "bookworm+tunnels"}
    with Lab.up(labs.named("mapped-port"), hosts) as lab:
        yield lab


def pairs(nodes: Directly) -> list[dict[str, View]]:
    """The tunnels from a to b, which a dials at the NAT."""
    made = []
    for number, (kind, transport, outside, _inside) in BEHIND.items():
        ends = {"b": {"endpoint": nodes.lab.host("nat").address, "endpoint_port": outside}}
        pair = nodes.pair(number, ends=ends, type=kind, transport=transport)
        pair["a"].update(dial=True, dialed=False)
        pair["b"].update(dial=False, dialed=True)
        made.append(pair)
    return made


def test_ends_behind_a_nat(nodes: Directly) -> None:
    a, b, nat = (nodes.lab.host(name) for name in ("a", "b", "nat"))
    maps = "".join(
        f"nft add rule ip mapped in {transport} dport {outside} dnat to {b.address}:{inside};"
        for _kind, transport, outside, inside in BEHIND.values()
    )
    nodes.sh(
        "nat",
        "sysctl -q net.ipv4.ip_forward=1; nft add table ip mapped;"
        "nft 'add chain ip mapped in { type nat hook prerouting priority dstnat; }';"
        "nft 'add chain ip mapped out { type nat hook postrouting priority srcnat; }';"
        f"nft add rule ip mapped out ip daddr {b.address} masquerade; {maps}",
    )
    for here, there in ((a, b), (b, a)):
        here.run(
            "nft add table inet apart; nft 'add chain inet apart in { type filter hook input priority 0; }';"
            f" nft add rule inet apart in ip saddr {there.address} counter drop"
        )
    nodes.apply(nodes.views(*pairs(nodes)))
    views = nodes.views(*(known(nodes, pair) for pair in pairs(nodes)))
    nodes.apply(views)
    for answer in nodes.health(views, wait=60).values():
        assert answer.statuses() == {"active"}, answer
    for number in BEHIND:
        until(f"packets pass in tunnel {number}", lambda number=number: nodes.reaches("a", number, 1))  # type: ignore[misc]
    for host, answer in nodes.apply(views).items():
        assert not answer["changed"], (host, [tunnel["changes"] for tunnel in answer["tunnels"]])
    assert f"dport {BEHIND[1][2]}" in nodes.sh("nat", "nft list table ip mapped")
    # another port of the NAT, and the tunnels follow
    moved = {number: outside + 1 for number, (_kind, _transport, outside, _inside) in BEHIND.items()}
    for number, (_kind, transport, _outside, inside) in BEHIND.items():
        nodes.sh("nat", f"nft add rule ip mapped in {transport} dport {moved[number]} dnat to {b.address}:{inside}")
        views["a"][number - 1]["peer"]["endpoint_port"] = moved[number]
    changed = nodes.apply(views)["a"]
    said = [changed.tunnel(number)["changes"] for number in BEHIND]
    assert [any(word in " ".join(words) for word in ("conf changed", "connection changed")) for words in said] == [
        True
    ] * len(BEHIND), said
    assert f"endpoint {nat.address} port {moved[1]}" in said[0]
    for number in BEHIND:
        until(f"packets pass in tunnel {number}", lambda number=number: nodes.reaches("a", number, 1))  # type: ignore[misc]
