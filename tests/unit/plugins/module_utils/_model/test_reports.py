# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What nodes answer, one of which may be compromised: it spoils its own part of a run, and no other."""

from __future__ import annotations

from datetime import datetime

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import PanelError
from ansible_collections.marzban.tunnels.plugins.module_utils._model import publishing, reports, validators
from ansible_collections.marzban.tunnels.plugins.module_utils._model import table as model_table
from ansible_collections.marzban.tunnels.plugins.module_utils._node import health, reconcile, tunnel
from ansible_collections.marzban.tunnels.plugins.modules import tunnel_apply, tunnel_health
from ansible_collections.marzban.tunnels.plugins.plugin_utils import _panel_steps

UUID = "1b4e28ba-2fa1-41d2-883f-0016d3cca427"
KEY = "YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXoxMjM0NTY="
NODES = {"good": "de-1", "bad": "fi-1"}
GOOD = {
    "uuid": UUID,
    "id": 3,
    "name": "de-fi",
    "version": 4,
    "type": "wireguard",
    "node": "de-1",
    "peer": "fi-1",
    "role": "source",
    "status": "active",
    "publish": True,
    "public": {"public_key": KEY},
}
ORPHAN = {"id": 5, "uuid": UUID, "name": "old", "type": "wireguard", "interface": "mz5"}

# Anything that JSON can hold, often with the keys and the values that are looked for
words = st.sampled_from(["tunnels", "orphans", "error", "fi-1", "measured", "rtt_ms", UUID, KEY, *GOOD])
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | words
rubbish = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words | st.text(max_size=3), inner, max_size=6)
)
ends = st.fixed_dictionaries({}, optional={key: st.just(value) | rubbish for key, value in GOOD.items()})
tunnels = rubbish | st.lists(ends | rubbish, max_size=3)
answers = rubbish | st.fixed_dictionaries({"tunnels": tunnels, "orphans": rubbish})


@given(answers)
def test_rubbish_is_not_published_and_stops_nobody(bad):
    keys, rejected = publishing.offered({"bad": bad, "good": {"tunnels": [GOOD]}}, NODES)
    assert keys[-1] == {key: GOOD[key] for key in ("uuid", "node", "public")}
    assert {key["node"] for key in keys[:-1]} <= {"fi-1"}, "a host speaks for its own node only"
    for item in rejected:
        assert set(item) == {"uuid", "node", "detail"}
        assert item["detail"]
        assert all(text is None or str(text).isprintable() for text in item.values())


@pytest.mark.parametrize("bad", [5, [], "x", {"tunnels": 5}, {"tunnels": {}}, {"tunnels": "x"}, {"tunnels": [5]}])
def test_what_is_not_an_answer_is_reported(bad):
    results = {"bad": bad, "good": {"tunnels": [GOOD], "orphans": [ORPHAN]}}
    _keys, rejected = publishing.offered(results, NODES)
    assert [item["node"] for item in rejected] == ["fi-1"]
    checked, problems = reports.checked_results(results, NODES)
    assert len(problems) == 1
    assert problems[0].startswith("bad: ")
    assert [tunnel["uuid"] for tunnel in checked["good"]["tunnels"] + checked["good"]["orphans"]] == [UUID, UUID]


@pytest.mark.parametrize("bad", [None, {}, {"tunnels": None, "orphans": None}, {"msg": "skipped"}])
def test_a_host_that_has_nothing_to_say_does_no_harm(bad):
    assert publishing.offered({"bad": bad}, NODES) == ([], [])
    assert reports.checked_results({"bad": bad}, NODES) == ({"bad": {"tunnels": [], "orphans": []}}, [])


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"orphans": 5}, "bad: orphans: 5 can't be used."),
        ({"orphans": [ORPHAN, 5]}, "bad: orphans[1]: 5 can't be used."),
        ({"orphans": [{"uuid": ["x"]}]}, "bad: orphans[0].uuid: ['x'] can't be used."),
        ({"tunnels": [{**GOOD, "node": "fi-1", "measured": [1]}]}, "bad: tunnels[0].measured: [1] can't be used."),
        ({"tunnels": [GOOD]}, "bad: tunnels[0].node: 'de-1' can't be used. This host is the node fi-1"),
        ({"tunnels": [{"error": {"no": "text"}}]}, "bad: {'no': 'text'}"),
    ],
)
def test_each_part_that_can_not_be_used_is_named(bad, said):
    _checked, problems = reports.checked_results({"bad": bad}, NODES)
    assert len(problems) == 1
    assert problems[0].startswith(said)


@given(answers)
def test_rubbish_spoils_no_table(bad):
    checked, problems = reports.checked_results({"bad": bad, "good": {"tunnels": [GOOD]}}, NODES)
    table, found = model_table.report(checked, nodes=NODES)
    assert [tunnel["uuid"] for tunnel in checked["good"]["tunnels"]] == [UUID]
    assert any("de-fi" in line for line in table)
    assert all(line.isprintable() for line in table + problems + found)
    assert {report["node"] for report in reports.reports_of({"bad": checked["bad"]})} <= {"fi-1"}


@given(rubbish)
def test_rubbish_among_orphans_and_keys_stops_nobody(bad):
    found, _problems = _panel_steps.orphans_of({"bad": bad, "good": [ORPHAN]})
    assert found["good"] == [(5, UUID, None)]
    record = {"uuid": UUID, "type": "wireguard", "ends": {"source": {"node": "de-1", "public": None}}}
    published = {"bad": bad, "good": [{"uuid": UUID, "public": {"public_key": KEY}}]}
    (merged,), _problems = _panel_steps.with_published([record], published, NODES)
    assert merged["ends"]["source"]["public"] == {"public_key": KEY}


# RETURN of the node's modules; those of the panel's are held against real answers in test_panel_modules.py


def keys_in(module, *path):
    doc = yaml.safe_load(module.RETURN)[path[0]]
    for step in path[1:]:
        doc = doc["contains"][step]
    return set(doc["contains"])


def test_what_a_node_answers_is_documented():
    answer = tunnel.Tunnel({}).answer()
    assert keys_in(tunnel_apply, "tunnels") == set(answer)
    assert keys_in(tunnel_health, "tunnels") == set(answer) - set(health.HIDDEN)
    known = reconcile._known({})
    assert keys_in(tunnel_apply, "orphans") == set(known)
    assert keys_in(tunnel_apply, "removed") == {*known, "error"}
    for module in (tunnel_apply, tunnel_health):
        assert keys_in(module, "tunnels", "measured") == set(validators.MEASURES)


NOW = datetime(2026, 11, 22, 20, 0)


@pytest.mark.parametrize(
    ("raw", "seconds"),
    [
        ({"status": "error", "since": "2026-11-22T18:00:00"}, 7200.0),
        ({"status": "connecting", "since": "2026-11-22T18:00:00"}, None),  # the panel had another one than this run
        ({"status": "error", "since": None}, None),
        ({"status": "error"}, None),  # a panel of an older version
        ({"status": "error", "since": "2026-11-22T20:00:01"}, None),
        *(({"status": "error", "since": text}, None) for text in ("", "yesterday", "2026-11-22T18:00:00Z\x1b", 5, [])),
    ],
)
def test_since_when_only_for_the_status_that_the_run_has_measured(raw, seconds):
    results = {"good": {"tunnels": [{**GOOD, "status": "error", "error": "no answer"}]}}
    ages = reports.status_ages(results, [{"uuid": UUID, **raw}, 5, {"uuid": []}], NOW)
    assert ages == ({} if seconds is None else {UUID: seconds})


class FakePanel:
    """A fake of a panel: what a run asks it at its end."""

    def __init__(self, api, tunnels=()):
        self.api, self.asked, self._tunnels = api, [], {tunnel["id"]: tunnel for tunnel in tunnels}

    def post_status(self, bodies):
        self.asked.append(len(bodies))
        return len(bodies), []

    def tunnel(self, number):
        self.asked.append(f"tunnel {number}")
        if number not in self._tunnels:
            raise PanelError("not_found", "Tunnel not found")
        return self._tunnels[number]

    def tunnels(self):
        self.asked.append("list")
        return list(self._tunnels.values())


@pytest.mark.parametrize(
    ("panel", "asked", "note"),
    [
        (
            FakePanel(6, [{"id": 3, "uuid": UUID, "status": "error", "since": "2020-01-01T00:00:00"}]),
            ["tunnel 3"],
            True,
        ),
        (FakePanel(6), ["tunnel 3"], False),  # it was just deleted
        (FakePanel(5), [], False),
    ],
)
def test_the_table_says_since_when(panel, asked, note):
    told = _panel_steps.Told(
        {"good": {"tunnels": [{**GOOD, "status": "error", "error": "no answer"}]}}, NODES, {}, [], {}
    )
    made = _panel_steps.report(panel, told)
    assert panel.asked == [1, *asked]
    assert (made.reported, made.error) == (1, None)
    assert ("error for " in "\n".join(made.table)) == note


def test_a_panel_is_not_asked_since_when_all_is_well():
    panel = FakePanel(6)
    _panel_steps.report(panel, _panel_steps.Told({"good": {"tunnels": [GOOD]}}, NODES, {}, [], {}))
    assert panel.asked == [1]
