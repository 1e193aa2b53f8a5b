# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The manager of the standalone panel, over HTTP and TLS, with stand-ins for the node service: what is recorded is on
both nodes, and nothing is removed that nobody deleted."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from marzban_tunnels import responses
from marzban_tunnels.tables import DELETIONS, End, Panel
from tests.support.managed_pair import Pair, public, settled, told
from tests.support.managed_panel import ManagedPanel, until
from tests.support.panel_api import key
from tests.support.simulated_node import Nodes, SimulatedNode


def test_a_tunnel_is_on_both_nodes_changes_there_and_goes(pair: Pair) -> None:
    until(lambda: pair.sees()["status"] == "active")
    public = {end["node"]: end["public"]["public_key"] for end in pair.sees()["ends"]}
    for node in (pair.first, pair.second):
        assert public[node.name] == node.tunnels[pair.tunnel["uuid"]]["public_key"]
    assert {end["by"] for end in pair.sees()["ends"]} == {"service"}
    until(settled(pair))  # and then nothing is written any more
    pair.call("POST", "/deactivate")
    until(
        lambda: not any(node.tunnels[pair.tunnel["uuid"]]["tunnel"]["is_active"] for node in (pair.first, pair.second))
    )
    until(lambda: pair.call("GET", "/status")["ends"][0]["status"] == "inactive")
    pair.call("POST", "/activate")
    pair.call("PUT", "", {"name": "renamed"})
    until(
        lambda: all(
            node.tunnels[pair.tunnel["uuid"]]["tunnel"]["name"] == "renamed" for node in (pair.first, pair.second)
        )
    )
    pair.call("DELETE")
    until(lambda: not pair.first.tunnels and not pair.second.tunnels)
    until(lambda: pair.panel.service(pair.first)["deletions"] == [])


def test_the_status_asks_the_nodes(pair: Pair) -> None:
    def stored() -> set[str | None]:
        with pair.panel.writing() as session:
            return set(session.scalars(select(End.status).where(End.tunnel_id == pair.tunnel["id"])))

    until(lambda: stored() == {"active"})
    pair.first.tunnels[pair.tunnel["uuid"]]["peer"] = None  # it can't be active without
    pair.first.age = None  # and has not measured since it was changed
    assert pair.call("GET", "/status")["ends"][0]["status"] == "active"
    pair.first.age = 0.5
    assert pair.call("GET", "/status")["ends"][0]["status"] == "connecting"


def test_deleted_while_a_node_is_off_is_gone_after_its_return(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    busy = iter([(503, {"code": "busy"})])
    pair.first.instead = lambda method, path: next(busy, None)
    pair.second.down()
    pair.call("DELETE")
    until(lambda: not pair.first.tunnels)
    until(lambda: pair.panel.problem(pair.second) == "refused")
    assert pair.panel.service(pair.second)["deletions"][0]["uuid"] == pair.tunnel["uuid"]

    def lines(node: SimulatedNode) -> list[str]:
        return [text for text in caplog.messages if repr(node.name) in text]

    until(lambda: lines(pair.second))  # it lasts
    pair.second.slow = 3.0
    pair.second.up()
    until(lambda: pair.panel.problem(pair.second) == "timed_out")
    pair.second.slow = 0.0
    until(lambda: not pair.second.tunnels)
    until(lambda: pair.panel.service(pair.second)["problem"] is None)
    assert len(lines(pair.second)) == 2, lines(pair.second)  # one when it began, one when it ended
    assert "refuses connections" in lines(pair.second)[0]
    assert lines(pair.second)[1].endswith("works again")
    assert lines(pair.first) == [], "that was over after a moment"


def test_a_node_that_is_deleted_while_it_is_off(pair: Pair) -> None:
    pair.second.down()
    until(lambda: pair.panel.problem(pair.second) == "refused")
    assert pair.panel.api.own("DELETE", f"/api/node/{pair.ids[1]}").status_code == 200
    until(lambda: not pair.first.tunnels)
    deleted = next(item for item in pair.panel.api.send("GET", "/api/tunnels/nodes")["nodes"] if item.get("deleted"))
    assert deleted["deletions"][0]["uuid"] == pair.tunnel["uuid"]
    pair.second.up()
    until(lambda: not pair.second.tunnels)
    until(lambda: not any(item.get("deleted") for item in pair.panel.api.send("GET", "/api/tunnels/nodes")["nodes"]))


def test_a_node_that_is_deleted_and_never_returns_is_given_up(panel: ManagedPanel, pair: Pair) -> None:
    pair.second.down()
    assert panel.api.own("DELETE", f"/api/node/{pair.ids[1]}").status_code == 200
    with panel.writing() as session:
        old = responses.now() - timedelta(days=31)
        session.execute(update(DELETIONS).where(DELETIONS.c.node_name == pair.second.name).values(deleted_at=old))
        session.execute(update(Panel).values(writes=Panel.writes + 1))
    until(lambda: panel.service(pair.second)["deletions"][0]["given_up"])
    assert panel.service(pair.second)["state"] == "none"


def test_a_node_that_is_deleted_and_added_again_removes_what_waits(panel: ManagedPanel, pair: Pair) -> None:
    pair.second.down()
    assert panel.api.own("DELETE", f"/api/node/{pair.ids[1]}").status_code == 200
    panel.node(pair.second, publish=False)  # its row and its key are new, the certificate is the same
    until(lambda: len([item for item in panel.services() if item["node"] == pair.second.name]) == 2)
    pair.second.up()
    panel.publish(pair.second)
    until(lambda: not pair.second.tunnels)
    until(lambda: [item["deleted"] for item in panel.services() if item["node"] == pair.second.name] == [False])
    assert panel.problem(pair.second) is None


def test_the_problem_of_a_deleted_node_is_told_and_can_be_confirmed(panel: ManagedPanel, pair: Pair) -> None:
    pair.second.down()
    pair.second.counter += 100  # another copy of this panel has written there
    assert panel.api.own("DELETE", f"/api/node/{pair.ids[1]}").status_code == 200
    pair.second.up()
    until(lambda: f'"uuid": "{pair.second.uuid}"' in str(panel.service(pair.second)["problem"]))
    assert panel.problem(pair.second) == "older_database"
    assert pair.second.tunnels
    body = {"database": True, "uuid": pair.second.uuid}
    panel.api.send("POST", f"/api/tunnels/nodes/{pair.ids[1]}/confirm", body)
    until(lambda: not pair.second.tunnels)
    until(lambda: not any(item["deleted"] for item in panel.services() if item["node"] == pair.second.name))


def test_an_orphan_is_shown_and_left(pair: Pair) -> None:
    orphan = "00000000-0000-4000-8000-00000000abcd"
    held = pair.first.tunnels[pair.tunnel["uuid"]]
    called = {**held["tunnel"], "uuid": orphan, "name": "of\ud800\nold"}
    pair.first.tunnels[orphan] = {**held, "tunnel": called}
    found = until(lambda: pair.panel.service(pair.first)["orphans"])
    assert [(item["uuid"], item["name"]) for item in found] == [(orphan, "of old")]
    pair.first.tunnels.update({f"{orphan}{number}": {**held, "tunnel": called} for number in range(120)})
    until(lambda: pair.panel.service(pair.first)["more_orphans"] == 21)
    assert len(pair.panel.service(pair.first)["orphans"]) == 100
    until(settled(pair))
    assert orphan in pair.first.tunnels


def test_what_a_node_has_lost_is_told_again(pair: Pair) -> None:
    lost = pair.first.tunnels.pop(pair.tunnel["uuid"])
    until(lambda: pair.tunnel["uuid"] in pair.first.tunnels)
    assert pair.first.tunnels[pair.tunnel["uuid"]]["public_key"] != lost["public_key"]
    changed = until(lambda: pair.panel.service(pair.first)["changed_keys"])
    shown = pair.first.tunnels[pair.tunnel["uuid"]]["public_key"]
    assert (changed[0]["known"], changed[0]["seen"]) == (lost["public_key"], shown)
    until(settled(pair))
    assert pair.second.tunnels[pair.tunnel["uuid"]]["peer"] == lost["public_key"]  # nobody has said that it is right
    body = {"tunnel_id": pair.tunnel["id"], "public_key": shown}
    pair.panel.api.send("POST", f"/api/tunnels/nodes/{pair.ids[0]}/confirm", body)
    until(lambda: pair.agree(pair.tunnel))
    until(lambda: pair.panel.service(pair.first)["changed_keys"] == [])
    until(settled(pair))


def test_a_certificate_that_changed_alone_waits_for_an_admin(pair: Pair) -> None:
    tunnel = pair.panel.tunnel(pair.first, pair.second, kind="openvpn")
    until(lambda: pair.agree(tunnel))
    before = pair.first.tunnels[tunnel["uuid"]]["fingerprint"]
    after = pair.first.tunnels[tunnel["uuid"]]["fingerprint"] = "ab" * 32

    def trusted() -> Any:
        return pair.second.tunnels[tunnel["uuid"]]["peer_certificate"]

    (changed,) = until(lambda: pair.panel.service(pair.first)["changed_keys"])
    assert changed["known"] == changed["seen"]
    assert [changed[f"{which}_fingerprint"][-64:] for which in ("known", "seen")] == [before, after]
    until(settled(pair))
    assert trusted() == before
    path, body = f"/api/tunnels/nodes/{pair.ids[0]}/confirm", {"tunnel_id": tunnel["id"]}
    pair.panel.api.send("POST", path, body | {"fingerprint": changed["seen_fingerprint"]})
    until(lambda: trusted() == after)
    until(lambda: pair.panel.service(pair.first)["changed_keys"] == [])
    until(settled(pair))


def test_what_was_changed_just_now_does_not_wait_behind_the_rest(pair: Pair) -> None:
    last = [pair.make() for _time in range(5)][-1]
    until(lambda: pair.agree(last))
    until(settled(pair))
    pair.first.down()
    for held in pair.first.tunnels.values():
        held["revision"] = None  # as after a run
    pair.first.posted.clear()
    pair.first.slow = 0.4
    pair.first.up()
    until(lambda: pair.first.posted)
    pair.panel.api.send("POST", f"/api/tunnels/{last['id']}/deactivate")
    until(lambda: (last["uuid"], False) in pair.first.posted)
    assert len(pair.first.posted) < 5
    until(lambda: all(held["revision"] for held in pair.first.tunnels.values()))


def test_slow_work_is_looked_at_again(panel: ManagedPanel, nodes: Nodes) -> None:
    first, second = nodes.add("slow-1"), nodes.add("slow-2")
    first.doing = second.doing = 0.3
    for node in (first, second):
        panel.node(node)
    tunnel = panel.tunnel(first, second)
    until(lambda: panel.api.send("GET", f"/api/tunnels/{tunnel['id']}")["status"] == "active")
    assert len(first.wrote()) <= 3  # its key first, then the peer's


@pytest.mark.parametrize("again", ["first", pytest.param("second", marks=pytest.mark.variation)])
def test_two_nodes_that_are_copies_of_each_other_are_told_so(pair: Pair, again: str) -> None:
    first, second = pair.first, pair.second
    second.down()
    tunnel = pair.make()
    until(lambda: tunnel["uuid"] in first.tunnels)
    own = first.tunnels[tunnel["uuid"]]["public_key"]
    until(lambda: public(pair, tunnel, first) == own)
    second.tunnels[tunnel["uuid"]] = {**first.tunnels[tunnel["uuid"]], "revision": "old"}
    second.up()
    until(lambda: "copies of each other" in str(told(pair, tunnel, second)["error"]))
    node = getattr(pair, again)
    made = key()["public_key"]
    node.tunnels[tunnel["uuid"]]["public_key"] = made  # somebody made a new one, at either end
    if again == "first":  # its key is known
        until(lambda: [item["seen"] for item in pair.panel.service(first)["changed_keys"]] == [made])
        body = {"tunnel_id": tunnel["id"], "public_key": made}
        pair.panel.api.send("POST", f"/api/tunnels/nodes/{pair.ids[0]}/confirm", body)
    until(lambda: public(pair, tunnel, second) == second.tunnels[tunnel["uuid"]]["public_key"])
    until(lambda: pair.agree(tunnel))
    until(lambda: told(pair, tunnel, second)["status"] == "active")


def test_the_key_of_the_other_end_is_never_accepted(pair: Pair) -> None:
    held = pair.first.tunnels[pair.tunnel["uuid"]]
    held["public_key"] = pair.second.tunnels[pair.tunnel["uuid"]]["public_key"]  # a copy of the other node
    until(lambda: pair.panel.service(pair.first)["changed_keys"])
    body = {"tunnel_id": pair.tunnel["id"], "public_key": held["public_key"]}
    refused = pair.panel.api.refused("POST", f"/api/tunnels/nodes/{pair.ids[0]}/confirm", body, 409)
    assert "copies of each other" in refused
