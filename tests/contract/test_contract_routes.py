# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Contract: on one node a network goes into one active tunnel. Runs against any panel (see conftest)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.panel_api import Api

Maker = Callable[..., Any]
BEHIND = "192.168.70.0/24"


def routes(**ends: list[str]) -> str:
    return json.dumps({role: {"routes": networks} for role, networks in ends.items()})


@pytest.fixture
def first(api: Api, make_node: Maker) -> Any:
    """A tunnel from a to b; what is behind b, a sends into it."""
    return api.tunnel(make_node(), make_node(), config=routes(target=["10.5.0.0/16", BEHIND]))


def put(api: Api, tunnel: Any, status: int = 200, **fields: Any) -> Any:
    return api.send("PUT", f"/api/tunnels/{tunnel['id']}", fields, status)


def expect_taken(answer: Any, role: str, node: str, other: Any) -> None:
    start = f'config.{role}.routes: {BEHIND} goes from node "{node}" into tunnel {other["id"]} already; '
    assert answer["detail"] == start + "take it out of one of the two, or deactivate one"


def test_a_route_that_is_taken(api: Api, first: Any, make_node: Maker) -> None:
    a, b, c = {"id": first["source_node_id"]}, {"id": first["target_node_id"]}, make_node()
    before = api.send("GET", "/api/tunnels?limit=1000")
    for ends, role in (((a, c), "target"), ((c, a), "source"), ((a, b), "target"), ((b, a), "source")):
        source, target = ends
        answer = api.tunnel(source, target, config=routes(**{role: ["10.6.0.0/16", BEHIND]}), status=409)
        expect_taken(answer, role, first["source_node_name"], first)
    assert api.send("GET", "/api/tunnels?limit=1000") == before


def test_a_route_of_the_target(api: Api, make_node: Maker) -> None:
    a, b, c = make_node(), make_node(), make_node()
    first = api.tunnel(a, b, config=routes(source=[BEHIND]))  # b sends it to a
    for ends, role in (((b, c), "target"), ((c, b), "source")):
        expect_taken(api.tunnel(*ends, config=routes(**{role: [BEHIND]}), status=409), role, b["name"], first)


def test_routes_that_are_free(api: Api, first: Any, make_node: Maker) -> None:
    a, b, c = {"id": first["source_node_id"]}, {"id": first["target_node_id"]}, make_node()
    api.tunnel(b, c, config=routes(target=[BEHIND]))  # b sends it there, not a
    api.tunnel(a, c, config=routes(source=[BEHIND]))  # c does
    api.tunnel(a, c, config=routes(target=["192.168.70.0/25"]))  # the narrower one goes before
    api.tunnel(a, c, config=routes(target=[BEHIND]), is_active=False)


def test_a_change_that_takes_a_route(api: Api, first: Any, make_node: Maker) -> None:
    a, c, d = {"id": first["source_node_id"]}, make_node(), make_node()
    plain, elsewhere = api.tunnel(a, c), api.tunnel(d, c, config=routes(target=[BEHIND]))
    for tunnel, fields, role in (
        (plain, {"config": routes(target=[BEHIND])}, "target"),
        (elsewhere, {"source_node_id": a["id"]}, "target"),
        (
            elsewhere,
            {"source_node_id": c["id"], "target_node_id": a["id"], "config": routes(source=[BEHIND])},
            "source",
        ),
    ):
        expect_taken(put(api, tunnel, 409, **fields), role, first["source_node_name"], first)
        assert api.send("GET", f"/api/tunnels/{tunnel['id']}") == tunnel
    changed = put(api, first, config=routes(target=[BEHIND]), target_node_id=c["id"])
    assert changed["ends"][1]["routes"] == [BEHIND], "its own route does not conflict"


def test_one_of_two_is_active(api: Api, first: Any, make_node: Maker) -> None:
    node = first["source_node_name"]
    other = api.tunnel({"id": first["source_node_id"]}, make_node(), config=routes(target=[BEHIND]), is_active=False)
    one, two = (f"/api/tunnels/{tunnel['id']}" for tunnel in (first, other))
    expect_taken(api.send("POST", f"{two}/activate", status=409), "target", node, first)
    expect_taken(put(api, other, 409, is_active=True), "target", node, first)
    assert api.send("GET", two) == other
    api.send("POST", f"{one}/deactivate")
    api.send("POST", f"{two}/activate")
    expect_taken(api.send("POST", f"{one}/activate", status=409), "target", node, other)
    assert put(api, first, config=routes(target=["10.5.0.0/16"]), is_active=True)["is_active"], "repaired in one call"
