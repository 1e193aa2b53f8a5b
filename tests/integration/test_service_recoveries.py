# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the node service recovers from, beside what others take away: on real hosts, without a panel, each one timed."""

from __future__ import annotations

import contextlib
import itertools
import re
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.lab.lab import Lab
from tests.support import labs
from tests.support.nodes import Directly, View, no_packet_lost, uuid
from tests.support.service import Service, bring_up, tunnel
from tests.support.world import until

pytestmark = pytest.mark.lab
KINDS = {1: "wireguard", 2: "openvpn", 3: "ipsec"}
SOON = 30  # seconds within which the service recovers
PROCESSES = {  # how the process of a tunnel is found
    1: "pgrep -f 'wireguard-go mz1$'",
    2: "systemctl show --property=MainPID --value openvpn-server@mz2",
    3: "systemctl show --property=MainPID --value strongswan",
}
NARROW = (
    "nft add table inet narrow; nft 'add chain inet narrow in { type filter hook input priority 0; }';"
    " nft add rule inet narrow in meta l4proto udp meta length '>' 1400 drop"
)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.up(labs.named("recoveries"), {"a": "bookworm+tunnels", "b": "trixie+tunnels"}) as lab:
        yield lab


@pytest.fixture(scope="module")
def pair(served: Directly) -> list[Service]:
    """The services of a and b, with a tunnel of each type, and tunnel 4, which nothing happens to."""
    services = [Service(served, name) for name in "ab"]
    for service in services:
        service.install()
    for number, kind in KINDS.items():
        bring_up(services, number, type=kind)
    bring_up(services, 4)
    return services


def counted(service: Service, number: int) -> dict[str, int]:
    return {kind: times for kind, times in service.tunnel(number)["recoveries"].items() if times}


@contextlib.contextmanager
def outages(nodes: Directly) -> Iterator[dict[str, float]]:
    """Pings in the tunnels of all types, and at the end of it the longest time without an answer, by type."""
    for number in KINDS:
        command = f"exec ping -D -n -i 0.1 -I 10.201.{number}.2 10.201.{number}.3 > /root/outage-{number}.txt"
        nodes.sh("a", f"systemd-run --quiet --unit=outage-{number} sh -c '{command}'")
    took: dict[str, float] = {}
    try:
        yield took
    finally:
        nodes.sh("a", "systemctl stop outage-1 outage-2 outage-3")
    for number, kind in KINDS.items():
        said = nodes.sh("a", f"cat /root/outage-{number}.txt")
        answers = [float(at) for at in re.findall(r"^\[([\d.]+)\].*ttl=", said, re.MULTILINE)]
        took[kind] = round(max(after - before for before, after in itertools.pairwise(answers)), 1)


def wait(what: str, holds: Callable[[], bool]) -> float:
    """Waits; the seconds that it took."""
    begun = time.monotonic()
    until(what, holds, 2 * SOON, 0.3)
    return round(time.monotonic() - begun, 1)


def all_active(service: Service) -> bool:
    return all(service.tunnel(number)["status"] == "active" for number in KINDS)


def mtus(nodes: Directly, host: str) -> dict[int, int]:
    said = nodes.sh(host, "ip -br link show >/dev/null; ip link")
    return {int(number): int(mtu) for number, mtu in re.findall(r": mz(\d+): .* mtu (\d+)", said)}


def test_processes_that_hang_are_started_again(pair: list[Service]) -> None:
    a, nodes = pair[0], pair[0].nodes
    before = {number: counted(a, number) for number in (1, 2, 3, 4)}
    oldest: list[float] = []

    def is_over() -> bool:
        oldest.append(a.tunnel(4)["age"])
        return all(counted(a, number) != before[number] for number in KINDS) and all_active(a)

    with no_packet_lost(nodes, 4, apart=0.05), outages(nodes) as took:
        nodes.sh("a", "; ".join(f"kill -STOP $({found})" for found in PROCESSES.values()))
        wait("no packet passes", lambda: not any(nodes.reaches("a", number, 1) for number in KINDS))
        wait("they are started again", is_over)
    print("seconds without packets after a process hung:", took)
    print("the oldest measurement of another tunnel meanwhile, seconds:", max(oldest))
    assert max(took.values()) < SOON
    assert max(oldest) < 12, "what hangs delays the looks at others"
    for number in KINDS:
        assert counted(a, number) == {**before[number], "process": 1}, a.said()
    assert counted(a, 4) == before[4]
    said = [line for line in a.said().splitlines() if "did not answer" in line]
    print("\n".join(said))
    assert [line.split(":")[0] for line in sorted(said)] == ["tunnel t1", "tunnel t2", "tunnel t3"]


def test_sessions_that_are_lost_are_made_again(pair: list[Service]) -> None:
    """IPsec's on one end, while nothing else calls; WireGuard's keys out of step; OpenVPN's ended by its process."""
    a, nodes = pair[0], pair[0].nodes
    before = {number: counted(a, number) for number in (1, 2, 3, 4)}
    for host in "ab":
        nodes.sh(host, "systemctl stop marzban-ipsec")
    losses = [
        ("b", "swanctl --terminate --ike mz3 --timeout 3"),
        ("a", "umask 077; wg genkey > /root/another; wg set mz1 private-key /root/another; rm /root/another"),
        ("b", "systemctl kill --signal=USR1 openvpn-server@mz2"),
    ]
    with no_packet_lost(nodes, 4, apart=0.05), outages(nodes) as took:
        for host, command in losses:
            nodes.sh(host, command)
        wait("they are made again", lambda: all(counted(a, n) != before[n] for n in (1, 3)) and all_active(a))
    print("seconds without packets after a session was lost:", took)
    assert max(took.values()) < SOON
    for number in (1, 3):
        assert counted(a, number)["session"] == before[number].get("session", 0) + 1, a.said()
    assert counted(a, 4) == before[4]
    print("\n".join(line for line in a.said().splitlines()[-8:]))
    for service in pair:
        service.nodes.sh(service.name, "systemctl start marzban-ipsec")
        for number in KINDS:
            service.waits_for(number, "active")


def test_a_peer_that_was_set_up_again_is_taken_on_an_admins_word(pair: list[Service]) -> None:
    """With a panel, and for the certificates of OpenVPN, in test_node_service.py and test_service_hosts.py."""
    a, b = pair
    nodes, known = a.nodes, a.nodes.publics[uuid(1), "b"]
    before = counted(a, 1).get("peer", 0)
    b.delete(1)
    b.forget()
    for _round in range(2):
        b.post(tunnel(nodes, 1))
    seen = nodes.publics[uuid(1), "b"]["public_key"]
    waits = a.post(tunnel(nodes, 1))
    assert waits["peer_key"] == {"known": known["public_key"], "seen": seen}
    assert not nodes.reaches("a", 1, 1)
    begun = time.monotonic()
    a.post(tunnel(nodes, 1), accept_key=seen)
    wait("packets", partial(nodes.reaches, "a", 1, 1))
    print("seconds from the word to packets:", round(time.monotonic() - begun, 1))
    assert counted(a, 1)["peer"] == before + 1
    for service in pair:
        service.waits_for(1, "active")


def same_as_a_run(nodes: Directly) -> bool:
    """Whether a run, and its check mode, would leave a as it is."""
    views: list[View] = nodes.views(*(nodes.pair(number, type=kind) for number, kind in KINDS.items()))["a"]
    ran = [nodes.run_on("a", "tunnel_apply", views, check=check).answer for check in (True, False)]
    return not any(answer["changed"] for answer in ran)


def test_the_mtu_follows_a_path_that_shrinks(pair: list[Service]) -> None:
    a, b = pair
    nodes = a.nodes
    wide = mtus(nodes, "a")
    address = nodes.lab.host("b").address

    def is_lowered(number: int) -> bool:
        told = a.tunnel(number)
        return told["status"] == "active" and "the MTU was lowered" in (told["note"] or "")

    with no_packet_lost(nodes, 1, 2, 3, 4, apart=0.05):
        nodes.sh("b", NARROW)
        took = {kind: wait(f"{kind} is lowered", partial(is_lowered, number)) for number, kind in KINDS.items()}
        print("seconds until the MTU was lowered, one after the other:", took, a.tunnel(1)["note"])
        assert sum(took.values()) < SOON
        lower = mtus(nodes, "a")
        for number in KINDS:
            told = a.tunnel(number)
            assert told["measured"]["mtu"] == lower[number] < wide[number]
            assert told["note"].startswith(
                f"its path takes packets of {lower[number]:,} bytes at most, {wide[number]:,}"
            )
            assert f"set {lower[number] - 40}" in nodes.sh("a", f"nft list table inet marzban-{told['uuid']}")
        assert same_as_a_run(nodes)
        assert mtus(nodes, "a") == lower

        # Another route: larger packets are tried once, and they do not pass yet.
        nodes.sh("a", f"ip route add {address} via {address} dev eth0 onlink")
        wait("larger packets are tried", lambda: mtus(nodes, "a") != lower)
        wait("they are not used", lambda: mtus(nodes, "a") == lower)
        nodes.sh("b", "nft delete table inet narrow")
        nodes.sh("a", f"ip route del {address}")
        took_back = wait("larger packets are used again", lambda: mtus(nodes, "a") == wide)
        print("seconds until the MTU was raised after the route had changed:", took_back)
    assert same_as_a_run(nodes)
    assert "narrow" not in nodes.sh("a", "cat /etc/marzban/tunnels/*/state.json")
    assert [counted(a, number)["mtu"] for number in KINDS] == [1, 1, 1]
    print(a.said())

    # Where the record says the MTU, the service only says what passes.
    for service in pair:
        service.post(tunnel(nodes, 1, version=2, config={"mtu": wide[1]}, mtu=wide[1]))
    nodes.sh("b", NARROW)
    told = a.waits_for(1, "error")
    assert "set mtu to" in told["error"]
    nodes.sh("b", "nft delete table inet narrow")
    a.waits_for(1, "active")
    assert b.tunnel(4)["recoveries"]["put_back"] == 0


@pytest.mark.variation  # without a host in test_recoveries.py and test_board.py
def test_a_link_that_flaps_is_told_and_left_alone(pair: list[Service]) -> None:
    a, nodes = pair[0], pair[0].nodes
    for number in KINDS:
        a.waits_for(number, "active")
    processes = {number: nodes.sh("a", found) for number, found in PROCESSES.items()}
    cut = "nft add table inet cut; nft 'add chain inet cut in { type filter hook input priority -300; }';"
    ports = "{ 4500, 20001, 20002 }"
    script = (
        f"while :; do {cut} nft add rule inet cut in udp dport '{ports}' drop; sleep 7; nft delete table inet cut;"
        " sleep 6; done"
    )
    (a.host.root / "root/flap.sh").write_text(script + "\n")
    with no_packet_lost(nodes, 4, apart=0.05):
        begun = time.monotonic()
        nodes.sh("a", "systemd-run --quiet --unit=flapping sh /root/flap.sh")
        until("it is told", lambda: all("unstable" in (a.tunnel(n)["error"] or "") for n in KINDS), 180, 0.5)
        print("seconds until it was told:", round(time.monotonic() - begun, 1))
        before = {number: (a.tunnel(number)["recoveries"], a.tunnel(number)["error"]) for number in KINDS}
        end = time.monotonic() + 90
        while time.monotonic() < end:
            for number in KINDS:
                told = a.tunnel(number)
                assert (told["status"], told["error"], told["recoveries"]) == (
                    "error",
                    before[number][1],
                    before[number][0],
                )
            time.sleep(0.5)
        nodes.sh("a", "systemctl stop flapping; nft delete table inet cut 2>/dev/null || true")
        begun = time.monotonic()
        until("it is over", lambda: all_active(a), 120, 0.5)
        print("seconds until it was over:", round(time.monotonic() - begun, 1))
    assert {number: nodes.sh("a", found) for number, found in PROCESSES.items()} == processes
    said = [line for line in a.said().splitlines() if "came and went" in line]
    print("\n".join(said))
    assert sorted(line.split(":")[0] for line in said) == ["tunnel t1", "tunnel t2", "tunnel t3"]
