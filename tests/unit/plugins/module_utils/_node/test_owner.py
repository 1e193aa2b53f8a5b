# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whose a folder is: of the node that it was made for, not of the one whose run finds it. One folder of this machine
stands for one machine under two names; what the hosts answer goes through the controller's own steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ansible_collections.marzban.tunnels.plugins.module_utils._model import handwritten
from ansible_collections.marzban.tunnels.plugins.module_utils._node import machine
from ansible_collections.marzban.tunnels.plugins.module_utils._node.reconcile import Apply
from ansible_collections.marzban.tunnels.plugins.module_utils._node.state import Folders, new_state
from ansible_collections.marzban.tunnels.plugins.plugin_utils import _panel_steps
from tests.unit.plugins.module_utils._node.test_reconcile import Deaf

NODES = {"c": "c", "c2": "c2"}


def record(number, source, target):
    """A tunnel of a hand-written list that is switched off: no host's command is needed for it."""
    ends = {
        role: {
            "endpoint": f"203.0.113.{step}",
            "port": 20000 + number,
            "addresses": [f"10.201.{number}.{step}/31"],
        }
        for step, role in ((2, "source"), (3, "target"))
    }
    return {"name": f"t{number}", "id": number, "source": source, "target": target, "active": False, "config": ends}


RECORDS = [record(1, "c", "a"), record(2, "c2", "b")]


class Unlocked(Folders):
    """A lock is kept until its process ends, and the runs of these tests are all of one process."""

    def lock(self, wait: float = 0, before_waiting: object = None) -> int:
        return -1


class Machine:
    """The folders of one machine, and the runs of its names."""

    def __init__(self, root):
        self.folders = Unlocked(str(root / "tunnels"))

    def read(self, records, orphans=None):
        source = _panel_steps.Source(None, records, "local", "auto")
        return _panel_steps.read(source, NODES, orphans or {}, {}, pytest.fail)

    def apply(self, node, records, **options):
        views = self.read(records).views[node]
        apply = Apply(Deaf(), self.folders, handwritten.panel_id("local"), ["wireguard"], node=node)
        return apply.run(views, [{"text": ""}] * len(views), **options)

    def there(self):
        return {state["name"]: state["node"] for state in self.folders.states().values() if state}

    def forget_nodes(self):
        """Makes the states those of a version that did not know whose they are."""
        for path in Path(self.folders.root).glob("*/state.json"):
            state = json.loads(path.read_text())
            del state["node"]
            path.write_text(json.dumps(state))


@pytest.fixture
def twins(tmp_path):
    """A machine that has a tunnel under each of its names."""
    made = Machine(tmp_path)
    for node in NODES:
        for view in made.read(RECORDS).views[node]:
            made.folders.write_state(new_state(view))
    return made


def test_a_run_under_one_name_leaves_what_was_made_under_the_other(twins):
    answers = {node: twins.apply(node, RECORDS) for node in NODES}
    orphans = {node: answer["orphans"] for node, answer in answers.items()}
    assert {node: [(o["name"], o["node"]) for o in found] for node, found in orphans.items()} == {
        "c": [("t2", "c2")],
        "c2": [("t1", "c")],
    }
    assert twins.read(RECORDS, orphans).confirmed_deleted == {"c": [], "c2": []}
    assert answers["c"]["machine"] == answers["c2"]["machine"] == machine.machine()
    assert len(machine.machine()) == 64


def test_what_is_deleted_goes_whichever_name_finds_it(twins):
    orphans = {"c": twins.apply("c", RECORDS)["orphans"]}
    gone = twins.read(RECORDS[:1], orphans).confirmed_deleted
    twins.apply("c", RECORDS[:1], remove=gone["c"])
    assert twins.there() == {"t1": "c"}


def test_remove_all_takes_what_is_this_nodes(twins):
    answer = twins.apply("c2", [record(3, "x", "y")], remove_all=True)
    assert [removed["name"] for removed in answer["removed"]] == ["t2"]
    assert twins.there() == {"t1": "c"}


def test_a_folder_of_a_former_version_gets_its_node_from_a_view_only(twins):
    twins.forget_nodes()
    orphans = {"c": twins.apply("c", RECORDS)["orphans"]}
    assert orphans["c"][0]["node"] is None
    assert twins.there() == {"t1": "c", "t2": None}
    moved = [RECORDS[0], record(2, "d", "b")]
    assert twins.read(moved, orphans).confirmed_deleted == {"c": []}, "nobody knows whose it is"
    assert not twins.apply("c2", RECORDS)["changed"], "a run after an update changes nothing"
    assert twins.there() == {"t1": "c", "t2": "c2"}
    assert twins.read(moved, {"c": twins.apply("c", RECORDS)["orphans"]}).confirmed_deleted != {"c": []}


def test_a_node_with_another_name_keeps_its_tunnel(twins):
    renamed = [{**record(1, "c2", "a"), "active": False}]
    twins.apply("c2", renamed)
    assert twins.there()["t1"] == "c2"


def test_one_machine_is_not_both_ends(twins):
    turned = twins.apply("c2", [record(1, "c", "c2"), RECORDS[1]])["tunnels"][0]
    assert turned["refused"]
    assert "This host has the other end of this tunnel, that of c" in turned["error"]
    assert twins.there()["t1"] == "c"
