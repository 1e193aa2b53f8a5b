# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Contract: what the tunnels API says to bad input, and without a token. Runs against any panel (see conftest)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.panel_api import Api, key

Pair = tuple[Any, Any]


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({}, {"source_node_id", "target_node_id", "tunnel_type"}),
        ({"source_node_id": "1", "target_node_id": True, "tunnel_type": "gre"},
         {"source_node_id", "target_node_id", "tunnel_type"}),
        ({"source_node_id": 1, "target_node_id": 2, "tunnel_type": "wireguard", "is_active": "yes"}, {"is_active"}),
        ({"source_node_id": 1, "target_node_id": 2, "tunnel_type": "wireguard", "config": {}}, {"config"}),
        ({"source_node_id": 1, "target_node_id": 2, "tunnel_type": "wireguard", "config": None}, {"config"}),
        ({"source_node_id": 1, "target_node_id": 2, "tunnel_type": "wireguard", "private_key": "x"}, {"private_key"}),
        ({"source_node_id": 1, "target_node_id": 2, "tunnel_type": "wireguard", "name": "a;b"}, {"name"}),
        ({"source_node_id": 2**63, "target_node_id": 2, "tunnel_type": "wireguard"}, {"source_node_id"}),
        ([], {"body"}),
        ("text", {"body"}),
    ],
)  # fmt: skip
def test_bad_bodies(api: Api, body: Any, wrong: set[str]) -> None:
    detail = api.refused("POST", "/api/tunnels", body, 422)
    assert set(detail) == wrong
    assert all(isinstance(message, str) and message for message in detail.values())


@pytest.mark.parametrize(
    ("fields", "field", "said"),
    [
        ({"name": "x" * 300}, "name", "'" + "x" * 58 + "…: a name has 1 to 128 characters, this one has 300"),
        ({"name": ""}, "name", "'': a name has"),
        ({"name": 5}, "name", "(got 5)"),
        ({"tunnel_type": "gre"}, "tunnel_type", "(got 'gre')"),
        ({"config": '{"source": []}'}, "config.source", "Has to be an object, such as {} (got [])"),
        ({"config": '{"target": {"addresses": []}}'}, "config.target.addresses",
         "Has to hold at least 1, or be left out (got [])"),
        ({"config": '{"target": {"port": [1]}}'}, "config.target.port", "(got [1])"),
    ],
)  # fmt: skip
def test_errors_name_the_value(api: Api, pair: Pair, fields: Any, field: str, said: str) -> None:
    tunnel = api.tunnel(*pair)
    body = {"source_node_id": pair[0]["id"], "target_node_id": pair[1]["id"], "tunnel_type": "wireguard"}
    for method, path, sent in (
        ("POST", "/api/tunnels", body | fields),
        ("PUT", f"/api/tunnels/{tunnel['id']}", fields),
    ):
        detail = api.refused(method, path, sent, 422)
        assert set(detail) == {field}
        assert said in detail[field]


def test_what_nobody_has_looked_through_is_not_sent_back(api: Api, pair: Pair) -> None:
    body = {"source_node_id": pair[0]["id"], "target_node_id": pair[1]["id"], "tunnel_type": "wireguard"}
    secret = key()["public_key"]
    for sent, field in (
        (secret, "body"),
        (body | {"config": {"source": {"private_key": secret}}}, "config"),
        (body | {"name": [secret]}, "name"),
        (body | {"private_key": secret}, "private_key"),
        (body | {"config": json.dumps({"source": {"private_key": secret}})}, "config.source.private_key"),
        (body | {"config": json.dumps({"source": [{"private_key": secret}]})}, "config.source.0.private_key"),
    ):
        detail = api.refused("POST", "/api/tunnels", sent, 422)
        assert set(detail) == {field}
        assert secret not in detail[field]


def test_config_errors_name_the_field(api: Api, pair: Pair) -> None:
    config = json.dumps({"source": {"port": 70000, "routes": ["10.0.0.1/24"]}, "mtu": 1000})
    body = {"source_node_id": pair[0]["id"], "target_node_id": pair[1]["id"], "tunnel_type": "wireguard"}
    detail = api.refused("POST", "/api/tunnels", body | {"config": config}, 422)
    assert set(detail) == {"config.source.port", "config.source.routes.0", "config.mtu"}
    assert "70000" in detail["config.source.port"]
    assert "10.0.0.0/24" in detail["config.source.routes.0"], "the hint is in the sentence"
    large = json.dumps({"x": "y" * 65536})
    assert set(api.refused("POST", "/api/tunnels", body | {"config": large}, 422)) == {"config"}
    assert set(api.refused("POST", "/api/tunnels", body | {"config": "[]"}, 422)) == {"config"}


CALLS: list[tuple[str, str, Any]] = [
    ("GET", "", None),
    ("POST", "", {"tunnel_type": "wireguard"}),  # and the nodes
    ("POST", "/bulk", {"tunnels": []}),
    ("POST", "/keys", {"keys": []}),
    ("POST", "/status", {"reports": []}),
    ("GET", "/{tunnel_id}", None),
    ("PUT", "/{tunnel_id}", {"is_active": False}),
    ("DELETE", "/{tunnel_id}", None),
    ("POST", "/{tunnel_id}/activate", None),
    ("POST", "/{tunnel_id}/deactivate", None),
    ("GET", "/{tunnel_id}/status", None),
    ("GET", "/{tunnel_id}/history", None),
    ("GET", "/events", None),
    ("GET", "/nodes", None),
    ("PUT", "/nodes", {"nodes": []}),
    ("POST", "/nodes/access", {"nodes": []}),
    ("POST", "/nodes/{node_id}/revoke", None),
    ("POST", "/nodes/{node_id}/confirm", {"database": True}),
]


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
def test_every_call_wants_a_token(api: Api, pair: Pair, method: str, path: str, body: Any) -> None:
    tunnel = api.tunnel(*pair)
    before = api.send("GET", "/api/tunnels?limit=1000")
    place = "/api/tunnels" + path.format(tunnel_id=tunnel["id"], node_id=pair[0]["id"])
    if not path and body:
        body = body | {"source_node_id": pair[0]["id"], "target_node_id": pair[1]["id"]}
    for token in (None, "Bearer x", "Bearer ", "Basic YWRtaW46YWRtaW4=", "x"):
        answer = api.bare(method, place, json=body, headers={"Authorization": token})
        assert (answer.status_code, type(answer.json()["detail"])) == (401, str), token
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert api.send("GET", "/api/tunnels?limit=1000") == before
    inside = api.bare(method, place, json=body, stream=True)  # one of them has no end
    inside.close()
    statuses = {"/nodes/{node_id}/confirm": {409}, "/nodes/{node_id}/revoke": {200, 409}}
    assert inside.status_code in statuses.get(path, {200}), "with a token it is let in"


def test_openapi_tells_the_errors(api: Api) -> None:
    document = api.send("GET", "/openapi.json")
    told = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert {(method, path) for method, path in told if path.startswith("/api/tunnels")} == {
        (method, "/api/tunnels" + path) for method, path, _body in [*CALLS, ("GET", "/metrics", None)]
    }, "no call is left untried above"
    for path, item in document["paths"].items():
        if path.startswith("/api/tunnels"):
            for method, call in item.items():
                assert {"200", "401", "403", "422"} <= set(call["responses"]), (method, path)
                schema = call["responses"]["422"]["content"]["application/json"]["schema"]
                assert schema["$ref"].endswith("/FieldProblems")
    assert {"400", "404", "409", "412"} <= set(document["paths"]["/api/tunnels/{tunnel_id}"]["put"]["responses"])
