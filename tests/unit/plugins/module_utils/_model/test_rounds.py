# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run does next, decided out of what its hosts have answered."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.marzban.tunnels.plugins.module_utils._model import rounds
from tests.support.views import KEY, UUID, view

NODES = {"h1": "de-1", "h2": "fi-1"}
NONE = rounds.Progress.load(None)


def told(node, role, **changes):
    """What one host reports about the tunnel, which is in order and carries traffic unless it is said otherwise."""
    entry = {
        "uuid": UUID,
        "node": node,
        "role": role,
        "status": "active",
        "error": None,
        "refused": False,
        "waiting_for": None,
        "public": {"public_key": KEY},
        "publish": False,
        "needs_peer": False,
        "changes": [],
    }
    return {"tunnels": [{**entry, **changes}]}


def both(source=None, target=None):
    return {"h1": told("de-1", "source", **(source or {})), "h2": told("fi-1", "target", **(target or {}))}


def entries(answers):
    return rounds.entries_of(answers, NODES)


def after(answers, progress=NONE):
    """The progress when this was what the hosts did in the round."""
    return rounds.note(progress, entries(answers), answers)


def test_a_run_that_finds_nothing_to_do_has_nothing_to_decide():
    found = entries(both())
    assert rounds.unpublished(found, NONE) == []
    assert rounds.paired(found) == {}
    assert rounds.unsettled(found, after(both())) == {}
    assert rounds.failures(both(), found, NONE, [], NODES) == {}
    assert rounds.without_traffic(found, {"h1": [view()]}, 15) == {}


def test_what_the_records_lack_is_published_once():
    found = entries(both({"publish": True}))
    (key,) = rounds.unpublished(found, NONE)
    assert key == {"uuid": UUID, "node": "de-1", "public": {"public_key": KEY}}
    assert rounds.unpublished(found, NONE._replace(published=[key])) == []


def test_a_new_public_half_is_published_after_the_old_one():
    first = rounds.unpublished(entries(both({"publish": True})), NONE)
    newer = {"public_key": KEY, "psk_fingerprint": "0" * 64}
    found = rounds.unpublished(entries(both({"publish": True, "public": newer})), NONE._replace(published=first))
    assert [key["public"] for key in found] == [newer]


def test_what_both_ends_do_together_waits_until_both_were_applied():
    assert rounds.paired(entries(both({"needs_peer": True}))) == {"h1": [UUID], "h2": [UUID]}
    assert rounds.paired(entries({"h1": told("de-1", "source", needs_peer=True)})) == {}
    refused = {"refused": True, "public": None}
    assert rounds.paired(entries(both({"needs_peer": True}, refused))) == {}, "it would switch alone"
    pending = {"refused": True, "needs_peer": True}
    assert rounds.paired(entries(both({}, pending))) == {"h1": [UUID], "h2": [UUID]}


def test_a_host_has_a_part_only_where_something_is_new_to_it():
    same, other = [view()], [view(version=2)]
    assert rounds.parts({"h1": same, "h2": same}, {"h1": same, "h2": same}, {}, {}, {}) == {}
    assert list(rounds.parts({"h1": same, "h2": same}, {"h1": same, "h2": other}, {}, {}, {})) == ["h2"]
    removal = rounds.parts({"h1": same}, {"h1": same}, {"h1": [UUID]}, {}, {})
    assert removal == {"h1": {"remove": [UUID], "paired": [], "new_keys": []}}
    pair = rounds.parts({"h1": same}, {"h1": same}, {}, {"h1": [UUID]}, {})
    assert pair == {"h1": {"remove": [], "paired": [UUID], "new_keys": []}}
    new = rounds.parts({"h1": same}, {"h1": same}, {}, {"h1": [UUID]}, {"h2": [UUID]})
    assert new == {"h1": {"remove": [], "paired": [UUID], "new_keys": [UUID]}}, "whichever end made the key"


HELD = {"public": {"public_key": KEY, "psk_fingerprint": "ab" * 32}}


@pytest.mark.parametrize(
    ("source", "target", "agree"),
    [
        (HELD, HELD, True),
        (HELD, {}, False),
        ({}, {}, False),
        (HELD, {"public": {"public_key": KEY, "psk_fingerprint": "cd" * 32}}, False),
        (HELD, {**HELD, "needs_peer": True}, False),
        (HELD, {**HELD, "refused": True}, False),
        ({"public": {"psk_fingerprint": [1]}}, {"public": {"psk_fingerprint": [1]}}, False),
    ],
)
def test_ends_that_use_the_same_preshared_key_agree(source, target, agree):
    assert rounds.agreed(entries(both(source, target))) == ({UUID} if agree else set())


def test_a_fingerprint_that_both_ends_know_is_not_news():
    before = [view(**{"peer.public": {"public_key": KEY}})]
    now = [view(**{"peer.public": HELD["public"]})]
    assert list(rounds.parts({"h1": before}, {"h1": now}, {}, {}, {})) == ["h1"]
    assert rounds.parts({"h1": before}, {"h1": now}, {}, {}, {}, {UUID}) == {}
    other = [view(version=2, **{"peer.public": HELD["public"]})]
    assert list(rounds.parts({"h1": before}, {"h1": other}, {}, {}, {}, {UUID})) == ["h1"]


@pytest.mark.parametrize(
    ("status", "changes", "waits"),
    [
        ("connecting", ["started"], True),
        ("connecting", [], True),
        ("error", ["conf written"], True),
        ("error", [], False),  # it has had its time
        ("active", ["started"], False),
        ("inactive", ["stopped"], False),
    ],
)
def test_what_may_still_come_up_is_waited_for(status, changes, waits):
    answers = both({"status": status, "changes": changes})
    assert (UUID in rounds.unsettled(entries(answers), after(answers)).get("h1", [])) is waits


def test_the_end_that_saw_the_tunnel_dead_before_it_was_repaired_is_waited_for_too():
    answers = both({"changes": ["started"]}, {"status": "error", "error": "no answer"})
    assert rounds.unsettled(entries(answers), after(answers)) == {"h2": [UUID]}
    elsewhere = after({"h1": told("de-1", "source", uuid="9" + UUID[1:], changes=["started"])})
    assert rounds.unsettled(entries(both({}, {"status": "error"})), elsewhere) == {}, "of another tunnel"


def test_a_key_that_the_other_end_can_not_know_is_not_waited_for():
    alone = {"h1": told("de-1", "source", status="connecting", changes=["key made", "started"])}
    assert rounds.unsettled(entries(alone), after(alone)) == {}
    together = both({"status": "connecting", "changes": ["key made", "started"]})
    assert rounds.unsettled(entries(together), after(together)) == {"h1": [UUID]}
    waiting = both({"status": "connecting", "changes": ["key made"]}, {"waiting_for": "de-1", "status": "connecting"})
    assert rounds.unsettled(entries(waiting), after(waiting)) == {}


def test_a_change_of_an_earlier_round_counts():
    earlier = after(both({"changes": ["conf written"]}))
    now = both({"status": "error", "error": "no traffic"})
    assert rounds.unsettled(entries(now), after(now, earlier)) == {"h1": [UUID]}


def test_failures_name_what_could_not_be_done_on_which_host():
    answers = both({"refused": True, "status": "error", "error": "tunnel de-fi on de-1: interface: taken"})
    answers["h1"]["unavailable"] = ["Debian 11 has no package for openvpn."]
    answers["h2"]["removed"] = [{"uuid": UUID, "error": "wg-quick down failed"}]
    broken = [{"nodes": ["fi-1", "us-1"], "error": "source.port is wrong"}]
    progress = after(answers)
    assert rounds.failures(answers, entries(answers), progress, broken, NODES) == {
        "h1": ["h1: Debian 11 has no package for openvpn.", "tunnel de-fi on de-1: interface: taken"],
        "h2": ["wg-quick down failed", "source.port is wrong"],
    }


def test_a_removal_that_failed_in_an_earlier_round_is_not_forgotten():
    first = both()
    first["h1"]["removed"] = [{"uuid": UUID, "error": "wg-quick down failed"}]
    progress = after(both(), after(first))
    assert rounds.failures(both(), entries(both()), progress, [], NODES) == {"h1": ["wg-quick down failed"]}


def test_the_panel_is_asked_once_about_each_orphan():
    """Also about what became one in a later round: the tunnel was deleted while the run went on."""
    first, second = {"id": 1, "uuid": UUID}, {"id": 2, "uuid": UUID.replace("1", "2")}
    told_first = {"h1": {"orphans": [first, "x"]}, "h2": {"orphans": []}}
    assert rounds.unasked(told_first, NONE) == {"h1": [first, "x"]}
    progress = rounds.note_asked(NONE, {"h1": [first, "x"]})._replace(rounds=1)
    assert rounds.unasked({"h1": {"orphans": [first, "x", second]}}, progress) == {"h1": [second]}
    assert rounds.unasked(told_first, progress) == {}
    assert rounds.note_asked(progress, {"h1": [second]}).asked == {"h1": [UUID, second["uuid"]]}


def test_no_traffic_is_told_where_both_ends_were_applied():
    read = {"h1": [view()]}
    answers = both({"status": "connecting"})
    (sentence,) = rounds.without_traffic(entries(answers), read, 15)["h1"]
    assert "both ends were applied, and within 15 s no ping to fi-1 came back through mz3" in sentence
    alone = {"h1": told("de-1", "source", status="connecting")}
    assert rounds.without_traffic(entries(alone), read, 15) == {}
    dead = {"h1": told("de-1", "source", status="error", error="the last handshake was 5 min ago")}
    assert rounds.without_traffic(entries(dead), read, 15) == {"h1": ["the last handshake was 5 min ago"]}


def test_health_refreshes_an_answer_and_keeps_the_rest():
    answer = told("de-1", "source", status="connecting", changes=["started"])
    merged = rounds.merge_health(answer, {"tunnels": [{"uuid": UUID, "status": "active", "measured": {"rtt_ms": 1}}]})
    assert merged["tunnels"][0]["status"] == "active"
    assert merged["tunnels"][0]["changes"] == ["started"]


def test_a_host_speaks_for_its_own_node_only():
    assert entries({"h1": told("fi-1", "target", publish=True)}) == []


words = st.sampled_from(["tunnels", "removed", "orphans", "unavailable", "uuid", "node", "error", "de-1", "fi-1", UUID])
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | words
rubbish = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words | st.text(max_size=3), inner, max_size=6)
)
odd = st.fixed_dictionaries({}, optional=dict.fromkeys(told("de-1", "source")["tunnels"][0], rubbish))
anything = st.fixed_dictionaries(
    {"tunnels": rubbish | st.lists(odd | rubbish, max_size=3)},
    optional={"removed": rubbish, "unavailable": rubbish, "orphans": rubbish},
)


@given(anything, rubbish)
def test_a_compromised_host_spoils_its_own_part_only(bad, seen):
    good = told("fi-1", "target", status="connecting", changes=["started"], publish=True)
    answers = {"h1": bad, "h2": good}
    found = entries(answers)
    assert [entry for entry in found if entry.host == "h2"] == entries({"h2": good})
    assert {entry.node for entry in found if entry.host == "h1"} <= {"de-1"}
    progress = after(answers)
    assert json.loads(json.dumps(progress.dump())) == progress.dump()
    assert rounds.Progress.load(progress.dump()) == progress
    assert {"uuid": UUID, "node": "fi-1", "public": {"public_key": KEY}} in rounds.unpublished(found, progress)
    rounds.paired(found)
    rounds.unsettled(found, progress)
    rounds.without_traffic(found, {"h1": [view()], "h2": []}, 15)
    for sentences in rounds.failures(answers, found, progress, [], NODES).values():
        assert all(sentence.isprintable() for sentence in sentences)
    rounds.merge_health(bad, {"tunnels": seen})


def test_hosts_that_are_one_machine_are_found():
    answers = {
        "h1": {"machine": "a"},
        "h2": {"machine": None},
        "h3": {"machine": "a"},
        "h4": {},
        "h5": {"machine": ["a"]},
    }
    assert rounds.same_machines(answers) == [["h1", "h3"]]
    assert rounds.same_machines({"h1": {"machine": "a"}, "h2": {"machine": "b"}}) == []
