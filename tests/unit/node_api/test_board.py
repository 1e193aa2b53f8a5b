# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the node service knows of its tunnels, tells a panel, and has repaired: without a host."""

from __future__ import annotations

import itertools
import logging
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.marzban.tunnels.plugins.module_utils._node.kept import KeptView
from ansible_collections.marzban.tunnels.plugins.module_utils._node.packages import Lacking
from ansible_collections.marzban.tunnels.plugins.module_utils._node.tunnel import Tunnel
from marzban_node.board import Board, Entry
from marzban_node.engine import Applied
from marzban_node.panels import Panel
from marzban_node.recoveries import Repair
from marzban_node.work import Worker
from tests.support import views

UUID = views.view()["uuid"]


class World:
    """A board with a clock of its own, and one tunnel."""

    def __init__(self, **changes: Any) -> None:
        self.now = 1000.0
        self.board = Board(lambda: self.now)
        view: Any = {**views.view(), **changes}
        self.kept = KeptView(view, "r")
        self.tunnel = Tunnel(view)
        self.tunnel.checked = view
        state: Any = {"interface": view["interface"], "version": view["version"], "applied": {}}
        self.tunnel.state = state
        self.board.sync({UUID: self.kept})
        self.board.applied(self.kept, self.tunnel, [])

    def sees(self, status: str = "active", loss: float | None = 0, **changes: Any) -> dict[str, Any]:
        """Five seconds later the tunnel is looked at, and this is what is found."""
        self.now += 5
        self.tunnel.status = status
        self.tunnel.error = "it is dead" if status == "error" else None
        self.tunnel.measured = None if loss is None else {"loss_percent": loss}
        for name, value in changes.items():
            setattr(self.tunnel, name, value)
        self.board.measured([self.tunnel], self.now - 1)
        return self.told()

    def told(self) -> dict[str, Any]:
        told = self.board.tunnel(UUID)
        assert told is not None
        return told

    def broken(self) -> list[bool]:
        return [repair.probe for _entry, repair in self.repairs()]

    def repairs(self) -> list[tuple[Entry, Repair]]:
        return self.board.broken([self.tunnel], self.now - 1)


def test_a_tunnel_is_active_for_as_long_as_a_probe_was_answered_twelve_seconds_ago():
    world = World()
    assert (world.told()["status"], world.told()["age"]) == (None, None)
    assert world.sees()["status"] == "active"
    assert [world.sees("connecting", 100)["status"] for _time in range(3)] == ["active", "active", "connecting"]
    world.now += 7
    assert world.told()["age"] == 7
    assert world.sees()["status"] == "active"
    assert world.sees("error", 0)["error"] == "it is dead", "small packets pass, and large ones don't"


def test_an_answer_is_as_old_as_the_look_that_it_was_in():
    """With many tunnels, or a narrow one, a look takes seconds."""
    view: Any = views.view()
    world = World(peer={**view["peer"], "endpoint": "fi.example"})
    world.sees()
    begun = world.now
    world.sees()
    world.now += 8
    world.board.measured([world.tunnel], begun)
    assert world.board.broken([world.tunnel], begun) == [], "it has answered"
    assert world.sees("connecting", 100)["status"] == "connecting", "18 seconds later"


def test_something_that_was_taken_away_shows_at_once():
    world = World()
    world.sees()
    assert world.sees("error", 100, lacks=["the route 192.0.2.0/24"])["status"] == "error"
    assert world.sees("error", None)["status"] == "error"


def test_repairs_come_less_often_until_the_tunnel_is_well():
    world = World()
    world.sees()
    assert world.broken() == []
    attempts = []
    for _look in range(24):
        world.sees("error", None)
        if world.broken():
            attempts.append(world.now)
    apart = [int(after - before) for before, after in itertools.pairwise(attempts)]
    assert apart == sorted(apart)
    assert set(apart[-3:]) == {15}
    world.sees()
    assert world.broken() == []
    world.now += 20
    world.sees("error", None)
    assert world.broken() == [False], "it waits as if it had never been well"


def dies(world: World, lacks: list[str]) -> dict[str, Any]:
    """It is gone, is put back, and a moment later it is gone again; what is told at the end."""
    world.now += 15  # it is due
    world.sees("error", 0 if lacks else None, lacks=lacks)
    assert world.broken() == [False]
    world.tunnel.changes = ["started"]
    world.board.applied(world.kept, world.tunnel, [], Repair())
    return world.told()


@pytest.mark.parametrize(("lacks", "words"), [([], "does not stay up"), (["the route R"], "the route R: put back 3")])
def test_what_does_not_last_is_told_once_and_does_not_flap(lacks: list[str], words: str):
    world = World()
    world.sees()
    assert [dies(world, lacks)["status"] for _time in range(3)] == ["connecting"] * 3, "it is repaired"
    for _look in range(12):
        told = dies(world, lacks)
        assert (told["status"], words in told["error"], told["refused"]) == ("error", True, False), told
        assert world.sees("connecting", 100, lacks=[])["status"] == "error", "it runs for a moment"
    assert "journalctl -u '*mz3*'" in told["error"]
    assert world.sees(lacks=[])["error"] is None
    assert dies(world, lacks)["status"] == "connecting", "it was well, so this is the first time"


def test_what_is_taken_away_again_and_again_is_told_though_it_is_well_between() -> None:
    world = World()
    world.sees()
    for _time in range(3):
        assert dies(world, ["the route R"])["status"] == "connecting"
        assert world.sees(lacks=[])["status"] == "active"
    assert "the route R: put back 3 times" in dies(world, ["the route R"])["error"]


def test_what_stays_up_has_no_error_though_a_peer_with_a_name_is_away() -> None:
    world = World()
    world.kept.view["peer"]["endpoint"] = "peer.example.com"
    for _time in range(4):
        dies(world, [])
    assert world.told()["status"] == "error"
    world.now += 301
    world.sees("connecting", 100, lacks=[])
    world.broken()
    assert world.told()["status"] == "connecting"


def test_what_does_not_last_has_one_line_in_the_journal(caplog: pytest.LogCaptureFixture):
    world = World()
    applied: Any = Applied({"missing": [], "removed": []}, [world.tunnel])  # type: ignore[typeddict-item]
    # FAKE engine, which starts what dies again
    fake: Any = SimpleNamespace(apply=lambda *_given: applied, kept=SimpleNamespace(forget=lambda *_given: None))
    worker, panel = Worker(fake, world.board, threading.Event()), Panel(views.PANEL, UUID, ())
    worker.start()
    world.tunnel.changes = ["started"]
    with caplog.at_level(logging.INFO, "marzban_node.work"):
        for _look in range(12):
            world.now += 15
            world.sees("error", None)
            for entry, repair in world.repairs():
                assert worker.repair(panel, entry.kept, repair).done.wait(10)
    worker.end()
    worker.join()
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 4, said
    assert all("repaired in" in line for line in said[:3])
    assert "mz3 was started 3 times in 60 s, and does not stay up" in said[3]


def test_what_happens_rarely_or_to_something_else_is_repaired_each_time():
    world = World()
    for lost in ([], ["the route R"], ["the table T"], [], ["the route R"]):
        assert dies(world, lost)["status"] == "connecting"
    for _hour in range(4):
        world.now += 3600
        assert dies(world, [])["status"] == "connecting"


def test_another_record_of_what_did_not_last_is_tried_again():
    world = World()
    for _time in range(5):
        told = dies(world, [])
    assert told["status"] == "error"
    newer = KeptView({**world.kept.view, "version": world.kept.view["version"] + 1}, "r2")
    world.board.want(newer)
    assert world.told()["error"] != told["error"]


def test_what_runs_again_without_an_answer_is_not_an_error_for_ever():
    """Somebody has put it right by hand, and its peer is away."""
    world = World()
    for _time in range(5):
        dies(world, [])
    for _look in range(70):
        world.sees("connecting", 100, lacks=[])
        world.broken()
    assert world.told()["status"] == "connecting"


def test_a_silent_peer_is_looked_for_by_its_name_only():
    for endpoint, expected in (("fi.example", [("peer", True)]), ("203.0.113.4", [("session", False)])):
        view: Any = views.view()
        world = World(peer={**view["peer"], "endpoint": endpoint})
        world.sees()
        for _look in range(3):
            world.sees("connecting", 100)
        assert [(repair.kind, repair.probe) for _entry, repair in world.repairs()] == expected, endpoint


def test_a_process_that_hangs_is_ended_after_two_looks_and_told() -> None:
    world = World()
    world.sees()
    assert world.sees("error", None, hangs="wg-quick@mz3.service")["status"] == "active", "it may be busy"
    assert world.broken() == []
    told = world.sees("error", None, hangs="wg-quick@mz3.service")
    assert (told["status"], told["error"]) == ("error", "it is dead")
    assert [repair.kind for _entry, repair in world.repairs()] == ["process"]
    world.tunnel.changes = ["wg-quick@mz3.service ended: it did not answer", "started"]
    world.board.applied(world.kept, world.tunnel, [], Repair("process"))
    assert world.told()["recoveries"] == {"put_back": 0, "process": 1, "session": 0, "mtu": 0, "peer": 0}
    assert world.sees(hangs=None)["status"] == "active"


def test_a_link_that_flaps_is_never_active_and_never_repaired() -> None:
    world = World()
    told = []
    for _time in range(12):
        told.append(world.sees())
        for _look in range(3):
            told.append(world.sees("connecting", 100))
            assert not (told[-1]["error"] and world.repairs())
    said = [answer["error"] for answer in told]
    first = said.index(told[-1]["error"])
    assert set(said[first:]) == {told[-1]["error"]}
    assert "the path between" in said[-1]
    assert {answer["status"] for answer in told[first:]} == {"error"}


@pytest.mark.parametrize(("taken", "counted"), [("s", 1), ("k", 0)])
def test_the_key_of_a_peer_that_was_set_up_again_is_counted_when_it_is_accepted(taken: str, counted: int) -> None:
    world = World()
    world.tunnel.peer_key = {"known": "k", "seen": "s"}
    world.board.applied(world.kept, world.tunnel, [])
    assert world.told()["recoveries"]["peer"] == 0
    world.tunnel.peer_key = None
    world.tunnel.view["peer"] = {**world.tunnel.view["peer"], "public": {"public_key": taken}}
    world.board.applied(world.kept, world.tunnel, [])
    assert world.told()["recoveries"]["peer"] == counted


@pytest.mark.parametrize(
    ("active", "changes", "expected"),
    [
        (False, {}, [False]),  # something of it is still here
        (False, {"state": {"interface": None, "version": 4, "applied": {}}}, []),
        (True, {"state": None}, [False]),
        (True, {"state": {"interface": "mz3", "version": 0, "applied": {}}}, [False]),  # an older one was applied
        (True, {"waiting_for": "fi-1", "measured": None}, []),
    ],
)
def test_what_is_not_as_it_is_wanted_is_applied(active, changes, expected):
    world = World(active=active)
    world.sees("active" if active else "inactive", 0 if active else None)
    for name, value in changes.items():
        setattr(world.tunnel, name, value)
    assert world.broken() == expected


def test_what_was_seen_before_a_change_says_nothing_after_it():
    world = World()
    world.sees()
    world.board.want(world.kept)
    assert world.told()["doing"]
    assert world.broken() == []
    world.tunnel.changes = ["conf changed"]
    world.board.applied(world.kept, world.tunnel, [])
    world.board.ended(UUID)
    assert (world.told()["doing"], world.told()["status"], world.told()["measured"]) == (False, "connecting", None)
    begun = world.now - 1
    world.board.measured([world.tunnel], begun)
    assert world.told()["age"] is None


def of(told: dict[str, Any]) -> tuple[Any, ...]:
    return told["version"], told["active"], told["revision"], told["status"], told["error"]


def test_a_record_that_waits_for_its_turn_is_not_told_as_the_one_that_is_here():
    """A run has the host for minutes, so that the engine is given up."""
    world = World(version=4)
    world.sees()
    newer = KeptView({**world.kept.view, "version": 5}, "r5")
    world.board.want(newer)
    assert of(world.told()) == (4, True, "r5", "active", None), "or it would be sent twice"
    world.board.ended(UUID)
    assert of(world.sees()) == (4, True, "r5", "active", None)
    world.board.applied(newer, world.tunnel, [])
    assert of(world.told()) == (5, True, "r5", "active", None), "there was nothing to change"


def test_what_is_to_be_off_and_still_runs_is_not_told_as_off():
    world = World(version=4)
    age = world.sees()["age"]
    off = KeptView({**world.kept.view, "version": 5, "active": False}, "r5")
    world.board.want(off)
    world.board.ended(UUID)
    told = world.sees("inactive", None)
    assert of(told) == (4, True, "r5", "active", None)
    assert told["age"] == age + 5, "what runs was not looked for"
    world.board.applied(off, world.tunnel, [])
    assert of(world.sees("inactive", None)) == (5, False, "r5", "inactive", None)


@pytest.mark.parametrize(
    ("state", "active", "expected"),
    [
        (None, True, (0, True)),
        ({"interface": "mz3", "version": 3, "applied": {}}, True, (3, True)),
        ({"interface": "mz3", "version": 3, "applied": {}}, False, (3, True)),
        ({"interface": None, "version": 3, "applied": {}}, False, (3, False)),
    ],
)
def test_a_service_that_has_just_begun_tells_what_is_on_the_host(state, active, expected):
    world = World(active=active, version=4)
    world.board.sync({})
    world.board.sync({UUID: world.kept})
    assert of(world.told())[:2] == (0, active)
    told = world.sees("connecting", None, state=state)
    assert of(told)[:2] == expected
    assert told["status"] == (None if expected[1] and not active else "connecting" if active else "inactive")


def test_what_could_not_even_begin_says_so_of_the_new_record():
    world = World(version=4)
    world.sees()
    newer = KeptView({**world.kept.view, "version": 5}, "r5")
    world.board.want(newer)
    world.board.failed(newer, "the disk is full")
    world.board.ended(UUID)
    assert of(world.sees()) == (5, True, "r5", "error", "the disk is full")
    assert world.broken() == [False]


@pytest.mark.parametrize("known", [True, False])
def test_what_becomes_known_while_it_is_removed_is_watched_all_the_same(known):
    """The service has just begun, and a removal waits for its turn until it is given up."""
    world = World()
    world.sees()
    if not known:
        world.board.sync({})
    counted = world.board.begin(UUID)
    assert counted is known
    world.board.sync({UUID: world.kept})
    assert world.told()["doing"] is known
    world.board.ended(UUID, counted=counted)
    assert not world.told()["doing"]
    assert world.sees()["age"] == 0, "it was not looked at"
    world.sees("error", None)
    assert world.broken() == [False]
    world.board.ended(UUID, removed=True, counted=False)
    assert world.board.tunnel(UUID) is None


def test_a_refusal_is_over_when_the_tunnel_is_well():
    """Somebody has unmasked the unit, and started it."""
    world = World()
    world.tunnel.refuse(Exception("it is masked"))  # type: ignore[arg-type]
    world.board.applied(world.kept, world.tunnel, [])
    world.tunnel.refused = False
    world.sees()
    assert world.broken() == [False]
    world.board.applied(world.kept, world.tunnel, [])
    assert world.sees()["status"] == "active"


def test_one_lost_probe_does_not_make_a_narrow_tunnel_a_good_one():
    world = World()
    world.sees("error", 0)
    assert [world.sees("connecting", 100)["status"] for _time in range(2)] == ["error", "error"]


def test_a_tunnel_of_another_type_has_not_been_seen_yet():
    world = World()
    world.tunnel.public = {"public_key": "k"}
    world.board.applied(world.kept, world.tunnel, [])
    world.sees()
    assert world.told()["public"]
    view: Any = {**world.kept.view, "type": "ipsec"}
    world.board.want(KeptView(view, "r2"))
    told = world.told()
    assert (told["type"], told["status"], told["public"], told["measured"]) == ("ipsec", "connecting", None, None)


def test_a_refused_tunnel_says_why_and_what_is_missing():
    world = World()
    world.tunnel.refuse(Exception("no openvpn"))  # type: ignore[arg-type]
    world.board.applied(world.kept, world.tunnel, ["openvpn"])
    world.sees()
    told = world.told()
    assert (told["status"], told["refused"], told["missing"]) == ("error", True, ["openvpn"])
    assert "no openvpn" in told["error"]
    assert world.board.news(UUID, "no openvpn") is True
    assert world.board.news(UUID, "no openvpn") is False
    world.sees()  # what it was before still runs
    assert world.board.news(UUID, "no openvpn") is False


def test_a_view_that_a_run_has_applied_is_taken_over():
    world = World()
    newer = KeptView({**world.kept.view, "version": world.kept.view["version"] + 1})
    world.now += 5
    assert [entry.kept for entry in world.board.sync({UUID: newer})] == [newer]
    assert world.board.sync({UUID: newer}) == [], "the engine was given it a moment ago"
    assert world.told()["revision"] is None
    assert world.board.sync({}) == []
    assert world.board.tunnel(UUID) is None


def test_an_end_that_is_not_well_has_a_symptom() -> None:
    """Of a fixed set: the row of the troubleshooting guide. What lasts comes before what was seen a moment ago."""
    world = World()
    assert world.sees()["symptom"] is None
    assert world.sees("error", 0, symptom="large-packets")["symptom"] == "large-packets"
    assert world.sees(symptom=None)["symptom"] is None
    for _look in range(3):
        told = world.sees("connecting", 100)
    assert (told["status"], told["symptom"]) == ("connecting", "connecting")
    world.tunnel.peer_key = {"known": "a", "seen": "b"}
    world.board.applied(world.kept, world.tunnel, [])
    assert world.sees("error", 100, symptom="no-answer")["symptom"] == "reinstalled"
    world.tunnel.peer_key = None
    world.tunnel.refuse(Lacking("This host lacks openvpn."))
    world.board.applied(world.kept, world.tunnel, ["openvpn"])
    assert world.told()["symptom"] == "not-installed"


@pytest.mark.parametrize(("lacks", "symptom"), [([], "dies"), (["the route R"], "taken-away")])
def test_what_does_not_last_has_a_symptom(lacks: list[str], symptom: str) -> None:
    world = World()
    world.sees()
    for _time in range(4):
        told = dies(world, lacks)
    assert (told["status"], told["symptom"]) == ("error", symptom)
