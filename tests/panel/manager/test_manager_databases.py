# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""A database of yesterday, a copy of the panel, a restart: nothing is removed that nobody deleted."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tests.support.managed_pair import Pair, copied, fine, settled, state
from tests.support.managed_panel import ManagedPanel, until
from tests.support.simulated_node import Nodes


def test_a_restored_database_changes_nothing_until_it_is_confirmed(
    database: Path, nodes: Nodes, caplog: pytest.LogCaptureFixture
) -> None:
    with ManagedPanel(database) as panel:
        pair = Pair(panel, nodes, "restored")
        backup = copied(database, database.with_name("backup.db"))
        later = pair.make()
        until(lambda: pair.agree(later))
        pair.call("DELETE")
        until(lambda: list(pair.first.tunnels) == [later["uuid"]] == list(pair.second.tunnels))
    copied(backup, database)
    with ManagedPanel(database) as panel:
        pair.panel = panel
        until(lambda: panel.problem(pair.first) == "older_database" == panel.problem(pair.second))
        until(settled(pair))
        for node in (pair.first, pair.second):
            assert f"marzban_tunnels: {panel.service(node)['problem']['detail']}" in caplog.messages
        assert list(pair.first.tunnels) == [later["uuid"]]
        for node, node_id in zip((pair.first, pair.second), pair.ids, strict=True):
            panel.api.send("POST", f"/api/tunnels/nodes/{node_id}/confirm", {"database": True})
            until(partial(fine, panel, node))
        until(lambda: pair.tunnel["uuid"] in pair.first.tunnels and pair.tunnel["uuid"] in pair.second.tunnels)
        assert [item["uuid"] for item in panel.service(pair.first)["orphans"]] == [later["uuid"]]
        assert later["uuid"] in pair.first.tunnels


def test_a_copy_that_hit_the_same_number_is_noticed(database: Path, nodes: Nodes) -> None:
    with ManagedPanel(database) as panel:
        pair = Pair(panel, nodes, "twice")
        until(settled(pair))
    with ManagedPanel(database) as panel:  # started again it is the same panel
        for node in (pair.first, pair.second):
            panel.node(node, publish=False)
        other = panel.tunnel(pair.first, pair.second)
        until(lambda: pair.agree(other))
        assert [panel.problem(node) for node in (pair.first, pair.second)] == [None, None]
        pair.first.epoch = "0123456789abcdef"  # what a copy of the database would have sent, with an equal number
        until(lambda: panel.problem(pair.first) == "older_database")
        panel.api.send("DELETE", f"/api/tunnels/{other['id']}")
        until(lambda: other["uuid"] not in pair.second.tunnels)
        assert other["uuid"] in pair.first.tunnels
        panel.api.send("POST", f"/api/tunnels/nodes/{pair.ids[0]}/confirm", {"database": True})
        until(lambda: other["uuid"] not in pair.first.tunnels)
        until(lambda: panel.problem(pair.first) is None)


def test_a_node_that_was_set_back_is_repaired(pair: Pair) -> None:
    until(settled(pair))
    pair.call("PUT", "", {"name": "later"})
    until(lambda: pair.first.tunnels[pair.tunnel["uuid"]]["tunnel"]["name"] == "later")
    until(settled(pair))
    pair.first.counter, pair.first.epoch = 0, "0123456789abcdef"  # its epoch of then is not known any more
    pair.first.tunnels[pair.tunnel["uuid"]]["revision"] = "earlier"
    until(lambda: pair.first.tunnels[pair.tunnel["uuid"]]["revision"] != "earlier")
    until(settled(pair))
    assert pair.panel.problem(pair.first) is None


def test_a_restart_in_the_middle_loses_nothing(database: Path, nodes: Nodes) -> None:
    with ManagedPanel(database) as panel:
        pair = Pair(panel, nodes, "restart")
        pair.first.down()
        pair.second.down()
        other = pair.make()
        pair.call("DELETE")
    pair.first.up()
    pair.second.up()
    with ManagedPanel(database):
        until(lambda: pair.agree(other))
        until(lambda: list(pair.first.tunnels) == [other["uuid"]] == list(pair.second.tunnels))


def test_a_copy_of_the_panel_beside_it_waits(database: Path, nodes: Nodes) -> None:
    with ManagedPanel(database) as panel, ManagedPanel(database) as copy:
        pair = Pair(panel, nodes, "copy")
        until(lambda: sorted(state(one) for one in (panel, copy)) == ["elsewhere", "on"])
        if state(copy) == "on":
            panel, copy = copy, panel
        for node in (pair.first, pair.second):
            copy.node(node, publish=False)
        other = copy.tunnel(pair.first, pair.second)  # each serves requests
        until(lambda: pair.agree(other))
        panel.manager.stop()
        until(lambda: state(copy) == "on")
        copy.api.send("DELETE", f"/api/tunnels/{other['id']}")
        until(lambda: other["uuid"] not in pair.first.tunnels)


def test_a_node_behind_two_panels_shows_each_its_own(panel: ManagedPanel, pair: Pair) -> None:
    pair.first.panel = "another"  # a mistake, or an attack: its answer is for somebody else
    until(lambda: panel.problem(pair.first) == "bad_answer")
    pair.first.panel = panel.manager.panel_id
    until(lambda: panel.problem(pair.first) is None)
