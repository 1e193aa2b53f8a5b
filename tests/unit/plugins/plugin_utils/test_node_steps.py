# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is done with the panel about the nodes' services, with a FAKE panel. With a real one: test_role_node_api.py."""

from __future__ import annotations

import pytest

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import Error
from ansible_collections.marzban.tunnels.plugins.plugin_utils import _node_steps

UUID, OTHER = "1b4e28ba-2fa1-41d2-883f-000000000001", "1b4e28ba-2fa1-41d2-883f-000000000002"
PIN = "sha256:" + "A" * 43 + "="
ENTRY = {"node": "de-1", "uuid": UUID, "generation": 1, "hashes": ["0" * 64, "1" * 64], "certificate": None}


class FakePanel:
    """Answers what it is given, and remembers what was put."""

    id, url = "panel", "https://panel"

    def __init__(self, nodes=(), rejected=(), detail=None, updates=1):
        self.updates = updates
        self.answer = {"nodes": list(nodes), "rejected": list(rejected), "manager": {"state": "on", "detail": detail}}
        self.put = []

    def node_access(self, names, check):
        self.asked, self.check = names, check
        return self.answer

    def node_services(self):
        return self.answer["nodes"]

    def put_node_services(self, services):
        self.put = services
        return self.updates, [{"node": "us-1", "detail": "unknown"}]


def test_access_by_host():
    panel = FakePanel([ENTRY], [{"node": "us-1", "detail": "There is no\nsuch node"}])
    told = _node_steps.access(panel, {"a": "de-1", "b": "us-1", "c": "fi-1"}, without_key=False, check=True)
    assert panel.check
    assert panel.asked == ["de-1", "fi-1", "us-1"]
    expected = {"node": UUID, **{key: ENTRY[key] for key in ("generation", "hashes", "certificate")}}
    assert told["hosts"] == {"a": {**expected, "metrics_hash": None}}, "a panel that is older than metrics"
    assert told["refused"]["b"] == "b: the panel has no access for the node us-1: There is no such node"
    assert "did not answer about it" in told["refused"]["c"]
    panel = FakePanel([{**ENTRY, "metrics_hash": "2" * 64}])
    told = _node_steps.access(panel, {"a": "de-1"}, without_key=False, check=True)
    assert told["hosts"] == {"a": {**expected, "metrics_hash": "2" * 64}}


@pytest.mark.parametrize(
    "spoiled",
    [
        *({"uuid": "../.."}, {"hashes": ["x"]}, {"hashes": "0" * 64}, {"generation": "1"}),
        *({"certificate": "-----BEGIN"}, {"metrics_hash": "x"}, {"metrics_hash": 7}),
    ],
)
def test_a_panel_that_answers_something_else_is_refused(spoiled):
    with pytest.raises(Error):
        _node_steps.access(FakePanel([{**ENTRY, **spoiled}]), {"a": "de-1"}, without_key=False, check=False)


def test_a_panel_that_could_not_get_in_ends_the_run_unless_it_is_to_go():
    off = {**ENTRY, "hashes": []}
    panel = FakePanel([off], detail="NODE_API_KEY is not set")
    with pytest.raises(Error, match=r"does not see to nodes: NODE_API_KEY is not set. Nothing was changed"):
        _node_steps.access(panel, {"a": "de-1"}, without_key=False, check=False)
    assert _node_steps.access(panel, {"a": "de-1"}, without_key=True, check=False)["hosts"]["a"]["hashes"] == []


def test_a_host_speaks_for_its_own_node_only():
    access = {"hosts": {"a": {"node": UUID}, "b": {"node": OTHER}}}
    nodes = {"a": "de-1", "b": "fi-1", "c": "nl-1"}
    results = {
        "a": {"port": 62052, "pin": PIN, "node": OTHER},
        "b": {"port": 62052, "pin": "sha256:<script>"},
        "c": {"port": 1, "pin": PIN},
        "d": "nonsense",
    }
    wanted, rejected = _node_steps.services(access, results, nodes)
    assert wanted == [{"node": "de-1", "uuid": UUID, "port": 62052, "pin": PIN}]
    assert [entry["node"] for entry in rejected] == ["fi-1"]
    (said,) = _node_steps.refused(rejected, nodes).values()
    assert said.startswith("b: the panel did not take where its service is, and can't call it: pin: ")
    for left_out in ({"failed": True, "pin": PIN, "port": 1}, {"port": 62052, "pin": None}, {"skipped": True}):
        assert _node_steps.services(access, {"a": left_out}, nodes) == ([], [])
    gone = _node_steps.services(access, {"a": {"port": None, "pin": None}}, nodes)[0]
    assert gone == [{"node": "de-1", "uuid": UUID, "port": None, "pin": None}]


def test_only_what_differs_is_sent_and_nothing_in_check_mode():
    service = {"node": "de-1", "uuid": UUID, "port": 62052, "pin": PIN}
    panel = FakePanel([dict(service, port=1)])
    assert _node_steps.publish(panel, [service], [], check=True)["changed"]
    assert panel.put == []
    rejected = []
    told = _node_steps.publish(panel, [service], rejected, check=False)
    assert (told["updated"], panel.put, rejected) == (1, [service], [{"node": "us-1", "detail": "unknown"}])
    assert not _node_steps.publish(FakePanel([service]), [service], [], check=False)["changed"]
    none = dict(service, port=None, pin=None)
    assert not _node_steps.publish(FakePanel(), [none], [], check=False)["changed"]


def test_a_service_that_the_panel_has_a_problem_with_is_given_again():
    service = {"node": "de-1", "uuid": UUID, "port": 62052, "pin": PIN}
    panel = FakePanel([dict(service, state="problem")], updates=0)
    assert not _node_steps.publish(panel, [service], [], check=True)["changed"]
    assert panel.put == []
    told = _node_steps.publish(panel, [service], [], check=False)
    assert (told["changed"], told["published"], panel.put) == (False, [], [service])
