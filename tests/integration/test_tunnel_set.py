# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""tunnel_set: many records in one call, also with a panel that is older, refuses some, or does not answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.client.test_client_versions import of_version
from tests.support.faulty import Answer, Faulty, Request, drop
from tests.support.panel_modules import call, errors, quartet, run, start_over
from tests.support.world import World


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    return make_world()


@pytest.fixture(autouse=True)
def empty(world: World) -> None:
    start_over(world)


RING: list[dict[str, Any]] = [
    {"name": "de-fi", "source": "de-1", "target": "fi-1"},
    {"name": "fi-us", "source": "fi-1", "target": "us-1", "config": {"mtu": 1380}},
    {"name": "us-de", "source": "us-1", "target": "de-1", "active": False},
]


def test_tunnel_set(world: World) -> None:
    _check, apply = quartet(world, "tunnel_set", {"tunnels": RING}, "POST /api/tunnels/bulk", way=run)
    assert [(tunnel["name"], tunnel["change"]) for tunnel in apply["tunnels"]] == [
        (item["name"], "created") for item in RING
    ]
    ids = {name: record["id"] for name, record in world.tunnels().items()}
    fewer = [{**RING[1], "config": {}}, RING[2], {"name": "new", "source": "de-1", "target": "fi-1"}]
    writes = [f"DELETE /api/tunnels/{ids['de-fi']}", f"PUT /api/tunnels/{ids['fi-us']}", "POST /api/tunnels"]
    check, apply = quartet(world, "tunnel_set", {"tunnels": fewer, "purge": True}, *writes)
    changes = [("fi-us", "updated"), ("us-de", "unchanged"), ("new", "created"), ("de-fi", "deleted")]
    assert [(tunnel["name"], tunnel["change"]) for tunnel in apply["tunnels"]] == changes
    assert [(tunnel["name"], tunnel["change"]) for tunnel in check["tunnels"]] == changes
    assert sorted(world.tunnels()) == ["fi-us", "new", "us-de"]


def test_tunnel_set_asks_as_little_as_it_can(world: World) -> None:
    before = len(world.panel.log_lines())
    call(world, [("tunnel_set", {"tunnels": RING}, False)])
    asked = [f"{line['method']} {line['path']}" for line in world.panel.log_lines()[before:]]
    assert asked == ["GET /api/nodes", "GET /api/tunnels", "POST /api/tunnels/bulk"]


def test_one_connection_and_one_login_serve_a_whole_call(world: World) -> None:
    with Faulty.before(world.panel) as faulty:
        of_version(faulty, "2")  # one request for each tunnel
        call(world, [("tunnel_set", {"tunnels": RING}, False)], MARZBAN_URL=faulty.url, MARZBAN_TOKEN="")
    assert [request.path for request in faulty.requests] == [
        *("/api/admin/token", "/api/nodes", "/api/tunnels"),
        *["/api/tunnels"] * 3,
    ]
    assert len({request.client for request in faulty.requests}) == 1


def test_tunnel_set_does_not_purge_everything_by_mistake(world: World) -> None:
    world.tunnel("de-fi", "de-1", "fi-1")
    errors(world, "tunnel_set", ({"tunnels": [], "purge": True}, "confirm it with purge_all: true"))
    (kept,) = call(world, [("tunnel_set", {"tunnels": []}, False)])
    assert not kept["changed"]
    number = world.tunnels()["de-fi"]["id"]
    options = {"tunnels": [], "purge": True, "purge_all": True}
    quartet(world, "tunnel_set", options, f"DELETE /api/tunnels/{number}")


def test_tunnel_set_checks_all_before_the_first_write(world: World) -> None:
    errors(
        world,
        "tunnel_set",
        ({"tunnels": [*RING, {"name": "x", "source": "de-1"}]}, "tunnels[3].target is required. "),
        ({"tunnels": [*RING, RING[0]]}, "tunnels[3].name: 'de-fi' can't be used. It is in the list twice"),
        (
            {"tunnels": [*RING, {**RING[0], "name": "DE-FI"}]},
            "tunnels[3].name: 'DE-FI' can't be used. It looks like the",
        ),
        ({"tunnels": [*RING, {**RING[0], "name": "x", "config": {"dial": 5}}]}, "tunnels[3].config.dial: 5"),
        ({"tunnels": [*RING, {**RING[0], "name": "x", "source": "xx"}]}, "tunnels[3].source: 'xx'"),
        ({"tunnels": [*RING, {**RING[0], "name": "x", "source": ""}]}, "tunnels[3].source: ''"),
    )


def test_tunnel_set_goes_on_after_one_that_the_panel_refuses(world: World) -> None:
    port = {"source": {"port": 21000}}
    two = [{**RING[0], "config": port}, {"name": "clash", "source": "de-1", "target": "us-1", "config": port}, RING[1]]
    (result,) = call(world, [("tunnel_set", {"tunnels": two}, False)])
    assert result["failed"]
    assert result["changed"]
    assert [tunnel["change"] for tunnel in result["tunnels"]] == ["created", "failed", "created"]
    assert "1 of 3 failed. clash: " in result["msg"]
    assert sorted(world.tunnels()) == ["de-fi", "fi-us"]


def test_check_mode_foresees_a_name_that_looks_like_another_one(world: World) -> None:
    world.tunnel("straße", "de-1", "fi-1")
    options = {"tunnels": [{**RING[0], "name": "STRASSE"}, RING[1]]}
    one = {"name": "STRASSE", "source": "de-1", "target": "us-1"}
    would, did, alone, really = call(
        world,
        [("tunnel_set", options, True), ("tunnel_set", options, False), ("tunnel", one, True), ("tunnel", one, False)],
    )
    for result in (would, did):
        assert [(tunnel["name"], tunnel["change"]) for tunnel in result["tunnels"]] == [
            ("STRASSE", "failed"),
            ("fi-us", "created"),
        ]
        assert result["failed"]
        assert "straße" in result["msg"]
    for result in (alone, really):
        assert result["failed"]
        assert "straße" in result["msg"]
    assert sorted(world.tunnels()) == ["fi-us", "straße"]


@pytest.mark.parametrize("version", [pytest.param(None, marks=pytest.mark.variation), "3"])
def test_a_panel_that_does_not_know_an_endpoint_port_gets_none(world: World, version: str | None) -> None:
    behind = {"target": {"endpoint_port": 443}}
    world.tunnel("us-de", "us-1", "de-1")
    with Faulty.before(world.panel) as faulty:
        of_version(faulty, version)
        written = len(world.panel.writes())
        tasks = [
            ("tunnel_set", {"tunnels": [RING[0], {**RING[1], "config": behind}]}),
            ("tunnel_set", {"tunnels": [{**RING[2], "config": behind}]}),
            ("tunnel", {**RING[1], "config": behind}),
            ("tunnel", {**RING[2], "config": behind}),
        ]
        for module, options in tasks:
            for check in (True, False):
                (result,) = call(world, [(module, options, check)], MARZBAN_URL=faulty.url)
                assert result["failed"], (module, options)
                number = version or "1"
                said = f"has version {number} of the tunnels API, which does not know config.target.endpoint_port."
                assert said in result["msg"]
                assert "Update the panel: run the playbook marzban.tunnels.panel." in result["msg"]
        assert world.panel.writes()[written:] == []
        (taken,) = call(world, [("tunnel", {**RING[2], "config": {"mtu": 1400}}, False)], MARZBAN_URL=faulty.url)
        assert taken["changed"]
    (taken,) = call(world, [("tunnel", {**RING[2], "config": behind}, False)])
    assert [end["endpoint_port"] == end["port"] for end in taken["tunnel"]["ends"]] == [True, False]


MANY = [{"name": f"t{number}", "source": "de-1", "target": "fi-1"} for number in range(120)]


def lost(faulty: Faulty, method: str, path: str, skip: int = 0, does: bool = True) -> None:
    """The panel does what it is asked, or not, and the connection breaks off."""

    def breaks_off(request: Request) -> Answer:
        if does:
            faulty.forward(request)
        return drop(request)

    faulty.on(method, path, breaks_off, times=1, skip=skip)


def changes(result: dict[str, Any]) -> list[tuple[str, str]]:
    return [(item["name"], item["change"]) for item in result["tunnels"]]


def test_hundreds_of_new_tunnels(world: World) -> None:
    _check, apply = quartet(world, "tunnel_set", {"tunnels": MANY}, *["POST /api/tunnels/bulk"] * 3)
    listed = world.tunnels()
    assert [(item["name"], item["tunnel"]["id"]) for item in apply["tunnels"]] == [
        (item["name"], listed[item["name"]]["id"]) for item in MANY
    ]
    assert sorted(item["tunnel"]["id"] for item in apply["tunnels"]) == [
        item["tunnel"]["id"] for item in apply["tunnels"]
    ]


def test_an_older_panel_makes_the_same_of_it(world: World) -> None:
    (together,) = call(world, [("tunnel_set", {"tunnels": RING}, False)])
    start_over(world)
    with Faulty.before(world.panel) as faulty:
        of_version(faulty, "2")
        (single,) = call(world, [("tunnel_set", {"tunnels": RING}, False)], MARZBAN_URL=faulty.url)
    assert single["diff"] == together["diff"]
    assert changes(single) == changes(together)
    said = [{key: item["tunnel"][key] for key in ("name", "type", "source", "config")} for item in single["tunnels"]]
    assert said == [{key: item["tunnel"][key] for key in said[0]} for item in together["tunnels"]]
    assert world.panel.writes()[-3:] == ["POST /api/tunnels"] * 3


@pytest.mark.parametrize("does", [True, False], ids=["done", "not done"])
@pytest.mark.parametrize("version", ["2", "3"])
def test_an_answer_that_is_lost(world: World, version: str, does: bool) -> None:
    """It says what the panel has of it; run again, nothing is there twice."""
    some = MANY if version == "3" else MANY[:3]
    path, known, sent = ("bulk", 50, 50) if version == "3" else ("", 1, 1)
    with Faulty.before(world.panel) as faulty:
        lost(faulty, "POST", f"/api/tunnels/?{path}", skip=1, does=does)
        of_version(faulty, version)
        (first,) = call(world, [("tunnel_set", {"tunnels": some}, False)], MARZBAN_URL=faulty.url)
        made = known + (sent if does else 0)
        assert first["failed"]
        assert "no answer" in first["msg"]
        assert f"Of {sent} new tunnels in this request the panel has {sent if does else 0}: run again" in first["msg"]
        assert changes(first) == [(item["name"], "created") for item in some[:made]]
        assert first["changed"] == bool(made)
        listed = world.tunnels()
        assert [item["tunnel"]["id"] for item in first["tunnels"]] == [item["id"] for item in listed.values()]
        (again,) = call(world, [("tunnel_set", {"tunnels": some}, False)], MARZBAN_URL=faulty.url)
    assert changes(again) == [
        (item["name"], "unchanged" if place < made else "created") for place, item in enumerate(some)
    ]
    assert {name: item["id"] for name, item in world.tunnels().items()}.items() >= {
        (name, item["id"]) for name, item in listed.items()
    }


def test_an_answer_that_is_lost_for_good(world: World) -> None:
    """Who can't ask what became of it says so."""
    with Faulty.before(world.panel) as faulty:
        lost(faulty, "POST", "/api/tunnels/bulk")
        faulty.on("GET", "/api/tunnels", drop, skip=1)
        (result,) = call(world, [("tunnel_set", {"tunnels": RING}, False)], MARZBAN_URL=faulty.url, MARZBAN_RETRIES="0")
    assert result["failed"]
    assert "Which of the new tunnels of this request it has (3 were sent) is not known: run again." in result["msg"]
    assert (result["tunnels"], result["changed"]) == ([], False)


def test_one_that_somebody_else_has_made_is_not_reported(world: World) -> None:
    def is_made_otherwise(request: Request) -> Answer:
        world.tunnel("de-fi", "de-1", "us-1")
        return drop(request)

    with Faulty.before(world.panel) as faulty:
        faulty.on("POST", "/api/tunnels/bulk", is_made_otherwise)
        (result,) = call(world, [("tunnel_set", {"tunnels": RING}, False)], MARZBAN_URL=faulty.url)
    assert (result["failed"], result["changed"], result["tunnels"]) == (True, False, [])


def test_a_panel_that_is_busy_after_some(world: World) -> None:
    """What it has created is reported, what it could not look at stops the task, as with calls of their own."""

    def refuses_the_last(request: Request) -> Answer:
        body = json.loads(request.body)
        last = body["tunnels"].pop()
        assert last["name"] == RING[2]["name"]
        request.body = json.dumps(body).encode()
        answer = faulty.forward(request)
        said = json.loads(answer.body)
        said["tunnels"].append(None)
        said["rejected"].append({"index": 2, "status": 503, "detail": "The database is busy"})
        answer.body = json.dumps(said).encode()
        return answer

    clash = {**RING[1], "config": {"source": {"interface": "mz9999999"}}}
    with Faulty.before(world.panel) as faulty:
        faulty.on("POST", "/api/tunnels/bulk", refuses_the_last)
        some = [RING[0], clash, RING[2]]
        (result,) = call(world, [("tunnel_set", {"tunnels": some}, False)], MARZBAN_URL=faulty.url)
    assert result["failed"]
    assert "answered 503: The database is busy" in result["msg"]
    assert changes(result) == [("de-fi", "created"), ("fi-us", "failed")]
    assert result["changed"]
    assert sorted(world.tunnels()) == ["de-fi"]
