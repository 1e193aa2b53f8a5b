# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""What the manager makes of a node's answer: what differs, and what is hostile. Nothing is sent or stored here."""

from __future__ import annotations

import base64
import time
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from marzban_tunnels import responses
from marzban_tunnels.live import STALE_BY_SERVICE
from marzban_tunnels.manager import answers, known, problems, refusals, watch
from marzban_tunnels.manager.compare import Plan, Removal, Wanted, compare, facts, overdue, revision_of
from marzban_tunnels.manager.hub import Pace
from marzban_tunnels.manager.store import Changes, Target
from marzban_tunnels.manager.watch import Watch
from tests.support.managed_panel import until

HERE, THERE, OTHER = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2, 3))
MOMENT = responses.now()


def record(uuid: str = "u1", **fields: Any) -> dict[str, Any]:
    ends = [
        {"role": role, "node": node, "endpoint": "203.0.113.1", "endpoint_port": 20000, "port": 20000,
         "addresses": ["10.0.0.0/31"], "interface": "mz1", "routes": [], "public": None, "status": None, "age": 1}
        for role, node in (("source", "de-1"), ("target", "nl-1"))
    ]  # fmt: skip
    base = {"id": 1, "uuid": uuid, "version": 1, "name": "a", "tunnel_type": "wireguard", "config": "{}"}
    return {**base, "is_active": True, "status": "connecting", "ends": ends, **fields}


def wanted(uuid: str = "u1", **fields: Any) -> Wanted:
    told = record(uuid)
    return replace(Wanted(told, "source", revision_of(told, "de-1", "panel")), **fields)


def shown(uuid: Any = "u1", **fields: Any) -> dict[str, Any]:
    return {"uuid": uuid, "id": 1, "type": "wireguard", "version": 1, "status": "active", **fields}


def listed(*tunnels: dict[str, Any], **fields: Any) -> answers.Listing:
    body = {"api": 1, "engine": "x", "panel": "p", "node": "n", "time": 1.5, "counter": 3, "tunnels": list(tunnels)}
    return answers.listing(body | fields)


def planned(want: Wanted, *tunnels: dict[str, Any], peer: Any = None, removals: Any = ()) -> Any:
    return compare({want.uuid: want}, {item.uuid: item for item in removals}, listed(*tunnels), lambda item: peer)


def test_what_is_missing_or_different_is_sent_and_nothing_else() -> None:
    want = wanted()
    assert [post.wanted for post in planned(want).posts] == [want]
    assert [post.wanted for post in planned(want, shown(revision="old")).posts] == [want]
    assert [post.wanted for post in planned(want, shown(revision=None)).posts] == [want]  # applied by a run
    assert planned(want, shown(revision="old", doing=True)).posts == []
    assert planned(want, shown(revision=want.revision)).posts == []


def test_only_a_deletion_record_deletes() -> None:
    want, gone = wanted(), Removal("u2", MOMENT)
    plan = planned(want, shown(revision=want.revision), shown("u2"), shown("u3"), removals=[gone])
    assert (plan.removals, [item.uuid for item in plan.orphans]) == (["u2"], ["u3"])
    assert planned(want, removals=[gone]).removals == ["u2"]  # the node has to know that it is gone
    both = planned(want, shown(revision=want.revision), removals=[Removal("u1", MOMENT)])
    assert (both.removals, both.void) == ([], ["u1"])  # moved away and back
    assert planned(want, shown("u2", doing=True), removals=[gone]).removals == []


def test_a_revision_is_about_what_a_node_is_told() -> None:
    told = record()
    first = revision_of(told, "de-1", "panel")
    volatile = [{**end, "status": "active", "age": 7, "measured": {"rx_bytes": 1}} for end in told["ends"]]
    assert revision_of({**told, "status": "active", "ends": volatile}, "de-1", "panel") == first
    assert revision_of({**told, "ends": told["ends"][::-1]}, "de-1", "panel") == first
    others = [
        revision_of({**told, "version": 2}, "de-1", "panel"),
        revision_of({**told, "is_active": False}, "de-1", "panel"),
        revision_of(told, "de-2", "panel"),
        revision_of(told, "de-1", "another"),
        *(
            revision_of({**told, "ends": [{**told["ends"][0], **change}, told["ends"][1]]}, "de-1", "panel")
            for change in (
                {"endpoint": "203.0.113.9"},
                {"port": 1},
                {"public": {"public_key": HERE}},
                {"routes": ["::/0"]},
            )
        ),
    ]
    assert len({first, *others}) == 1 + len(others)


def test_a_first_half_is_taken_and_a_changed_one_only_shown() -> None:
    half, other = {"public_key": HERE}, {"public_key": OTHER}
    (first,) = planned(wanted(), shown(public=half)).halves
    assert first[1] == half
    known = wanted(public=half)
    changed = planned(known, shown(public=other))
    assert (changed.halves, [item[1] for item in changed.changed]) == ([], [other])
    assert planned(replace(known, changed_public=other), shown(public=other)).changed == []
    assert [item[1] for item in planned(replace(known, changed_public=other), shown(public=half)).changed] == [None]
    more = {**half, "next_public_key": OTHER}  # the next key of a rotation is passed on by runs
    plan = planned(known, shown(public=more))
    assert (plan.halves, plan.changed) == ([], [])
    assert planned(wanted(), shown(type="openvpn", public=half)).halves == []  # of what it was before


@pytest.mark.parametrize(
    ("stored", "seen", "known", "peer", "accepted"),
    [
        (THERE, THERE, OTHER, THERE, THERE),
        (THERE, THERE, OTHER, OTHER, None),  # the peer itself shows another one: the record is old
        (THERE, THERE, OTHER, None, None),  # nothing is known of the peer
        (THERE, HERE, OTHER, HERE, None),  # the node saw one that is not the record's
        (None, THERE, OTHER, THERE, None),
    ],
)
def test_a_peers_new_key_is_passed_on_when_the_record_and_the_peer_agree(
    stored: str | None, seen: str, known: str, peer: str | None, accepted: str | None
) -> None:
    want = wanted(peer_public={"public_key": stored} if stored else None)
    told = shown(revision=want.revision, peer_key={"known": known, "seen": seen})
    plan = planned(want, told, peer={"public_key": peer} if peer else None)
    assert [post.accept_key for post in plan.posts] == ([accepted] if accepted else [])


def test_a_peers_new_certificate_is_passed_on_with_the_key_that_stays() -> None:
    half, before = ({"public_key": THERE, "fingerprint": letter * 64} for letter in "ab")
    want = wanted(peer_public=half)
    told = shown(revision=want.revision, peer_key={"known": THERE, "seen": THERE})
    assert [post.accept_key for post in planned(want, told, peer=half).posts] == [THERE]
    assert planned(want, told, peer=before).posts == [], "the peer itself shows another one: the record is old"
    assert planned(want, shown(revision=want.revision), peer=half).posts == [], "it has taken it"


def test_a_deletion_is_given_up_after_30_days() -> None:
    records = [Removal(str(days), MOMENT - timedelta(days=days), days == 50) for days in (29, 31, 50)]
    assert overdue({item.uuid: item for item in records}, MOMENT) == ["31"]


def test_nothing_is_given_up_by_a_clock_that_is_wrong_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    target = Target("n", 1, "de-1", "192.0.2.1", 62052, "pin", 1, 0, removals={"u1": Removal("u1", MOMENT)})
    hub: Any = SimpleNamespace(pace=Pace(), changes=Changes(), dirty=lambda: None)
    client: Any = None
    one, begun = Watch(target, hub, client), time.monotonic()
    for days, seconds, given_up in ((99, 0, 0), (0, 1800, 0), (99, 3601, 0), (99, 7200, 0), (99, 7202, 1)):
        monkeypatch.setattr(responses, "now", lambda days=days: MOMENT + timedelta(days=days))
        monkeypatch.setattr(time, "monotonic", lambda seconds=seconds: begun + seconds)
        one._give_up(target)
        assert len(hub.changes.given_up) == given_up


HOSTILE: list[Any] = [
    None, [], "x", {}, {"tunnels": {}}, {"counter": -1}, {"counter": True}, {"counter": 2**64}, {"time": "now"},
    {"time": float("nan")}, {"engine": ""}, {"engine": "x" * 1000}, {"tunnels": [7]}, {"tunnels": [{}]},
    {"tunnels": [shown(uuid=["u"])]}, {"tunnels": [shown(status="great")]}, {"tunnels": [shown(), shown()]},
    {"tunnels": [shown(public={"private_key": "x"})]}, {"tunnels": [shown(public="x")]},
    {"tunnels": [shown(measured={"rx_bytes": -1})]}, {"tunnels": [shown(missing="x")]},
    {"tunnels": [shown(missing=[{}])]}, {"tunnels": [shown(peer_key=7)]}, {"tunnels": [shown(age=-3)]},
    {"tunnels": [shown(revision="x" * 1000)]}, {"tunnels": [shown(error={"a": 1})]},
    {"tunnels": [shown()] * (answers.MOST + 1)}, {"counter": 2**53}, {"engine": "\ud800"},
    {"tunnels": [shown(uuid="a\nb")]}, {"tunnels": [shown(type="\u202e")]}, {"tunnels": [shown(missing=["\x00"])]},
    {"tunnels": [shown(name=7)]},
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_a_hostile_answer_is_refused_with_a_sentence(number: int) -> None:
    body = HOSTILE[number]
    good = {"api": 1, "engine": "x", "panel": "p", "node": "n", "time": 1.5, "counter": 3, "tunnels": [shown()]}
    assert answers.listing(good).tunnels["u1"].status == "active"
    with pytest.raises(ValueError, match=r"^[a-z_. ]+: .") as caught:
        answers.listing(good | body if isinstance(body, dict) and body else body)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("said", "taken"),
    [
        ("keys", "keys"),
        ("<b>", None),
        ("later-word", None),
        (["keys"], None),
        ({}, None),
        (7, None),
        ("x" * 9999, None),
    ],
)
def test_a_symptom_is_one_of_those_that_are_known(said: Any, taken: str | None) -> None:
    """The page makes a link of it."""
    assert answers.tunnel(shown(symptom=said)).symptom == taken


def test_what_a_node_says_is_one_line() -> None:
    seen = answers.tunnel(shown(error="two\nlines \x1b[31m" + "x" * 3000))
    assert seen.error is not None
    assert len(seen.error) <= 1000
    assert seen.error.isprintable()
    assert answers.tunnel(shown(name="a\ud800\u202e b", error="\n")).name == "a b"


def test_a_sentence_in_which_only_a_time_goes_on_is_the_same() -> None:
    text = "the handshake with {} is {} old, {} did not answer 3 pings"
    first, later = (answers.tunnel(shown(error=text.format("nl-1", age, "10.0.0.1"))) for age in ("47 s", "3 min"))
    assert facts(first) == facts(later)
    for other in (text.format("nl-2", "47 s", "10.0.0.1"), text.format("nl-1", "47 s", "10.0.0.2"), None):
        assert facts(answers.tunnel(shown(error=other))) != facts(first)


def test_what_a_node_says_to_one_tunnel_is_about_that_tunnel() -> None:
    assert refusals.is_busy(503, {"code": "busy", "detail": "x"})
    assert refusals.is_busy(503, "x")
    for code in ("failed", "unanswered"):
        assert not refusals.is_busy(503, {"code": code, "detail": "x"})
    assert refusals.is_unanswered(503, {"code": "unanswered"})
    assert not refusals.is_unanswered(503, "x")
    for status, code in ((503, "failed"), (409, "foreign")):
        said = refusals.sentence(status, {"code": code, "detail": "because\n\ud800" + "x" * 9000})
        assert said is not None
        assert said.startswith("The node can't do it: because x")
        assert len(said) < 1000
    narrow = refusals.sentence(422, {"code": "invalid", "detail": {"type": "openvpn: not of tunnels_types"}})
    assert "'type': 'openvpn: not of tunnels_types'" in str(narrow)
    nothing: list[Any] = [None, [], {}, {"detail": 7}, {"detail": {}}, {"detail": " \n"}]
    for answer in nothing:
        assert refusals.sentence(409, answer) is None


def test_an_end_that_was_not_measured_yet_replaces_no_report() -> None:
    for stored, status, age, told in (
        (None, "connecting", None, "connecting"),  # a new record: there is nothing else to say
        ("active", "connecting", None, None),
        ("active", "connecting", 0.5, "connecting"),
        ("active", "inactive", None, "inactive"),
    ):
        item = wanted(status=stored)
        target = Target("n", 1, "de-1", "192.0.2.1", 62052, "pin", 1, 0, wanted={"u1": item})
        hub: Any = SimpleNamespace(pace=Pace(), changes=Changes(), dirty=lambda: None)
        client: Any = None
        one = Watch(target, hub, client)
        one._seen = {"u1": known.Seen(answers.tunnel(shown(status=status, age=age)), time.monotonic())}
        end = one.end("u1", "source")
        assert (end["status"] if end else None) == told
        one._report(target)
        assert bool(hub.changes.reports) == (told is not None and stored is not None)
    one._seen, one._tries = {}, {"u1": known.Try(("revision", None), 1, 0.0, "mtu: 7 is too small")}
    for one.contact in (time.monotonic() - 99, time.monotonic()):  # the node is away since, or still refuses it
        end = one.end("u1", "source")
        assert end is not None
        assert (end["status"], end["age"] >= 99) == ("error", time.monotonic() - one.contact >= 99)
    one._tries = {}
    one._seen = {"u1": known.Seen(answers.tunnel(shown(status="error", age=2.0**62)), time.monotonic())}
    one._report(target)
    (report,) = hub.changes.reports.values()
    assert MOMENT - report["reported_at"] > timedelta(days=365), "it was measured then, whenever it is written"


def test_why_a_node_is_away_is_told_when_it_lasts(caplog: pytest.LogCaptureFixture) -> None:
    target = Target("n", 1, "de-1", "192.0.2.1", 62052, "pin", 1, 0)
    hub: Any = SimpleNamespace(pace=Pace(), changed=lambda: None)
    client: Any = SimpleNamespace(place=watch.place_of(target))
    one = Watch(target, hub, client)
    at = client.place
    refused, silent, busy = problems.refused()(at), problems.timed_out(5, False)(at), problems.busy()(at)
    for problem in (refused, silent, refused, refused, silent, busy, None, refused, refused, None):
        one._set(problem)
    assert caplog.messages == [], "its service was started again"
    for problem in (refused, refused, refused, silent, silent, refused, silent, silent, silent, busy, busy, busy, None):
        one._set(problem)
    told = [refused.detail, silent.detail, busy.detail, f"{at}: works again"]
    assert caplog.messages == [f"marzban_tunnels: {line}" for line in told]


def test_a_watch_says_when_what_it_knows_gets_stale_and_when_it_is_known_again() -> None:
    """Who has the list is not sent it again but for that."""
    counted: list[bool] = []
    hub: Any = SimpleNamespace(pace=Pace(), changes=Changes(), changed=lambda soon=True: counted.append(soon))
    client: Any = None
    target = Target("n", 1, "de-1", "192.0.2.1", 62052, "pin", 1, 0, wanted={"u1": wanted()})
    one = Watch(target, hub, client)

    def asked(age: float) -> bool:
        counted.clear()
        one._remember(target, listed(shown(age=age)), Plan())
        return True in counted

    def told() -> list[bool]:
        one.tell_stale()
        return counted

    assert asked(0.5), "it is new"
    assert not asked(STALE_BY_SERVICE + 0.9)
    counted.clear()
    until(told)
    one.tell_stale()
    assert counted == [True], "once"
    assert not asked(STALE_BY_SERVICE + 10), "it is so already"
    assert asked(0.5)
    assert asked(STALE_BY_SERVICE + 10)


def test_a_node_is_asked_soon_where_a_peer_has_stopped_to_answer() -> None:
    hub: Any = SimpleNamespace(pace=Pace(), changes=Changes(), changed=lambda soon=True: None)
    client: Any = None
    target = Target("n", 1, "de-1", "192.0.2.1", 62052, "pin", 1, 0, wanted={"u1": wanted()})
    one = Watch(target, hub, client)
    for status, loss, delay in (("active", 0, 10.0), ("active", 100, 2.0), ("error", 100, 10.0)):
        one._remember(target, listed(shown(status=status, measured={"loss_percent": loss}, age=1)), Plan())
        assert one._next(target, False) == delay
