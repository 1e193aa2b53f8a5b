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
from pathlib import Path
from typing import Any

import pytest

from tests.lab.lab import Lab
from tests.support import labs
from tests.support.nodes import Answer, Directly, View, no_packet_lost
from tests.support.service import Service, tunnel
from tests.support.world import until

pytestmark = pytest.mark.lab
KINDS = {1: "wireguard", 2: "openvpn", 3: "ipsec"}
OTHER = 5  # a second tunnel of IPsec: strongSwan is one process for both
WIDE = 1440  # the MTU that the record of tunnel 4 has; those of the others leave it open
SOON = 30  # seconds within which the service recovers
BUSY = 3  # times as long it may take here, where other tests share the machine
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


#: What each tunnel is, beside its number.
TUNNELS: dict[int, dict[str, Any]] = {
    **{number: {"type": kind} for number, kind in KINDS.items()},
    4: {"mtu": WIDE},
    OTHER: {"type": "ipsec"},
}


@pytest.fixture(scope="module")
def pair(served: Directly) -> list[Service]:
    """The services of a and b, with a tunnel of each type, and two that nothing happens to alone: 4 and OTHER.

    Runs have made them, which is cheaper: all at once. The services take them over."""
    for _round in range(2):
        served.apply(views(served))
    services = [Service(served, name) for name in "ab"]
    for service in services:
        service.install()
        for number, what in TUNNELS.items():
            config = {"mtu": what["mtu"]} if "mtu" in what else {}
            assert service.post(tunnel(served, number, config=config, **what)).status == 200
    for service in services:
        wait("all are well", partial(is_well, service))
    return services


def views(nodes: Directly) -> dict[str, list[View]]:
    """What a run would have of each host."""
    return nodes.views(*(nodes.pair(number, **what) for number, what in TUNNELS.items()))


def tunnels(service: Service) -> dict[int, dict[str, Any]]:
    """All, asked for by one call."""
    return {told["id"]: told for told in service.call("list")["tunnels"]}


def counted(told: dict[int, dict[str, Any]]) -> dict[int, dict[str, int]]:
    """What each tunnel has recovered from."""
    return {number: {kind: n for kind, n in its["recoveries"].items() if n} for number, its in told.items()}


@contextlib.contextmanager
def outages(nodes: Directly) -> Iterator[dict[str, float]]:
    """Pings in the tunnels of all types, and at the end of it the longest time without an answer, by type."""
    pinged = {**KINDS, OTHER: "another ipsec"}
    for number in pinged:
        command = f"exec ping -D -n -i 0.2 -I 10.201.{number}.2 10.201.{number}.3 > /root/outage-{number}.txt"
        nodes.sh("a", f"systemd-run --quiet --unit=outage-{number} sh -c '{command}'")
    took: dict[str, float] = {}
    try:
        yield took
    finally:
        nodes.sh("a", f"systemctl stop {' '.join(f'outage-{number}' for number in pinged)}")
    for number, kind in pinged.items():
        said = (nodes.lab.host("a").root / f"root/outage-{number}.txt").read_text()
        answers = [float(at) for at in re.findall(r"^\[([\d.]+)\].*ttl=", said, re.MULTILINE)]
        took[kind] = round(max(after - before for before, after in itertools.pairwise(answers)), 1)


def wait(what: str, holds: Callable[[], bool]) -> float:
    """Waits; the seconds that it took."""
    begun = time.monotonic()
    until(what, holds, SOON * BUSY, 0.7)
    return round(time.monotonic() - begun, 1)


def all_active(told: dict[int, dict[str, Any]]) -> bool:
    return {its["status"] for its in told.values()} == {"active"}


def is_well(service: Service) -> bool:
    return all_active(tunnels(service))


def mtus(service: Service) -> dict[int, int]:
    """Those of the interfaces on the host, read from outside of it."""
    links = Path(f"/proc/{service.host.leader}/root/sys/class/net")
    return {int(link.name[2:]): int((link / "mtu").read_text()) for link in links.glob("mz*")}


def test_processes_that_hang_are_started_again(pair: list[Service]) -> None:
    """One of each type. strongSwan's is that of both its tunnels."""
    a, nodes = pair[0], pair[0].nodes
    before = counted(tunnels(a))
    oldest: list[float] = []
    hung = {*KINDS, OTHER}

    def is_over() -> bool:
        told = tunnels(a)
        oldest.append(told[4]["age"])
        return all(counted(told)[number] != before[number] for number in hung) and all_active(told)

    with no_packet_lost(nodes, 4, apart=0.1), outages(nodes) as took:
        nodes.sh("a", "; ".join(f"kill -STOP $({found})" for found in PROCESSES.values()))
        wait("no packet passes", lambda: not any(nodes.reaches("a", number, 1) for number in hung))
        wait("they are started again", is_over)
    print("seconds without packets after a process hung:", took)
    print("the oldest measurement of another tunnel meanwhile, seconds:", max(oldest))
    assert max(took.values()) < SOON * BUSY
    assert max(oldest) < 12 * BUSY, "what hangs delays the looks at others"
    assert counted(tunnels(a)) == {**before, **{number: {**before[number], "process": 1} for number in hung}}, a.said()
    said = [line for line in a.said().splitlines() if "did not answer" in line]
    print("\n".join(said))
    assert [line.split(":")[0] for line in sorted(said)] == [f"tunnel t{number}" for number in sorted(hung)]


def test_sessions_that_are_lost_are_made_again(pair: list[Service]) -> None:
    """IPsec's, also its child alone, and while nothing calls; WireGuard's keys out of step; OpenVPN's, by its process.

    The other tunnel of the same strongSwan loses no packet."""
    a, nodes = pair[0], pair[0].nodes
    with no_packet_lost(nodes, OTHER, apart=0.1), outages(nodes) as took:
        for what in ("child", "ike"):
            nodes.sh("b", f"swanctl --terminate --{what} mz3 --timeout 3")
            wait(f"strongSwan calls again: {what}", partial(nodes.reaches, "a", 3, 1))
    print("seconds without packets after IPsec's session was ended:", took["ipsec"])
    assert took["ipsec"] < SOON * BUSY
    ended = time.monotonic()
    wait("a look after that", lambda: a.tunnel(3)["age"] + 1 < time.monotonic() - ended)
    before = counted(tunnels(a))
    for host in "ab":
        nodes.sh(host, "systemctl stop marzban-ipsec")
    losses = [
        ("b", "swanctl --terminate --ike mz3 --timeout 3"),
        ("a", "umask 077; wg genkey > /root/another; wg set mz1 private-key /root/another; rm /root/another"),
        ("b", "systemctl kill --signal=USR1 openvpn-server@mz2"),
    ]

    def is_over() -> bool:
        told = tunnels(a)
        return all(counted(told)[number] != before[number] for number in (1, 3)) and all_active(told)

    with no_packet_lost(nodes, 4, OTHER, apart=0.1), outages(nodes) as took:
        for host, command in losses:
            nodes.sh(host, command)
        wait("they are made again", is_over)
    print("seconds without packets after a session was lost:", took)
    assert max(took.values()) < SOON * BUSY
    after = counted(tunnels(a))
    for number in (1, 3):
        assert after[number]["session"] == before[number].get("session", 0) + 1, a.said()
    assert [after[number] for number in (4, OTHER)] == [before[number] for number in (4, OTHER)]
    print("\n".join(line for line in a.said().splitlines()[-8:]))
    for service in pair:
        service.nodes.sh(service.name, "systemctl start marzban-ipsec")
        wait("all are well", partial(is_well, service))


def is_same_as_a_run(nodes: Directly, check: bool) -> bool:
    """Whether a run, or its check mode, would leave a as it is."""
    its = views(nodes)["a"]
    answer = nodes.run_on("a", "tunnel_apply", its, check=check).answer
    return not answer["changed"] and len(answer["tunnels"]) == len(its)


def test_the_mtu_follows_a_path_that_shrinks(pair: list[Service]) -> None:
    """Where the record leaves it open. Where it says the MTU, the service only says what passes."""
    a, b = pair
    nodes, wide, before = a.nodes, mtus(a), counted(tunnels(a))
    address = nodes.lab.host("b").address
    took: dict[str, float] = {}

    def all_lowered() -> bool:
        now = tunnels(a)
        for number, kind in KINDS.items():
            if now[number]["status"] == "active" and "the MTU was lowered" in (now[number]["note"] or ""):
                took.setdefault(kind, round(time.monotonic() - begun, 1))
        return len(took) == len(KINDS) and "set mtu to" in (now[4]["error"] or "")

    with no_packet_lost(nodes, 1, 2, 3, 4, apart=0.1):
        begun = time.monotonic()
        nodes.sh("b", NARROW)
        wait("all are lowered, and the one that has an MTU says so", all_lowered)
        print("seconds until the MTU was lowered:", took, a.tunnel(1)["note"], a.tunnel(4)["error"])
        assert max(took.values()) < SOON * BUSY
        lower, now = mtus(a), tunnels(a)
        assert lower[4] == wide[4] == WIDE
        tables = nodes.sh("a", "nft list ruleset")
        for number in KINDS:
            told = now[number]
            assert told["measured"]["mtu"] == lower[number] < wide[number]
            assert told["note"].startswith(
                f"its path takes packets of {lower[number]:,} bytes at most, {wide[number]:,}"
            )
            table = tables.partition(f"table inet marzban-{told['uuid']} ")[2].partition("\ntable ")[0]
            assert f"set {lower[number] - 40}" in table
        assert all(is_same_as_a_run(nodes, check) for check in (True, False))
        assert mtus(a) == lower

        # Another route: larger packets are tried once, and they do not pass yet.
        nodes.sh("a", f"ip route add {address} via {address} dev eth0 onlink")
        until("larger packets are tried", lambda: mtus(a) != lower, SOON * BUSY)
        until("they are not used", lambda: mtus(a) == lower, SOON * BUSY)
        nodes.sh("b", "nft delete table inet narrow")
        nodes.sh("a", f"ip route del {address}")
        took_back = wait("larger packets are used again", lambda: mtus(a) == wide)
        print("seconds until the MTU was raised after the route had changed:", took_back)
    assert is_same_as_a_run(nodes, check=True)
    assert "narrow" not in nodes.sh("a", "cat /etc/marzban/tunnels/*/state.json")
    after = counted(tunnels(a))
    assert [after[number]["mtu"] - before[number].get("mtu", 0) for number in KINDS] == [1, 1, 1]
    assert after[4] == before[4]
    print(a.said())
    a.waits_for(4, "active")
    assert tunnels(b)[4]["recoveries"]["put_back"] == 0


def test_a_run_ends_what_hangs_and_check_mode_says_so(pair: list[Service]) -> None:
    """Where the service is not there, or is not quick enough."""
    nodes = pair[0].nodes
    for service in pair:
        service.stop()
    try:
        its = [view for view in views(nodes)["a"] if view["id"] in (2, 4)]
        hang = f"kill -STOP $(pgrep -f 'wireguard-go mz4$') $({PROCESSES[2]})"
        nodes.sh("a", hang)
        would, did = (Answer(nodes.run_on("a", "tunnel_apply", its, check=check).answer) for check in (True, False))
        for number, unit in ((4, "wg-quick@mz4.service"), (2, "openvpn-server@mz2.service")):
            assert did.tunnel(number)["changes"] == [f"{unit} ended: it did not answer", "started"]
            assert would.tunnel(number)["changes"] == did.tunnel(number)["changes"]
            wait("packets", partial(nodes.reaches, "a", number, 1))
    finally:
        for service in pair:
            service.start()


@pytest.mark.variation  # without a host in test_recoveries.py and test_board.py
def test_a_link_that_flaps_is_told_and_left_alone(pair: list[Service]) -> None:
    a, nodes = pair[0], pair[0].nodes
    wait("all are well", partial(is_well, a))
    processes = {number: nodes.sh("a", found) for number, found in PROCESSES.items()}
    cut = "nft add table inet cut; nft 'add chain inet cut in { type filter hook input priority -300; }';"
    ports, cut_off = "{ 4500, 20001, 20002 }", sorted({*KINDS, OTHER})
    script = (
        f"while :; do {cut} nft add rule inet cut in udp dport '{ports}' drop; sleep 7; nft delete table inet cut;"
        " sleep 6; done"
    )
    (a.host.root / "root/flap.sh").write_text(script + "\n")
    with no_packet_lost(nodes, 4, apart=0.1):
        begun = time.monotonic()
        nodes.sh("a", "systemd-run --quiet --unit=flapping sh /root/flap.sh")
        until("it is told", lambda: all("unstable" in (a.tunnel(n)["error"] or "") for n in cut_off), 180, 0.5)
        print("seconds until it was told:", round(time.monotonic() - begun, 1))
        before = {number: (a.tunnel(number)["recoveries"], a.tunnel(number)["error"]) for number in cut_off}
        end = time.monotonic() + 90
        while time.monotonic() < end:
            for number in cut_off:
                told = a.tunnel(number)
                assert (told["status"], told["error"], told["recoveries"]) == (
                    "error",
                    before[number][1],
                    before[number][0],
                )
            time.sleep(0.5)
        nodes.sh("a", "systemctl stop flapping; nft delete table inet cut 2>/dev/null || true")
        begun = time.monotonic()
        until("it is over", partial(is_well, a), 120, 0.5)
        print("seconds until it was over:", round(time.monotonic() - begun, 1))
    assert {number: nodes.sh("a", found) for number, found in PROCESSES.items()} == processes
    said = [line for line in a.said().splitlines() if "came and went" in line]
    print("\n".join(said))
    assert sorted(line.split(":")[0] for line in said) == [f"tunnel t{number}" for number in cut_off]
