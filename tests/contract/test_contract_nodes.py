# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Contract: admins and nodes, as Marzban answers. Runs against any panel (see conftest)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.panel_api import Api

Maker = Callable[..., Any]


def test_token(api: Api) -> None:
    form = {"username": api.username, "password": api.password}
    answer = api.bare("POST", "/api/admin/token", data=form)
    assert answer.status_code == 200
    assert answer.json()["token_type"] == "bearer"
    assert set(answer.json()) == {"access_token", "token_type"}
    wrong = api.bare("POST", "/api/admin/token", data=form | {"password": "wrong"})
    assert (wrong.status_code, wrong.json()) == (401, {"detail": "Incorrect username or password"})
    as_json = api.bare("POST", "/api/admin/token", json=form)
    assert as_json.status_code == 422
    assert set(as_json.json()["detail"]) == {"username", "password"}


def test_current_admin(api: Api) -> None:
    admin = api.send("GET", "/api/admin")
    assert {
        "username": api.username,
        "is_sudo": True,
        "telegram_id": None,
        "discord_webhook": None,
    }.items() <= admin.items()
    assert "users_usage" in admin


def test_system(api: Api) -> None:
    system = api.send("GET", "/api/system")
    assert system["version"].count(".") == 2
    assert system["mem_total"] > 0


@pytest.mark.parametrize(
    "path", ["/api/nodes", "/api/nodes/usage", "/api/admin", "/api/system", "/api/node/settings", "/api/tunnels"]
)
def test_login_is_asked_for(api: Api, path: str) -> None:
    none = api.bare("GET", path, headers={"Authorization": None})
    assert (none.status_code, none.json()) == (401, {"detail": "Not authenticated"})
    bad = api.bare("GET", path, headers={"Authorization": "Bearer bad"})
    assert (bad.status_code, bad.json()) == (401, {"detail": "Could not validate credentials"})
    assert bad.headers["WWW-Authenticate"] == "Bearer"


def test_life_of_a_node(api: Api, make_node: Maker) -> None:
    node = make_node(address="198.51.100.7", usage_coefficient=2.5)
    assert node["status"] == "connecting"
    assert node["usage_coefficient"] == 1.0, "POST drops it"
    assert (node["port"], node["api_port"], node["xray_version"], node["message"]) == (62050, 62051, None, None)
    path = f"/api/node/{node['id']}"
    assert api.send("GET", path)["name"] == node["name"]
    assert node["name"] in [other["name"] for other in api.send("GET", "/api/nodes?limit=1&name=nobody")]

    changed = api.send("PUT", path, {"usage_coefficient": 2.5, "address": "198.51.100.8"})
    assert (changed["usage_coefficient"], changed["address"], changed["name"]) == (2.5, "198.51.100.8", node["name"])
    assert api.send("PUT", path, {"status": "disabled"})["status"] == "disabled"
    assert api.send("GET", path)["status"] == "disabled"
    assert api.send("PUT", path, {"address": None})["status"] == "connecting", "a PUT enables it again"
    assert api.send("POST", path + "/reconnect") == {"detail": "Reconnection task scheduled"}

    assert api.send("DELETE", path) == {}
    for method in ("GET", "PUT", "DELETE"):
        assert api.refused(method, path, {} if method == "PUT" else None, 404) == "Node not found"


def test_what_nodes_have_carried_for_users(api: Api, make_node: Maker) -> None:
    node = make_node()
    for period in ("", "?start=2026-01-01", "?start=2026-01-01T00:00:00&end=2026-01-02T00:00:00%2B02:00"):
        listed = api.send("GET", "/api/nodes/usage" + period)["usages"]
        assert {"node_id": node["id"], "node_name": node["name"], "uplink": 0, "downlink": 0} in listed
        assert (listed[0]["node_id"], listed[0]["node_name"]) == (None, "Master"), "the panel's own Xray"
    for wrong in ("?start=yesterday", "?end=2026-13-01", "?start=2026-01-02&end=2026-01-01"):
        assert isinstance(api.refused("GET", "/api/nodes/usage" + wrong, None, 400), str)


def test_names_of_nodes(api: Api, make_node: Maker) -> None:
    node = make_node()
    body = {"name": node["name"], "address": "x", "add_as_new_host": False}
    assert api.refused("POST", "/api/node", body, 409) == f'Node "{node["name"]}" already exists'
    assert make_node(name=node["name"].upper())["id"] != node["id"]


def test_nothing_is_validated_about_a_node(api: Api, make_node: Maker) -> None:
    make_node(name="")
    odd = make_node(name='"; rm -rf / #\n$(x)\u202e', address=" not a host ", port=99999, api_port=-1)
    assert odd in [node | {"status": "connecting"} for node in api.send("GET", "/api/nodes")]


def test_field_errors(api: Api) -> None:
    assert api.refused("POST", "/api/node", {"name": "x"}, 422) == {"address": "Field required"}
    assert set(api.refused("POST", "/api/node", {"name": 1, "address": "x", "port": "y"}, 422)) == {"name", "port"}
    assert set(api.refused("POST", "/api/node", {"name": "n", "address": "x", "usage_coefficient": 0}, 422)) == {
        "usage_coefficient"
    }
    assert set(api.refused("GET", "/api/node/one", None, 422)) == {"node_id"}
    broken = api.bare("POST", "/api/node", data='{"name":', headers={"Content-Type": "application/json"})
    assert (broken.status_code, broken.json()) == (422, {"detail": {"8": "JSON decode error"}})


def test_routes_and_methods(api: Api) -> None:
    missing = api.bare("GET", "/api/nothing")
    assert (missing.status_code, missing.json()) == (404, {"detail": "Not Found"})
    slash = api.bare("GET", "/api/nodes/")
    assert slash.status_code == 307
    assert slash.headers["Location"].endswith("/api/nodes")
    assert api.bare("HEAD", "/api/nodes").status_code == 405
    assert api.bare("PATCH", "/api/node/1", json={}).status_code == 405
    settings = api.send("GET", "/api/node/settings")
    assert settings["min_node_version"] == "v0.2.0"
    assert settings["certificate"].startswith("-----BEGIN CERTIFICATE-----")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_a_missing_node_comes_before_the_login(api: Api, method: str) -> None:
    answer = api.bare(
        method, "/api/node/2000000", headers={"Authorization": None}, json={} if method == "PUT" else None
    )
    assert (answer.status_code, answer.json()) == (404, {"detail": "Node not found"})
