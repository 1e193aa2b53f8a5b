# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: AGPL-3.0-or-later

"""What the node service has done for a tunnel that carries nothing, or too little, and what it counts: without a host.

The same on hosts is in tests/integration/test_service_recoveries.py.
"""

from __future__ import annotations

import logging
from typing import Any

import pytest

from ansible_collections.marzban.tunnels.plugins.module_utils._node.tunnel import Tunnel
from ansible_collections.marzban.tunnels.plugins.module_utils._protocols.base import ENDED, RENEWED
from marzban_node.recoveries import CALM, UNSTABLE, WIDER, WITHIN, Recoveries, Repair
from tests.support import views

NARROW = {"mtu": 1340, "before": 1440, "way": 1440}


class World:
    """A tunnel that is looked at every five seconds."""

    def __init__(self, role: str = "source", **changes: Any) -> None:
        self.now = 1000.0
        view: Any = {**views.view(), **changes}
        view["local"] = {**view["local"], "role": role}
        self.tunnel = Tunnel(view)
        self.tunnel.checked = view
        self.remembers(None)
        self.recoveries = Recoveries()

    def sees(self, loss: float | None = 0, age: int | None = 100, **changes: Any) -> Recoveries:
        self.now += 5
        self.tunnel.hangs, self.tunnel.lacks, self.tunnel.narrow = None, [], None
        self.tunnel.measured = None if loss is None else {"loss_percent": loss, "handshake_age": age}
        for name, value in changes.items():
            setattr(self.tunnel, name, value)
        self.recoveries.look(self.tunnel, self.now)
        return self.recoveries

    def does(self, repair: Repair | None, *changes: str) -> dict[str, int]:
        self.tunnel.changes = list(changes)
        self.recoveries.done(repair, self.tunnel, self.now)
        return self.counted()

    def counted(self) -> dict[str, int]:
        return {kind: times for kind, times in self.recoveries.counts.items() if times}

    def remembers(self, narrow: Any) -> None:
        state: Any = {"applied": {"narrow": narrow}}
        self.tunnel.state = state

    def silence(self) -> bool:
        return self.recoveries.silence(self.tunnel, self.now) is not None

    def path(self) -> Repair | None:
        return self.recoveries.path(self.tunnel, self.now)


@pytest.mark.parametrize(
    ("repair", "changes", "counted"),
    [
        (Repair(), ["started"], {"put_back": 1}),
        (Repair("process"), [f"wg-quick@mz1.service {ENDED}", "started"], {"process": 1}),
        (None, [f"strongswan.service {ENDED}"], {"process": 1}),
        (Repair("session", renew=True), ["private key loaded"], {"session": 1}),
        (Repair("session", renew=True), [RENEWED], {}),
        (Repair("peer", probe=True), ["endpoint b.example port 20001"], {"peer": 1}),
        (Repair("mtu"), ["MTU 1340 instead of 1440"], {"mtu": 1}),
        (Repair("", widen=True), ["MTU 1440 instead of 1340"], {}),
        (Repair(""), ["conf changed"], {}),
        (None, ["conf changed"], {}),
    ],
)
def test_what_is_counted(repair: Repair | None, changes: list[str], counted: dict[str, int]) -> None:
    assert World().does(repair, *changes) == counted


def test_a_lost_session_is_counted_when_packets_pass_in_a_new_one(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    with caplog.at_level(logging.INFO):
        world.sees(100)
        world.sees(age=1)
        assert world.counted() == {}, "it is the first one"
        world.sees(100)
        world.sees(100)
        world.sees(age=200)
        assert world.counted() == {}, "the path was away, and the session was not"
        world.sees(100)
        world.sees(100)
        world.does(Repair("session", renew=True), RENEWED)
        world.sees(age=4)
    assert world.counted() == {"session": 1}
    assert [record.getMessage() for record in caplog.records] == [
        "tunnel de-fi: packets pass again in 10.0 s, in a new session"
    ]


def test_a_silent_tunnel_is_seen_to_less_and_less_often() -> None:
    begun: dict[str, list[float]] = {}
    for role in ("source", "target"):
        world = World(role)
        world.sees()
        start = world.now
        begun[role] = []
        for _look in range(240):
            world.sees(100)
            if world.silence():
                begun[role].append(world.now - start)
    assert begun["source"][:4] == [15, 30, 60, 120]
    assert begun["target"][:2] == [20, 35], "one end is enough"
    assert begun["source"][-1] - begun["source"][-2] == 300
    world.sees()
    assert not world.silence()


def test_a_session_that_packets_come_in_by_is_not_ended_because_pings_are_dropped() -> None:
    """As by a firewall of the peer inside the tunnel: what is not as it is wanted is set right, and no more is done."""
    world = World()
    renewed = []
    for look in range(240):
        measured = {"loss_percent": 100, "handshake_age": 100, "rx_bytes": 1000 + min(look, 120)}
        world.sees(measured=measured)
        repair = world.recoveries.silence(world.tunnel, world.now)
        if repair:
            assert repair.kind == "session"
            renewed.append((look, repair.renew))
    assert [renew for look, renew in renewed if 0 < look <= 120] == [False] * 6
    assert [renew for look, renew in renewed if look > 120] == [True] * 2


@pytest.mark.parametrize("changes", [{"lacks": ["the route R"]}, {"hangs": "unit"}, {"loss": None}])
def test_what_has_a_reason_is_not_silent_nor_unstable(changes: dict[str, Any]) -> None:
    world = World()
    for _time in range(20):
        world.sees()
        world.sees(**{"loss": 100, **changes})
        assert not world.silence()
    assert world.recoveries.unstable is None
    assert world.recoveries.hung == ("hangs" in changes)


def test_a_link_that_flaps_is_told_once_and_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    for _time in range(60):
        world.sees()
        for _look in range(3):
            world.sees(100)
            assert not (world.silence() and world.recoveries.unstable)
    told = world.recoveries.unstable
    assert told is not None
    assert told.startswith(f"its packets came and went {UNSTABLE} times in 60 s: the path between ")
    assert [record.getMessage() for record in caplog.records] == [f"tunnel de-fi: {told}"]
    for _look in range(int(CALM / 5)):
        assert world.sees().unstable
    world.sees()
    assert world.sees().unstable is None
    world.sees(100)
    assert world.recoveries.unstable, "it goes on"


def test_what_stops_now_and_then_is_not_unstable() -> None:
    world = World()
    for _time in range(2 * UNSTABLE):
        world.sees(100)
        world.sees()
        world.now += WITHIN / (UNSTABLE - 2)
    assert world.recoveries.unstable is None


def test_the_mtu_is_lowered_after_two_looks_where_the_record_leaves_it_open() -> None:
    world = World()
    world.sees(narrow=(1440, 1340))
    assert world.path() is None
    world.sees()
    world.sees(narrow=(1440, 1340))
    assert world.path() is None, "a busy host loses packets too"
    world.sees(narrow=(1440, 1340))
    repair = world.path()
    assert repair is not None
    assert (repair.kind, repair.path) == ("mtu", {"mtu": 1340, "before": 1440, "way": None})
    assert repair.path_words == "its path takes packets of 1,340 bytes at most, 1,440 before: the MTU was lowered"
    world.remembers(NARROW)
    for _look in range(3):
        world.sees(narrow=(1340, 1300))
    repair = world.path()
    assert repair is not None
    assert repair.path == {"mtu": 1300, "before": 1440, "way": 1440}, "it got narrower still"

    world = World()
    world.remembers(NARROW)
    lowered = 0
    for _look in range(121):  # the interface has the MTU of before all the same
        world.sees(narrow=(1440, 1340))
        lowered += world.path() is not None
    assert lowered == 2, "in ten minutes"

    world = World(mtu=1440)
    for _look in range(3):
        world.sees(narrow=(1440, 1340))
        assert world.path() is None
    world = World()
    for _look in range(3):
        world.sees(narrow=(1440, None))
        assert world.path() is None, "nothing passes that it could be set to"


def test_larger_packets_are_tried_after_an_hour_or_on_another_route() -> None:
    world = World()
    world.remembers(NARROW)
    tried = []
    for _look in range(int(2.5 * WIDER / 5)):
        world.sees()
        repair = world.path()
        if repair:
            assert (repair.widen, repair.kind, repair.path) == (True, "", NARROW)
            tried.append(world.now)
    assert [round(later - 1005) for later in tried] == [WIDER, 2 * WIDER + 5]
    for way, expected in (("eth0", False), (None, False), ("eth0", False), ("eth1", True)):
        world.sees()
        world.recoveries.route(way, world.now)
        assert bool(world.path()) is expected, way
    world.sees()
    assert world.path() is None, "once"
    world.recoveries.route("eth2", world.now)
    world.sees(100)
    assert world.path() is None, "it carries nothing at this moment"
