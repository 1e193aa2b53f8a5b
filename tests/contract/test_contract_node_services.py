# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Contract: the nodes' services (docs/development/node-service.md). Runs against any panel (see conftest), with a
NODE_API_KEY that is empty: no door calls the nodes. What a key and a manager add is in
tests/panel/test_panel_node_services.py, what Marzban's certificate does in test_mounted_manager.py."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.panel_api import Api, key, publish, report

Maker = Callable[..., Any]
Pair = tuple[Any, Any]
NODES = "/api/tunnels/nodes"
PIN = "sha256:" + "A" * 43 + "="
OTHER_PIN = "sha256:" + "B" * 43 + "="


def access(api: Api, *nodes: Any) -> list[Any]:
    answer = api.send("POST", NODES + "/access", {"nodes": [node["name"] for node in nodes]})
    assert answer["rejected"] == []
    found: list[Any] = answer["nodes"]
    return found


def listed(api: Api, node: Any) -> list[Any]:
    """A node's entry. An earlier node may have had its number."""
    return [found for found in api.send("GET", NODES)["nodes"] if found["node"] == node["name"]]


def service(api: Api, node: Any, port: int | None = 62052, pin: str | None = PIN) -> Any:
    """Publish a service of a node; answers what the panel says to it."""
    item = {"node": node["name"], "uuid": access(api, node)[0]["uuid"], "port": port, "pin": pin}
    return api.send("PUT", NODES, {"nodes": [item]})


def waiting(api: Api, node: Any) -> list[Any]:
    """The tunnels that a node has to remove."""
    return [found["uuid"] for entry in listed(api, node) for found in entry["deletions"]]


def test_a_node_without_a_service(api: Api, pair: Pair) -> None:
    answer = api.send("GET", NODES)
    why = "NODE_API_KEY can't be used: it is empty. The panel does not call the nodes; make one with: "
    assert answer["manager"] == {"state": "off", "detail": why + "openssl rand -hex 32"}
    (entry,) = listed(api, pair[0])
    unknown = dict.fromkeys(("uuid", "generation", "port", "pin", "problem", "contact_age", "engine"))
    nothing: dict[str, Any] = {name: [] for name in ("missing", "orphans", "deletions", "changed_keys")}
    nothing["recoveries"] = {}
    named = {"node_id": pair[0]["id"], "node": pair[0]["name"], "deleted": False, "state": "none", "more_orphans": 0}
    assert entry == {**named, **unknown, **nothing}


def test_access(api: Api, pair: Pair) -> None:
    names = [pair[0]["name"], "nobody", pair[0]["name"].upper()]
    (foreseen,) = api.send("POST", NODES + "/access", {"nodes": names, "check": True})["nodes"]
    answer = api.send("POST", NODES + "/access", {"nodes": names})
    assert answer["panel"] == api.bare("GET", NODES).headers["Marzban-Panel-Id"]
    assert [(item["node"], "there is no node" in item["detail"]) for item in answer["rejected"]] == [
        (name, True) for name in names[1:]
    ]
    (found,) = answer["nodes"]
    assert {**found, "uuid": foreseen["uuid"]} == foreseen
    assert found["uuid"] != foreseen["uuid"], "it was stored"
    assert (found["node"], found["node_id"], found["generation"]) == (pair[0]["name"], pair[0]["id"], 1)
    assert (found["hashes"], found["certificate"]) == ([], None), "an empty NODE_API_KEY lets nobody in"
    assert access(api, pair[0]) == [found], "the same at each call"
    assert access(api, *pair)[1]["uuid"] != found["uuid"]


def test_how_a_service_is_reached(api: Api, pair: Pair) -> None:
    mine = access(api, pair[0])[0]["uuid"]
    item = {"node": pair[0]["name"], "uuid": mine, "port": 62052, "pin": PIN}
    unknown = [item | {"node": "nobody"}, item, item | {"pin": OTHER_PIN}, item | {"node": pair[1]["name"]}]
    answer = api.send("PUT", NODES, {"nodes": unknown})
    assert answer["updated"] == 1
    assert [(found["node"], found["detail"].partition(":")[0]) for found in answer["rejected"]] == [
        ("nobody", "node"),
        (pair[0]["name"], "node"),
        (pair[1]["name"], "uuid"),
    ]
    assert service(api, pair[0]) == {"updated": 0, "rejected": []}, "it was so already"
    (entry,) = listed(api, pair[0])
    assert (entry["uuid"], entry["port"], entry["pin"], entry["state"]) == (mine, 62052, PIN, "asking")
    assert service(api, pair[0], None, None) == {"updated": 1, "rejected": []}
    (entry,) = listed(api, pair[0])
    assert (entry["uuid"], entry["port"], entry["pin"], entry["state"]) == (mine, None, None, "none")


def test_a_key_is_revoked(api: Api, pair: Pair) -> None:
    before = access(api, pair[0])[0]
    if before["certificate"]:  # a Marzban without NODE_API_KEY
        said = api.refused("POST", f"{NODES}/{pair[0]['id']}/revoke", None, 409)
        assert "NODE_API_KEY" in said
        assert access(api, pair[0])[0] == before
        return
    told = api.send("POST", f"{NODES}/{pair[0]['id']}/revoke")
    assert (told["uuid"], told["generation"]) == (before["uuid"], 2)
    assert [told] == listed(api, pair[0])
    assert access(api, pair[0])[0]["generation"] == 2


def test_deletions_wait_for_both_nodes(api: Api, pair: Pair, make_node: Maker) -> None:
    tunnel, kept = api.tunnel(*pair, name=f"gone-{uuid.uuid4()}"), api.tunnel(*pair)
    service(api, pair[1])
    assert waiting(api, pair[0]) == []
    api.send("DELETE", f"/api/tunnels/{tunnel['id']}")
    for node in pair:
        (entry,) = listed(api, node)
        (found,) = entry["deletions"]
        assert found.pop("age") >= 0
        wanted = {"uuid": tunnel["uuid"], "tunnel_id": tunnel["id"], "name": tunnel["name"]}
        assert found == {**wanted, "type": "wireguard", "given_up": False}
    assert api.own("DELETE", f"/api/node/{pair[1]['id']}").status_code == 200
    (entry,) = listed(api, pair[1])
    assert (entry["deleted"], entry["node"], entry["state"]) == (True, pair[1]["name"], "asking")
    assert (entry["port"], entry["pin"]) == (62052, PIN), "how it is reached is kept"
    assert {(found["uuid"], found["given_up"]) for found in entry["deletions"]} == {
        (tunnel["uuid"], False),
        (kept["uuid"], False),
    }
    assert set(waiting(api, pair[0])) == {tunnel["uuid"], kept["uuid"]}
    assert api.own("DELETE", f"/api/node/{pair[0]['id']}").status_code == 200
    (entry,) = listed(api, pair[0])
    assert {found["given_up"] for found in entry["deletions"]} == {True}, "without a service nobody can be called"
    later = make_node()  # on SQLite it may get the number of the deleted one
    assert [entry["deletions"] for entry in listed(api, later)] == [[]]


def test_an_end_that_moves_leaves_its_node(api: Api, pair: Pair, make_node: Maker) -> None:
    tunnel, third = api.tunnel(*pair), make_node()
    path = f"/api/tunnels/{tunnel['id']}"
    swapped = {"source_node_id": pair[1]["id"], "target_node_id": pair[0]["id"]}
    api.send("PUT", path, swapped)
    assert [waiting(api, node) for node in (*pair, third)] == [[], [], []], "both are still its nodes"
    api.send("PUT", path, {"source_node_id": third["id"]})
    assert [waiting(api, node) for node in (*pair, third)] == [[], [tunnel["uuid"]], []]
    api.send("PUT", path, {"target_node_id": pair[1]["id"]})
    assert [waiting(api, node) for node in (*pair, third)] == [[tunnel["uuid"]], [], []], "it came back"
    api.send("DELETE", path)
    assert [waiting(api, node) for node in (*pair, third)] == [[tunnel["uuid"]]] * 3


def test_confirm(api: Api, pair: Pair) -> None:
    tunnel, half = api.tunnel(*pair), key()["public_key"]
    path = f"{NODES}/{pair[0]['id']}/confirm"
    assert "The manager is off" in api.refused("POST", path, {"database": True}, 409)
    body = {"tunnel_id": tunnel["id"], "public_key": half}
    assert api.refused("POST", path, body, 409).startswith("public_key: the node does not show this key")
    assert api.refused("POST", path, body | {"tunnel_id": 2**31 - 1}, 404).startswith("tunnel_id: 2147483647: ")
    for wrong in ({}, {"database": False}, {"database": True, **body}, {"tunnel_id": 1}, {"public_key": half}):
        assert set(api.refused("POST", path, wrong, 422)) <= {"body", "database"}
    publish(api, tunnel, pair[0], {"public_key": half})
    assert api.refused("POST", path, body, 409), "known already"
    for name in ("revoke", "confirm"):
        for number in ("2147483647", "0", str(2**70)):
            assert api.refused("POST", f"{NODES}/{number}/{name}", {"database": True}, 404) == "Node not found"


@pytest.mark.parametrize(
    ("method", "place", "body", "wrong"),
    [
        ("POST", "/access", {"nodes": "de-1"}, {"nodes"}),
        ("POST", "/access", {"nodes": [7, "x" * 2000]}, {"nodes.0", "nodes.1"}),
        ("POST", "/access", {"nodes": ["a"] * 2001}, {"nodes"}),
        ("POST", "/access", {"nodes": [], "NODE_API_KEY": "x"}, {"NODE_API_KEY"}),
        ("PUT", "", {"nodes": [{}]}, {"nodes.0.node", "nodes.0.uuid", "nodes.0.port", "nodes.0.pin"}),
        ("PUT", "", {"nodes": [{"node": "a", "uuid": "u", "port": 0, "pin": "sha256:x"}]},
         {"nodes.0.port", "nodes.0.pin"}),
        ("PUT", "", {"nodes": [{"node": "a", "uuid": "u", "port": 1, "pin": PIN + "\n"}]}, {"nodes.0.pin"}),
        ("PUT", "", {"nodes": [{"node": "a", "uuid": "u", "port": None, "pin": PIN}]}, {"nodes.0"}),
        ("PUT", "", {"nodes": [{"node": "a", "uuid": "u", "port": True, "pin": PIN}]}, {"nodes.0.port"}),
        ("PUT", "", [], {"body"}),
        ("POST", "/x/revoke", None, {"node_id"}),
        ("POST", "/1/confirm", {"tunnel_id": 0, "public_key": "private"}, {"tunnel_id", "public_key"}),
    ],
)  # fmt: skip
def test_bad_bodies(api: Api, method: str, place: str, body: Any, wrong: set[str]) -> None:
    detail = api.refused(method, NODES + place, body, 422)
    assert set(detail) == wrong
    assert all(isinstance(message, str) and message for message in detail.values())


def test_hostile_names(api: Api, pair: Pair) -> None:
    names = ["\u202ede-1", "a\x00b", "x" * 1024, "'; DROP TABLE tunnels; --", "%", "\U0001f600", ""]
    answer = api.send("POST", NODES + "/access", {"nodes": names})
    assert ([item["node"] for item in answer["rejected"]], answer["nodes"]) == (names, [])
    assert all("\u202e" not in item["detail"] and "\x00" not in item["detail"] for item in answer["rejected"])
    assert api.bare("POST", NODES + "/access", json={"nodes": ["\ud800"]}).status_code == 422
    item = {"node": pair[0]["name"], "uuid": "\x00", "port": 1, "pin": PIN}
    assert api.send("PUT", NODES, {"nodes": [item]})["rejected"][0]["detail"].startswith("uuid: '\\x00' is not")


def test_who_has_reported_an_end(api: Api, pair: Pair) -> None:
    tunnel = api.tunnel(*pair)
    assert (tunnel["stale"], [end["stale"] for end in tunnel["ends"]]) == (True, [True, True])
    report(api, tunnel, pair[0])
    path = f"/api/tunnels/{tunnel['id']}"
    seen = api.send("GET", path)
    assert [(end["by"], end["stale"], end["changed_key"]) for end in seen["ends"]] == [
        ("run", False, None),
        (None, True, None),
    ]
    assert seen["stale"] is False
    told = api.send("GET", path + "/status")
    assert [(end["by"], end["stale"]) for end in told["ends"]] == [("run", False), (None, True)]
    changed = api.send("PUT", path, {"name": f"renamed-{uuid.uuid4()}"})
    assert (changed["ends"][0]["by"], changed["ends"][0]["status"]) == ("run", None)
