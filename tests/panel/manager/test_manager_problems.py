# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Nodes that can't be worked with, and what is measured: what the panel answers about them."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from marzban_tunnels import responses
from marzban_tunnels.live import STALE_BY_SERVICE
from marzban_tunnels.manager import known as manager_known
from marzban_tunnels.service import LONGEST_ASKING
from tests.support.managed_pair import Pair, settled, told
from tests.support.managed_panel import FAST, ManagedPanel, until
from tests.support.simulated_node import Nodes


def test_no_key_is_sent_to_another_certificate(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    pair.first.renew()
    before = pair.first.bytes
    until(lambda: pair.panel.problem(pair.first) == "certificate_changed")
    until(lambda: pair.first.connections > 3)
    assert pair.first.bytes == before
    detail = pair.panel.service(pair.first)["problem"]["detail"]
    assert pair.first.pin in detail
    assert f"marzban_tunnels: {detail}" in caplog.messages
    pair.panel.publish(pair.first)  # a run of node_api
    until(lambda: pair.panel.problem(pair.first) is None)


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("key_wrong", {"hashes": []}),
        ("clock_wrong", {"ahead": 301.0}),
        ("version_newer", {"api": 2}),
        ("version_older", {"api": 0}),
        ("timed_out", {"slow": 3.0}),
        ("busy", {"instead": lambda method, path: (503, {"code": "busy"})}),
        pytest.param(
            "bad_answer",
            {"instead": lambda method, path: (200, {"api": 1, "tunnels": {}})},
            marks=pytest.mark.variation,
        ),
        ("bad_answer", {"instead": lambda method, path: b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n}}}"}),
        pytest.param("bad_answer", {"instead": lambda method, path: (500, {})}, marks=pytest.mark.variation),
        ("bad_answer", {"instead": lambda method, path: (503, {"code": "failed", "detail": "see root.service"})}),
        pytest.param(
            "bad_answer",
            {"instead": lambda method, path: (503, {"code": "unanswered", "detail": "see root.service"})},
            marks=pytest.mark.variation,
        ),
        pytest.param("version_older", {"instead": lambda method, path: (404, {})}, marks=pytest.mark.variation),
    ],
)
def test_each_problem_has_its_sentence_and_ends(
    panel: ManagedPanel, code: str, wrong: dict[str, Any], shared: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    node = shared.first
    right = {name: getattr(node, name) for name in wrong}
    for name, value in wrong.items():
        setattr(node, name, value)
    until(lambda: panel.problem(node) == code)
    detail = panel.service(node)["problem"]["detail"]
    assert detail.startswith(f"{node.name!r} at '127.0.0.1' port {node.port}")
    assert ("see root.service" in detail) == ("root.service" in str(node.instead("GET", "/api/tunnels")))
    assert panel.problem(shared.second) is None
    said = detail[: detail.index(" s ahead") - 3] if code == "clock_wrong" else detail  # its seconds go on
    until(lambda: any(line.startswith(f"marzban_tunnels: {said}") for line in caplog.messages))
    kept = panel.manager._watches[node.uuid].problem
    assert kept is not None
    assert (kept.__traceback__, kept.__context__) == (None, None), "frames hold the node's answer"
    for name, value in right.items():
        setattr(node, name, value)
    until(lambda: panel.problem(node) is None)
    until(lambda: f"marzban_tunnels: {node.name!r} at '127.0.0.1' port {node.port}: works again" in caplog.messages)


def test_a_tunnel_that_a_node_refuses_says_why_and_is_not_sent_all_the_time(pair: Pair) -> None:
    refusal = {"detail": {"tunnel.config": "mtu: 7 is too small"}}
    pair.first.instead = lambda method, path: (422, refusal) if method == "POST" else None
    config = json.loads(pair.sees()["config"]) | {"mtu": 1400}
    pair.call("PUT", "", {"config": json.dumps(config)})

    def end() -> Any:
        return next(end for end in pair.sees()["ends"] if end["node"] == pair.first.name)

    until(lambda: end()["status"] == "error")
    assert "mtu: 7 is too small" in end()["error"]
    assert pair.panel.problem(pair.first) is None
    sent = len(pair.first.wrote())
    asked = len(pair.first.requests)
    until(lambda: len(pair.first.requests) > asked + 10)
    assert len(pair.first.wrote()) - sent <= 6
    pair.first.instead = lambda method, path: None
    until(lambda: pair.sees()["status"] == "active")


def test_a_tunnel_that_a_node_can_not_do_holds_up_no_other(pair: Pair) -> None:
    pair.first.fails.add(pair.tunnel["uuid"])
    pair.call("PUT", "", {"name": "too much"})
    until(lambda: "the disk is full" in str(told(pair, pair.tunnel, pair.first)["error"]))
    other = pair.make()
    until(lambda: pair.agree(other))
    assert pair.panel.problem(pair.first) is None
    pair.call("DELETE")
    until(lambda: pair.panel.problem(pair.first) == "bad_answer")
    assert "the disk is full" in pair.panel.service(pair.first)["problem"]["detail"]
    pair.panel.api.send("DELETE", f"/api/tunnels/{other['id']}")
    until(lambda: other["uuid"] not in pair.first.tunnels)
    pair.first.fails.clear()
    until(lambda: not pair.first.tunnels)
    until(lambda: pair.panel.problem(pair.first) is None)


def test_a_removal_that_goes_on_for_ever_is_a_problem(pair: Pair) -> None:
    pair.first.instead = lambda method, path: (202, {"message": "is being removed"}) if method == "DELETE" else None
    pair.call("DELETE")
    until(lambda: pair.panel.problem(pair.first) == "bad_answer")
    assert "does not remove a tunnel that was deleted" in pair.panel.service(pair.first)["problem"]["detail"]
    pair.first.instead = lambda method, path: None
    until(lambda: pair.panel.problem(pair.first) is None)
    assert pair.first.tunnels == {}


def test_one_dead_node_delays_no_other(pair: Pair) -> None:
    pair.second.slow = 30.0
    until(lambda: pair.panel.problem(pair.second) == "timed_out")
    other = pair.make()
    until(lambda: other["uuid"] in pair.first.tunnels, 0.9)
    pair.second.slow = 0.0
    until(lambda: pair.agree(other))


def test_a_node_that_hangs_holds_up_a_status_for_two_seconds(database: Path, nodes: Nodes) -> None:
    with ManagedPanel(database, pace=replace(FAST, call=60.0)) as panel:
        pair = Pair(panel, nodes, "hangs")
        until(lambda: pair.sees()["status"] == "active")
        pair.first.slow = 60.0
        begun = time.monotonic()
        assert pair.call("GET", "/status")["status"] == "active"
        assert LONGEST_ASKING <= time.monotonic() - begun < 2 * LONGEST_ASKING


def test_a_tunnel_whose_nodes_are_cut_off_is_not_active_much_longer(database: Path, nodes: Nodes) -> None:
    """Nothing is written, and no node answers anything new: who has the list is sent it again all the same."""
    with ManagedPanel(database) as panel:
        pair = Pair(panel, nodes, "cut")
        until(lambda: pair.sees()["status"] == "active")
        for node in (pair.first, pair.second):
            node.age = STALE_BY_SERVICE - 1.0
        until(lambda: all(end["age"] >= STALE_BY_SERVICE - 1 for end in pair.sees()["ends"]))
        for node in (pair.first, pair.second):
            node.down()
        until(lambda: panel.problem(pair.first) == "refused" == panel.problem(pair.second))
        answer = panel.api.bare("GET", "/api/tunnels")
        assert [(tunnel["status"], tunnel["stale"]) for tunnel in answer.json()] == [("active", False)]
        tag = {"If-None-Match": answer.headers["ETag"]}

        def newer() -> Any:
            found = panel.api.bare("GET", "/api/tunnels", headers=tag)
            if found.status_code != 200 or not all(end["stale"] for end in found.json()[0]["ends"]):
                return None  # its ends were not measured at the same moment, and become stale one after the other
            return found.json()

        (tunnel,) = until(newer, 5)
        for told in (tunnel, pair.sees(), pair.call("GET", "/status")):
            assert (told["status"], told["stale"]) == ("connecting", True)


@pytest.mark.parametrize(
    ("secret", "words"),
    [
        (None, "is not set"),
        ("", "empty"),
        pytest.param("0123456789abcdef", "at least 32", marks=pytest.mark.variation),
        pytest.param("your-secret-key", "example", marks=pytest.mark.variation),
    ],
)
def test_without_a_key_the_manager_alone_is_off(
    database: Path, secret: str | None, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    with ManagedPanel(database, secret) as panel:
        state = panel.api.send("GET", "/api/tunnels/nodes")["manager"]
        assert state["state"] == "off"
        assert words in state["detail"]
        made = [panel.api.node() for _time in range(2)]
        assert panel.api.tunnel(*made)["status"] == "connecting"
    warned = [line for line in caplog.messages if "the manager is off" in line]
    assert warned == ([] if secret is None else [f"marzban_tunnels: the manager is off: {state['detail']}"])


def test_a_list_with_the_same_tag_is_as_stale_as_it_says(
    database: Path, nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers are sent again after half a minute, as by a real panel; only when an end becomes stale is shorter."""
    for module in (responses, manager_known):
        monkeypatch.setattr(module, "STALE_BY_SERVICE", 1)
    known: dict[str, Any] = {}

    def read() -> tuple[int, list[bool]]:
        """As a client does that keeps what it has while the panel says that it is still so."""
        answer = running.api.bare("GET", "/api/tunnels", headers={"If-None-Match": known.get("tag", "")})
        if answer.status_code == 200:
            known.update(tag=answer.headers["ETag"], records=answer.json())
        return answer.status_code, [end["stale"] for record in known["records"] for end in record["ends"]]

    with ManagedPanel(database, pace=replace(FAST, measured=30.0)) as running:
        pair = Pair(running, nodes, "told")
        until(lambda: read() == (304, [False, False]))
        until(settled(pair))
        for node, stale in ((pair.first, [True, False]), (pair.second, [True, True])):
            node.down()
            until(lambda: read() == (304, stale))  # noqa: B023
        pair.first.up()
        until(lambda: read() == (304, [False, True]))
        asked = len(pair.first.requests)
        until(lambda: len(pair.first.requests) > asked + 10)
        assert read() == (304, [False, True]), "what is measured again is not sent at once"
    with ManagedPanel(database, None) as running:  # nobody asks the nodes any more
        assert read() == (200, [True, True])
