# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules that speak to the panel, run by ansible-playbook against an embedded panel over TLS.

What was sent is read from the panel's access log: check mode and an unchanged run send no write. All that a module
answers is held against what its RETURN says.
"""

from __future__ import annotations

import importlib
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.faulty import Answer, Faulty, Request, answer
from tests.integration.world import Run, World

KEY = "YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXoxMjM0NTY="
OTHER_KEY = "ZWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXoxMjM0NTY="
Task = tuple[str, dict[str, Any], bool]
KINDS: dict[str, Any] = {"str": str, "int": int, "float": (int, float), "bool": bool, "list": list, "dict": dict}
COMMON = {"changed", "diff", "exception", "failed", "invocation", "msg", "warnings"}  # what any module may answer


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    return make_world()


@pytest.fixture(autouse=True)
def empty(world: World) -> None:
    """Each test begins with three nodes and no tunnel."""
    for node in world.api("GET", "/nodes"):
        world.api("DELETE", f"/node/{node['id']}")
    for number, name in enumerate(("de-1", "fi-1", "us-1"), 1):
        body = {"name": name, "address": f"203.0.113.{number}", "add_as_new_host": False}
        world.api("POST", "/node", json=body)
    assert world.tunnels() == {}


def run(world: World, tasks: list[Task], *words: str, **env: str) -> list[dict[str, Any]]:
    """Results of the modules, in order; a failure is a result with ``failed``. Warnings fail the test."""
    return results_of(tasks, play(world, tasks, *words, **env).expect())


def play(world: World, tasks: list[Task], *words: str, **env: str) -> Run:
    """The modules get a token, which saves a login per task."""
    env = {"MARZBAN_TOKEN": str(world.session.headers["Authorization"]).split()[1], **env}
    one = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars": {"ansible_python_interpreter": "{{ ansible_playbook_python }}"},
        "tasks": [
            {f"marzban.tunnels.{module}": options, "check_mode": check, "diff": True, "ignore_errors": True}
            for module, options, check in tasks
        ],
    }
    return world.play([one], *words, inventory="localhost,", env=env)


def results_of(tasks: list[Task], done: Run) -> list[dict[str, Any]]:
    results = [dict(event["result"], failed=event["outcome"] == "failed") for event in done.events]
    assert len(results) == len(tasks), done.text
    for (module, _options, _check), result in zip(tasks, results, strict=True):
        is_documented(module, result)
    return results


def own(result: dict[str, Any]) -> dict[str, Any]:
    """What a module answers of its own."""
    return {key: value for key, value in result.items() if key not in COMMON and not key.startswith("_ansible_")}


def is_documented(module: str, result: dict[str, Any]) -> None:
    """The result and the module's RETURN say the same."""
    name = f"ansible_collections.marzban.tunnels.plugins.modules.{module}"
    docs = yaml.safe_load(importlib.import_module(name).RETURN)
    needed = {key for key, doc in docs.items() if not result["failed"] and doc["returned"].startswith("success")}
    answered = own(result)
    assert needed <= set(answered) <= set(docs), module
    for key, value in answered.items():
        fits(f"{module}.{key}", value, docs[key])


def fits(place: str, value: Any, doc: dict[str, Any]) -> None:
    """``value`` is what ``doc`` of a RETURN says, down to the last key. Anything may be null."""
    if value is None:
        return
    assert isinstance(value, KINDS[doc["type"]]), (place, value)
    assert isinstance(value, bool) == (doc["type"] == "bool"), (place, value)
    for one in value if isinstance(value, list) else [value]:
        if one is not value:
            assert isinstance(one, KINDS[doc["elements"]]), (place, one)
        inner = doc.get("contains")
        if inner is None:
            continue
        if set(inner) == {"inventory_hostname"}:  # which stands for the name of a host
            inner = dict.fromkeys(one, inner["inventory_hostname"])
        assert set(one) == set(inner), place
        for key, item in one.items():
            fits(f"{place}.{key}", item, inner[key])


def agree(predicted: Any, real: Any) -> None:
    """What check mode predicted has come. It can't know an id and a uuid that it gave as null, ends that it gave as an
    empty list, and how much time has passed."""
    if isinstance(real, dict):
        assert set(predicted) == set(real)
        known = {key for key in real if key != "age" and (predicted[key] or key not in ("id", "uuid", "ends"))}
        for key in known:
            agree(predicted[key], real[key])
    elif isinstance(real, list):
        for one, other in zip(predicted, real, strict=True):
            agree(one, other)
    else:
        assert predicted == real


def quartet(world: World, module: str, options: dict[str, Any], *writes: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """check, apply, check, apply: answers the first two results. The panel saw ``writes``, once."""
    before = len(world.panel.writes())
    check, apply, check_again, apply_again = run(
        world, [(module, options, check) for check in (True, False, True, False)]
    )
    for result in (check, apply, check_again, apply_again):
        assert not result["failed"], result
    assert [one["changed"] for one in (check, apply, check_again, apply_again)] == [True, True, False, False]
    assert world.panel.writes()[before:] == list(writes)
    assert check["diff"] == apply["diff"], "check mode and diff tell the truth"
    agree(own(check), own(apply))
    return check, apply


def errors(world: World, module: str, *cases: tuple[dict[str, Any], str]) -> None:
    """Each set of options fails with its text before anything is sent; every other one in check mode."""
    before = len(world.panel.writes())
    results = run(world, [(module, options, bool(number % 2)) for number, (options, _text) in enumerate(cases)])
    for (options, text), result in zip(cases, results, strict=True):
        assert result["failed"], (options, result)
        assert text in result["msg"], (options, result["msg"])
    assert world.panel.writes()[before:] == []


def nodes(world: World) -> dict[str, dict[str, Any]]:
    return {node["name"]: node for node in world.api("GET", "/nodes")}


# node


def test_node_is_created_with_all_its_fields(world: World) -> None:
    options = {
        "name": "nl-1",
        "address": "NL-1.example.com",
        "port": 62052,
        "usage_coefficient": 1.5,
        "status": "disabled",
    }
    number = max(node["id"] for node in nodes(world).values()) + 1
    check, apply = quartet(world, "node", options, "POST /api/node", f"PUT /api/node/{number}")
    node = nodes(world)["nl-1"]
    assert node["address"] == "nl-1.example.com"
    assert (node["port"], node["api_port"], node["usage_coefficient"]) == (62052, 62051, 1.5)
    assert node["status"] == "disabled"
    assert check["node"]["id"] is None
    assert apply["node"]["id"] == node["id"]


def test_node_left_out_is_left_alone(world: World) -> None:
    number = nodes(world)["de-1"]["id"]
    world.api("PUT", f"/node/{number}", json={"usage_coefficient": 2.5, "port": 777, "status": "disabled"})
    _check, apply = quartet(world, "node", {"name": "de-1", "address": "203.0.113.77"}, f"PUT /api/node/{number}")
    node = nodes(world)["de-1"]
    assert (node["address"], node["port"], node["usage_coefficient"]) == ("203.0.113.77", 777, 2.5)
    assert node["status"] == "disabled", "a change must not enable a disabled node"
    assert apply["diff"]["before"]["address"] == "203.0.113.1"
    assert apply["diff"]["after"]["address"] == "203.0.113.77"


def test_node_is_enabled_and_disabled(world: World) -> None:
    number = nodes(world)["de-1"]["id"]
    quartet(world, "node", {"name": "de-1", "status": "disabled"}, f"PUT /api/node/{number}")
    assert nodes(world)["de-1"]["status"] == "disabled"
    quartet(world, "node", {"name": "de-1", "status": "enabled"}, f"PUT /api/node/{number}")
    assert nodes(world)["de-1"]["status"] != "disabled"


def test_node_is_renamed_and_deleted(world: World) -> None:
    number = nodes(world)["de-1"]["id"]
    quartet(world, "node", {"name": "de-1", "new_name": "de-2"}, f"PUT /api/node/{number}")
    assert sorted(nodes(world)) == ["de-2", "fi-1", "us-1"]
    quartet(world, "node", {"name": "de-2", "state": "absent"}, f"DELETE /api/node/{number}")
    assert sorted(nodes(world)) == ["fi-1", "us-1"]


def test_node_names_are_case_sensitive(world: World) -> None:
    quartet(world, "node", {"name": "DE-1", "address": "203.0.113.9"}, "POST /api/node")
    assert sorted(nodes(world)) == ["DE-1", "de-1", "fi-1", "us-1"]


def test_node_refuses_before_it_sends(world: World) -> None:
    new = {"name": "nl-1", "address": "203.0.113.9"}
    errors(
        world,
        "node",
        ({"name": "nl-1"}, "address: None can't be used. The node is not there yet"),
        ({**new, "name": "localhost"}, "name: 'localhost' can't be used."),
        ({**new, "name": "marzban_nodes"}, "name: 'marzban_nodes'"),
        ({**new, "name": "a\nb"}, "name: 'a\\nb'"),
        ({**new, "address": " not a host "}, "address: ' not a host '"),
        ({**new, "address": "1.2.3.4:80"}, "address: '1.2.3.4:80'"),
        ({**new, "port": 99999}, "port: 99999"),
        ({**new, "api_port": -1}, "api_port: -1"),
        ({**new, "usage_coefficient": -1}, "usage_coefficient: -1.0"),
        ({**new, "usage_coefficient": 0}, "usage_coefficient: 0.0"),
        ({"name": "de-1", "new_name": "fi-1"}, "new_name: 'fi-1' can't be used. Another node has this name"),
        ({"name": "xx-1", "new_name": "yy-1"}, "The panel has no such node to rename"),
    )


def test_node_info(world: World) -> None:
    broken = {"name": "bad\u202ename", "address": " not a host ", "port": 99999, "add_as_new_host": False}
    world.api("POST", "/node", json=broken)
    everything, one, none, bad = run(
        world,
        [
            ("node_info", {}, True),
            ("node_info", {"name": "fi-1"}, False),
            ("node_info", {"name": "FI-1"}, False),
            ("node", {"name": "bad\u202ename", "state": "absent"}, False),
        ],
    )
    assert [node["name"] for node in everything["nodes"]] == ["de-1", "fi-1", "us-1", "bad\u202ename"]
    assert [node["address"] for node in one["nodes"]] == ["203.0.113.2"]
    assert none["nodes"] == []
    assert bad["changed"], "a broken node can be deleted"
    assert sorted(nodes(world)) == ["de-1", "fi-1", "us-1"]


# tunnel


def test_tunnel_is_created(world: World) -> None:
    config = {"mtu": 1380, "source": {"routes": ["192.168.1.0/24"]}, "colour": "red"}
    options = {"name": "de-fi", "source": "de-1", "target": str(nodes(world)["fi-1"]["id"]), "config": config}
    check, apply = quartet(world, "tunnel", options, "POST /api/tunnels")
    record = world.tunnels()["de-fi"]
    assert json.loads(record["config"]) == config
    assert (record["source_node_name"], record["target_node_name"]) == ("de-1", "fi-1")
    assert (record["tunnel_type"], record["is_active"]) == ("wireguard", True)
    assert apply["tunnel"]["uuid"] == record["uuid"]
    assert apply["tunnel"]["ends"][0]["routes"] == ["192.168.1.0/24"]
    assert (check["tunnel"]["id"], check["tunnel"]["ends"]) == (None, [])
    off = {"name": "off", "source": "de-1", "target": "us-1", "active": False}
    check, _apply = quartet(world, "tunnel", off, "POST /api/tunnels")
    assert check["tunnel"]["status"] == "inactive"


def test_tunnel_left_out_is_left_alone(world: World) -> None:
    record = world.tunnel("de-fi", "de-1", "fi-1", {"mtu": 1400})
    path = f"PUT /api/tunnels/{record['id']}"
    report = {"uuid": record["uuid"], "node": "de-1", "version": 1, "status": "active", "measured": {"rtt_ms": 0.5}}
    world.api("POST", "/tunnels/status", json={"reports": [report]})
    check, apply = quartet(world, "tunnel", {"name": "de-fi", "active": False}, path)
    assert json.loads(world.tunnels()["de-fi"]["config"]) == {"mtu": 1400}
    assert world.tunnels()["de-fi"]["is_active"] is False
    assert check["tunnel"]["version"] == apply["tunnel"]["version"] == 2
    assert check["tunnel"]["status"] == "inactive"
    assert [end["status"] for end in check["tunnel"]["ends"]] == [None, None]
    check, apply = quartet(world, "tunnel", {"name": "de-fi", "config": {"keepalive": 10}}, path)
    assert world.tunnels()["de-fi"]["is_active"] is False
    assert json.loads(world.tunnels()["de-fi"]["config"]) == {"keepalive": 10}
    assert (check["tunnel"]["id"], check["tunnel"]["ends"]) == (record["id"], [])
    quartet(world, "tunnel", {"name": "de-fi", "config": {}, "target": "us-1", "active": True}, path)
    assert world.tunnels()["de-fi"]["target_node_name"] == "us-1"


def test_tunnel_config_is_compared_by_meaning(world: World) -> None:
    record = world.tunnel("de-fi", "de-1", "fi-1")
    world.api("PUT", f"/tunnels/{record['id']}", json={"config": ' {"mtu":1400,\n"dial": "both"} '})
    before = len(world.panel.writes())
    (result,) = run(world, [("tunnel", {"name": "de-fi", "config": {"dial": "both", "mtu": 1400}}, False)])
    assert not result["changed"]
    assert world.panel.writes()[before:] == []


def test_tunnel_is_deleted(world: World) -> None:
    record = world.tunnel("de-fi", "de-1", "fi-1")
    quartet(world, "tunnel", {"name": "de-fi", "state": "absent"}, f"DELETE /api/tunnels/{record['id']}")
    assert world.tunnels() == {}


def test_tunnel_refuses_before_it_sends(world: World) -> None:
    world.tunnel("there", "de-1", "fi-1")
    new = {"name": "de-fi", "source": "de-1", "target": "fi-1"}
    errors(
        world,
        "tunnel",
        ({"name": "de-fi", "source": "de-1"}, "target: None can't be used. The tunnel is not there yet"),
        ({**new, "target": "xx-1"}, "target: 'xx-1' can't be used. The panel has no such node. Its nodes: 'de-1', "),
        ({**new, "target": "DE-1"}, "target: 'DE-1'"),
        ({**new, "target": "de-1"}, "target: 'de-1' can't be used. It is the source too"),
        ({"name": "there", "source": ""}, "source: '' can't be used. The panel has no such node."),
        ({"name": "there", "target": ""}, "target: '' can't be used. The panel has no such node."),
        ({**new, "source": "", "target": ""}, "source: '' can't be used. The panel has no such node."),
        ({"name": "there", "source": "fi-1"}, "Both ends would be this node"),
        ({**new, "name": "$(reboot)"}, "name: '$(reboot)'"),
        ({**new, "name": "x" * 300}, "name: 'xxx"),
        ({**new, "name": "a\u202eb"}, "name: 'a\\u202eb'"),
        ({**new, "config": {"mtu": "1400"}}, "config.mtu: '1400'"),
        ({**new, "config": {"source": {"port": 99999}}}, "config.source.port: 99999"),
        ({**new, "config": {"source": {"endpoint": "a;b"}}}, "config.source.endpoint: 'a;b'"),
        ({**new, "config": {"target": {"routes": ["0.0.0.0/0"]}}}, "config.target.routes[0]: '0.0.0.0/0'"),
        ({**new, "config": "none"}, "config"),
        ({**new, "type": "gre"}, "value of type must be one of: wireguard, openvpn, ipsec, got: gre"),
    )


def test_tunnel_tells_what_the_panel_refuses(world: World) -> None:
    world.tunnel("other", "de-1", "us-1", {"source": {"port": 21000}})
    new = {"name": "de-fi", "source": "de-1", "target": "fi-1", "config": {"source": {"port": 21000}}}
    (result,) = run(world, [("tunnel", new, False)])
    assert result["failed"]
    assert "answered 409" in result["msg"]
    assert "21000" in result["msg"]
    assert "other" in result["msg"]


def test_tunnel_does_not_overwrite_what_somebody_else_changed(world: World) -> None:
    record = world.tunnel("de-fi", "de-1", "fi-1")

    def somebody_else_first(request: Request) -> Answer:
        world.api("PUT", f"/tunnels/{record['id']}", json={"config": '{"mtu": 1300}'})
        return faulty.forward(request)

    with Faulty.before(world.panel) as faulty:
        faulty.on("PUT", "/api/tunnels/.*", somebody_else_first, times=1)
        (result,) = run(world, [("tunnel", {"name": "de-fi", "active": False}, False)], MARZBAN_URL=faulty.url)
    assert result["failed"]
    assert "412" in result["msg"]
    assert json.loads(world.tunnels()["de-fi"]["config"]) == {"mtu": 1300}
    assert world.tunnels()["de-fi"]["is_active"] is True


def test_a_panel_without_the_tunnels_api(world: World) -> None:
    with Faulty.before(world.panel) as faulty:
        faulty.lose_tunnels_api()
        tasks: list[Task] = [
            ("tunnel", {"name": "de-fi", "source": "de-1", "target": "fi-1"}, False),
            ("tunnel", {"name": "de-fi", "state": "absent"}, False),
            ("tunnel_info", {}, False),
            ("tunnel_info", {"id": 1}, False),
            ("tunnel_set", {"tunnels": [], "purge": True, "purge_all": True}, False),
            ("tunnel_views", {"nodes": {"de-1": ""}}, False),
            ("tunnel_publish", {"keys": [{"uuid": "x", "node": "de-1", "public": {}}]}, False),
            ("node_info", {}, False),
        ]
        *about_tunnels, nodes_only = run(world, tasks, MARZBAN_URL=faulty.url)
    for result in about_tunnels:
        assert result["failed"]
        assert "Use a panel that has the tunnels API" in result["msg"]
    assert len(nodes_only["nodes"]) == 3


# tunnel_info


def test_tunnel_info(world: World) -> None:
    first = world.tunnel("de-fi", "de-1", "fi-1", {"mtu": 1400})
    world.tunnel("fi-us", "fi-1", "us-1")
    tasks = [{}, {"name": "de-fi"}, {"name": "DE-FI"}, {"id": first["id"]}, {"id": 999_999}]
    everything, by_name, none, by_id, no_id = run(world, [("tunnel_info", options, False) for options in tasks])
    assert [tunnel["name"] for tunnel in everything["tunnels"]] == ["de-fi", "fi-us"]
    assert by_name["tunnels"] == by_id["tunnels"] == everything["tunnels"][:1]
    assert by_name["tunnels"][0]["config"] == {"mtu": 1400}
    assert none["tunnels"] == no_id["tunnels"] == []
    assert everything["panel"]


# tunnel_set

RING: list[dict[str, Any]] = [
    {"name": "de-fi", "source": "de-1", "target": "fi-1"},
    {"name": "fi-us", "source": "fi-1", "target": "us-1", "config": {"mtu": 1380}},
    {"name": "us-de", "source": "us-1", "target": "de-1", "active": False},
]


def test_tunnel_set(world: World) -> None:
    _check, apply = quartet(world, "tunnel_set", {"tunnels": RING}, *["POST /api/tunnels"] * 3)
    assert [(one["name"], one["change"]) for one in apply["tunnels"]] == [(one["name"], "created") for one in RING]
    ids = {name: record["id"] for name, record in world.tunnels().items()}
    fewer = [{**RING[1], "config": {}}, RING[2], {"name": "new", "source": "de-1", "target": "fi-1"}]
    writes = [f"DELETE /api/tunnels/{ids['de-fi']}", f"PUT /api/tunnels/{ids['fi-us']}", "POST /api/tunnels"]
    check, apply = quartet(world, "tunnel_set", {"tunnels": fewer, "purge": True}, *writes)
    changes = [("fi-us", "updated"), ("us-de", "unchanged"), ("new", "created"), ("de-fi", "deleted")]
    assert [(one["name"], one["change"]) for one in apply["tunnels"]] == changes
    assert [(one["name"], one["change"]) for one in check["tunnels"]] == changes
    assert sorted(world.tunnels()) == ["fi-us", "new", "us-de"]


def test_tunnel_set_asks_as_little_as_it_can(world: World) -> None:
    before = len(world.panel.log_lines())
    run(world, [("tunnel_set", {"tunnels": RING}, False)])
    asked = [f"{line['method']} {line['path']}" for line in world.panel.log_lines()[before:]]
    assert asked == ["GET /api/nodes", "GET /api/tunnels", *["POST /api/tunnels"] * 3]


def test_one_connection_and_one_login_serve_a_whole_call(world: World) -> None:
    with Faulty.before(world.panel) as faulty:
        run(world, [("tunnel_set", {"tunnels": RING}, False)], MARZBAN_URL=faulty.url, MARZBAN_TOKEN="")
    assert [one.path for one in faulty.requests] == [
        *("/api/admin/token", "/api/nodes", "/api/tunnels"),
        *["/api/tunnels"] * 3,
    ]
    assert len({one.client for one in faulty.requests}) == 1


def test_tunnel_set_does_not_purge_everything_by_mistake(world: World) -> None:
    world.tunnel("de-fi", "de-1", "fi-1")
    errors(world, "tunnel_set", ({"tunnels": [], "purge": True}, "say so with purge_all: true"))
    (kept,) = run(world, [("tunnel_set", {"tunnels": []}, False)])
    assert not kept["changed"]
    number = world.tunnels()["de-fi"]["id"]
    options = {"tunnels": [], "purge": True, "purge_all": True}
    quartet(world, "tunnel_set", options, f"DELETE /api/tunnels/{number}")


def test_tunnel_set_checks_all_before_the_first_write(world: World) -> None:
    errors(
        world,
        "tunnel_set",
        ({"tunnels": [*RING, {"name": "x", "source": "de-1"}]}, "tunnels[3].target: None"),
        ({"tunnels": [*RING, RING[0]]}, "tunnels[3].name: 'de-fi' can't be used. It stands in the list twice"),
        ({"tunnels": [*RING, {**RING[0], "name": "x", "config": {"dial": 5}}]}, "tunnels[3].config.dial: 5"),
        ({"tunnels": [*RING, {**RING[0], "name": "x", "source": "xx"}]}, "tunnels[3].source: 'xx'"),
        ({"tunnels": [*RING, {**RING[0], "name": "x", "source": ""}]}, "tunnels[3].source: ''"),
    )


def test_tunnel_set_goes_on_after_one_that_the_panel_refuses(world: World) -> None:
    port = {"source": {"port": 21000}}
    two = [{**RING[0], "config": port}, {"name": "clash", "source": "de-1", "target": "us-1", "config": port}, RING[1]]
    (result,) = run(world, [("tunnel_set", {"tunnels": two}, False)])
    assert result["failed"]
    assert result["changed"]
    assert [one["change"] for one in result["tunnels"]] == ["created", "failed", "created"]
    assert "1 of 3 failed. clash: " in result["msg"]
    assert sorted(world.tunnels()) == ["de-fi", "fi-us"]


# tunnel_views

NODES = {"host-a": "de-1", "fi-1": "", "host-c": "us-1", "host-d": "no-such-node"}


def test_tunnel_views(world: World) -> None:
    world.tunnel("de-fi", "de-1", "fi-1")
    world.tunnel("fi-us", "fi-1", "us-1")
    before = len(world.panel.writes())
    results = run(world, [("tunnel_views", {"nodes": NODES}, check) for check in (True, False)])
    assert world.panel.writes()[before:] == []
    assert results[0]["views"] == results[1]["views"]
    views = results[0]["views"]
    names = {host: [view["name"] for view in seen] for host, seen in views.items()}
    assert names == {"host-a": ["de-fi"], "fi-1": ["de-fi", "fi-us"], "host-c": ["fi-us"], "host-d": []}
    assert views["host-a"][0]["local"] == views["fi-1"][0]["peer"]
    assert results[0]["broken"] == []
    assert results[0]["gone"] == {}
    assert {view["panel"] for seen in views.values() for view in seen} == {results[0]["panel"]}


def test_tunnel_views_only_the_panels_own_word_makes_a_tunnel_gone(world: World) -> None:
    stays = world.tunnel("de-fi", "de-1", "fi-1")
    moved = world.tunnel("moves", "de-1", "fi-1")
    deleted = world.tunnel("goes", "de-1", "us-1")
    world.api("PUT", f"/tunnels/{moved['id']}", json={"source_node_id": nodes(world)["us-1"]["id"]})
    world.api("DELETE", f"/tunnels/{deleted['id']}")
    known = [{"id": one["id"], "uuid": one["uuid"]} for one in (stays, moved, deleted)]
    another = {"id": stays["id"], "uuid": "00000000-0000-4000-8000-000000000000"}
    options = {"nodes": NODES, "orphans": {"host-a": [*known, another], "host-c": []}}
    # A host that still goes by a name which its node has no more: there is no such node, so nothing ends elsewhere.
    former = {"nodes": {"host-a": "de-0"}, "orphans": {"host-a": known}}
    with Faulty.before(world.panel) as faulty:
        honest, renamed = run(world, [("tunnel_views", one, False) for one in (options, former)])
        faulty.lists_nothing()
        mistaken = run(world, [("tunnel_views", options, False)], MARZBAN_URL=faulty.url)
        faulty.behave()
        faulty.on("GET", "/api/tunnels/[0-9]+", answer(404, {"detail": "Not Found"}))
        no_api = run(world, [("tunnel_views", options, False)], MARZBAN_URL=faulty.url)
    gone = [moved["uuid"], deleted["uuid"], another["uuid"]]
    assert honest["gone"] == {"host-a": gone, "host-c": []}
    assert renamed["gone"] == {"host-a": [deleted["uuid"]]}
    assert mistaken[0]["gone"] == {"host-a": gone, "host-c": []}, "what exists is not gone, whatever the list says"
    assert no_api[0]["failed"]


def test_tunnel_views_a_compromised_node_spoils_its_own_part_only(world: World) -> None:
    gone = {"id": 999_999, "uuid": "00000000-0000-4000-8000-000000000000"}
    options = {"nodes": NODES, "orphans": {"host-a": [{"id": "x"}, 5, gone], "fi-1": "x", "host-c": [gone]}}
    ends = {
        role: {"endpoint": "203.0.113.1", "port": 20000, "addresses": [f"10.201.0.{n}/31"]}
        for n, role in enumerate(("source", "target"))
    }
    record = {"name": "t", "id": 1, "source": "de-1", "target": "fi-1", "config": ends}
    (first,) = run(world, [("tunnel_views", {"nodes": NODES, "records": [record]}, False)])
    uuid = first["views"]["fi-1"][0]["uuid"]
    told = {
        "host-a": [{"uuid": uuid, "public": 5}],
        "host-c": 5,
        "fi-1": [{"uuid": uuid, "public": {"public_key": KEY}}],
    }
    tasks: list[Task] = [
        ("tunnel_views", options, False),
        ("tunnel_views", {"nodes": NODES, "records": [record], "published": told}, False),
    ]
    done = play(world, tasks)
    asked, listed = results_of(tasks, done)
    assert asked["gone"] == {"host-a": [gone["uuid"]], "fi-1": [], "host-c": [gone["uuid"]]}
    assert listed["views"]["host-a"][0]["peer"]["public"] == {"public_key": KEY}
    assert listed["views"]["host-a"][0]["local"]["public"] is None
    for place in ("orphans[host-a].id: 'x'", "orphans[host-a]: 5", "orphans[fi-1]: 'x'"):
        assert any(f"Left out: {place} can't be used." in said for said in asked["warnings"])
    assert len(listed["warnings"]) == 2


def test_tunnel_views_never_gives_half_a_list(world: World) -> None:
    world.tunnel("de-fi", "de-1", "fi-1")
    with Faulty.before(world.panel) as faulty:
        faulty.one_page_then_fails()
        env = {"MARZBAN_URL": faulty.url, "MARZBAN_RETRIES": "1"}
        (result,) = run(world, [("tunnel_views", {"nodes": NODES}, False)], **env)
    assert result["failed"]
    assert "views" not in result
    assert faulty.seen("GET", "/api/tunnels") == 3


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("UPDATE tunnel_ends SET port = 99999 WHERE tunnel_id = ? AND role = 'source'", "source.port: 99999"),
        ("UPDATE tunnels SET name = 'x' || char(10) || 'PostUp = reboot' WHERE id = ?", "name: 'x\\nPostUp = reboot'"),
        ("UPDATE tunnels SET config = '[]' WHERE id = ?", "config: []"),
        ("UPDATE tunnel_ends SET interface = '../../x' WHERE tunnel_id = ?", "source.interface: '../../x'"),
    ],
)
def test_a_record_written_past_the_validation_stops_itself_only(world: World, statement: str, error: str) -> None:
    bad = world.tunnel("bad", "de-1", "fi-1")
    world.tunnel("good", "de-1", "fi-1")
    with sqlite3.connect(world.panel.database) as database:
        assert database.execute(statement, [bad["id"]]).rowcount
    database.close()
    (result,) = run(world, [("tunnel_views", {"nodes": NODES}, False)])
    assert [view["name"] for view in result["views"]["host-a"]] == ["good"]
    (broken,) = result["broken"]
    assert broken["uuid"] == bad["uuid"]
    assert broken["nodes"] == ["de-1", "fi-1"]
    assert broken["error"].startswith(error)


def test_tunnel_views_of_a_list_without_a_panel(world: World) -> None:
    def record(number: int, **more: Any) -> dict[str, Any]:
        ends = {
            role: {"endpoint": f"203.0.113.{n}", "port": 20000 + number, "addresses": [f"10.201.{number}.{n}/31"]}
            for n, role in enumerate(("source", "target"))
        }
        return {"name": f"t{number}", "id": number, "source": "de-1", "target": "fi-1", "config": ends, **more}

    env = {"MARZBAN_URL": "", "MARZBAN_PASSWORD": "", "MARZBAN_USERNAME": ""}
    (first,) = run(
        world, [("tunnel_views", {"nodes": NODES, "records": [record(1), record(2, active="x")]}, False)], **env
    )
    assert len(first["views"]["host-a"]) == 1
    assert "is_active: 'x'" in first["broken"][0]["error"]
    uuid = first["views"]["host-a"][0]["uuid"]
    options = {
        "nodes": NODES,
        "records": [record(1)],
        "published": {"host-a": [{"uuid": uuid, "public": {"public_key": KEY}, "status": "connecting"}], "fi-1": []},
        "orphans": {"fi-1": [{"id": 9, "uuid": "00000000-0000-4000-8000-000000000000"}, {"id": 1, "uuid": uuid}]},
    }
    merged, empty_list = run(
        world, [("tunnel_views", options, False), ("tunnel_views", {**options, "records": []}, False)], **env
    )
    assert merged["views"]["fi-1"][0]["peer"]["public"] == {"public_key": KEY}
    assert merged["gone"] == {"fi-1": ["00000000-0000-4000-8000-000000000000"]}
    assert empty_list["gone"] == {"fi-1": []}, "an empty list removes nothing"


# tunnel_publish and tunnel_report


def told(record: dict[str, Any], node: str, peer: str, **more: Any) -> dict[str, Any]:
    """One tunnel in an answer of tunnel_apply."""
    same = {key: record[key] for key in ("uuid", "id", "name", "version")}
    role = "source" if record["source_node_name"] == node else "target"
    base = {"type": "wireguard", "interface": "mz1", "node": node, "peer": peer, "role": role, "status": "connecting"}
    return {
        **same,
        **base,
        "error": None,
        "waiting_for": None,
        "public": None,
        "publish": False,
        "measured": None,
        **more,
    }


def test_tunnel_publish(world: World) -> None:
    record = world.tunnel("de-fi", "de-1", "fi-1")
    half = {"public": {"public_key": KEY}, "publish": True}
    results = {
        "host-a": {"tunnels": [told(record, "de-1", "fi-1", **half)]},
        "fi-1": {"tunnels": [told(record, "fi-1", "de-1", public={"public_key": OTHER_KEY}, publish=False)]},
        "host-c": {"msg": "skipped"},
        "host-d": {},
    }
    options = {"results": results, "nodes": NODES}
    check, apply = quartet(world, "tunnel_publish", options, "POST /api/tunnels/keys")
    assert check["updated"] == apply["updated"] == 1
    assert (
        check["published"]
        == apply["published"]
        == [{"uuid": record["uuid"], "node": "de-1", "public": {"public_key": KEY}}]
    )
    ends = {end["node"]: end["public"] for end in world.tunnels()["de-fi"]["ends"]}
    assert ends == {"de-1": {"public_key": KEY}, "fi-1": None}, "only what is flagged is published"
    keys = [{"uuid": record["uuid"], "node": "fi-1", "public": {"public_key": OTHER_KEY}}]
    quartet(world, "tunnel_publish", {"keys": keys}, "POST /api/tunnels/keys")


def test_tunnel_publish_takes_no_rubbish(world: World) -> None:
    record = world.tunnel("de-fi", "de-1", "fi-1")
    half = {"public": {"public_key": KEY, "private_key": "never"}, "publish": True}
    results = {
        "host-a": {"tunnels": [told(record, "fi-1", "de-1", **half)]},
        "host-c": {"tunnels": [5]},
        "host-d": {"tunnels": 5},
    }
    keys = [
        {"uuid": "00000000-0000-4000-8000-000000000000", "node": "de-1", "public": {"public_key": KEY}},
        {"uuid": record["uuid"], "node": "us-1", "public": {"public_key": KEY}},
        {"uuid": record["uuid"], "node": "de-1", "public": {"public_key": "short"}},
    ]
    before = len(world.panel.writes())
    tasks: list[Task] = [
        ("tunnel_publish", {"results": results, "nodes": NODES}, False),
        ("tunnel_publish", {"keys": keys}, False),
    ]
    done = play(world, tasks)
    assert done.code == 0, done.text
    compromised, rubbish = results_of(tasks, done)
    assert not compromised["changed"]
    assert [one["node"] for one in compromised["rejected"]] == ["fi-1", "us-1", "no-such-node"]
    assert "speaks for another node" in compromised["rejected"][0]["detail"]
    assert "never" not in json.dumps(own(compromised)), "what was refused may hold anything"
    assert len(rubbish["rejected"]) == 3
    assert done.text.count("[WARNING]: Not published for") == 6
    assert world.panel.writes()[before:] == []


def test_tunnel_report(world: World) -> None:
    first = world.tunnel("de-fi", "de-1", "fi-1")
    second = world.tunnel("de-us", "de-1", "us-1")
    third = world.tunnel("fi-us", "fi-1", "us-1")
    good = {"handshake_age": 5, "rx_bytes": 1480, "tx_bytes": 1480, "rtt_ms": 0.52, "loss_percent": 0}
    results = {
        "host-a": {
            "tunnels": [
                told(first, "de-1", "fi-1", status="active", measured=good),
                told(second, "de-1", "us-1", waiting_for="us-1"),
            ]
        },
        "fi-1": {
            "tunnels": [
                told(first, "fi-1", "de-1", status="active", measured={**good, "rtt_ms": 0.61}),
                told(third, "fi-1", "us-1", status="error", error="no\nanswer"),
            ]
        },
    }
    broken = [{"id": 9, "uuid": None, "name": "bad", "nodes": ["de-1", "fi-1"], "error": "name: 'x\\n'"}]
    options = {"results": results, "unreachable": ["host-c"], "broken": broken, "nodes": NODES}
    before = len(world.panel.writes())
    check, apply, silent = run(
        world,
        [
            ("tunnel_report", options, True),
            ("tunnel_report", options, False),
            ("tunnel_report", {**options, "post": False}, False),
        ],
    )
    assert world.panel.writes()[before:] == ["POST /api/tunnels/status"]
    assert [one["reported"] for one in (check, apply, silent)] == [0, 4, 0]
    assert not any(one["changed"] for one in (check, apply, silent))
    assert check["table"] == apply["table"] == silent["table"]
    assert apply["table"] == [
        "name   ends          type       status      handshake  rtt     loss  note",
        "de-fi  de-1 -> fi-1  wireguard  active      5 s        0.6 ms  0 %",
        "de-us  de-1 -> us-1  wireguard  connecting  -          -       -     us-1 is unreachable; waiting for us-1",
        "fi-us  fi-1 -> us-1  wireguard  error       -          -       -     us-1 is unreachable; fi-1: no answer",
        "bad    de-1 -> fi-1  -          broken      -          -       -     name: 'x\\n'",
    ]
    assert apply["problems"] == [
        "fi-us on fi-1: no answer",
        "bad: name: 'x\\n'",
        "us-1 could not be reached, or failed on the way: what is told of its ends comes from the others.",
    ]
    status = world.api("GET", f"/tunnels/{first['id']}/status")
    assert status["status"] == "active"
    assert [end["measured"]["rtt_ms"] for end in status["ends"]] == [0.52, 0.61]
    assert world.tunnels()["fi-us"]["status"] == "error"


def test_tunnel_report_tells_the_table_even_when_the_panel_is_gone(world: World) -> None:
    record = world.tunnel("de-fi", "de-1", "fi-1")
    old = {**record, "version": 7}
    results = {"host-a": {"tunnels": [told(old, "de-1", "fi-1"), told(old, "fi-1", "de-1", role="target"), {"x": 1}]}}
    with Faulty() as nobody:
        url = nobody.url
    rejected, gone = run(
        world,
        [
            ("tunnel_report", {"results": results, "nodes": NODES}, False),
            ("tunnel_report", {"results": results, "url": url, "retries": 0}, False),
        ],
    )
    assert not rejected["failed"]
    assert len(rejected["rejected"]) == 1, "a report about another version, and none for another node"
    assert len(rejected["problems"]) == 3
    assert gone["failed"]
    assert "The panel was not told" in gone["msg"]
    assert gone["table"][0].startswith("name ")


def test_check_mode_sends_no_write(world: World, tmp_path: Path) -> None:
    record = world.tunnel("de-fi", "de-1", "fi-1")
    (read,) = run(world, [("tunnel_views", {"nodes": NODES}, False)])
    half = {"public": {"public_key": KEY}, "publish": True}
    told_of = {"results": {"host-a": {"tunnels": [told(record, "de-1", "fi-1", **half)]}}, "nodes": NODES}
    seen = {"panel": read["panel"], "views": read["views"]["host-a"], "config_dir": str(tmp_path / "none")}
    tasks: list[tuple[str, dict[str, Any]]] = [
        ("node_info", {}),
        ("tunnel_info", {}),
        ("tunnel_info", {"id": record["id"]}),
        ("tunnel_health", seen),
        ("tunnel_publish", told_of),
        ("tunnel_report", told_of),
    ]
    before = len(world.panel.writes())
    checks = run(world, [(module, options, True) for module, options in tasks])
    assert world.panel.writes()[before:] == []
    applied = run(world, [(module, options, False) for module, options in tasks])
    assert world.panel.writes()[before:] == ["POST /api/tunnels/keys", "POST /api/tunnels/status"]
    assert [one["changed"] for one in checks] == [one["changed"] for one in applied] == [False] * 4 + [True, False]
    assert (checks[-1].pop("reported"), applied[-1].pop("reported")) == (0, 1)
    for (module, _options), check, apply in zip(tasks, checks, applied, strict=True):
        assert not check["failed"], check
        assert own(check) == own(apply), module
    assert checks[3]["tunnels"][0]["waiting_for"] == "fi-1"
    assert not (tmp_path / "none").exists()


# Secrets


def test_no_secret_is_shown(world: World) -> None:
    token = world.panel.token()
    tasks = [
        {"marzban.tunnels.node_info": {"password": world.panel.password, "token": token}},
        {"marzban.tunnels.node_info": {"password": "wr0ng-Passw0rd"}, "ignore_errors": True},
        {"marzban.tunnels.node_info": {"token": "wr0ng.t0ken", "password": "wr0ng-Passw0rd"}, "ignore_errors": True},
        {"marzban.tunnels.node_info": {"url": f"https://admin:{world.panel.password}@panel"}, "ignore_errors": True},
    ]
    play = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars": {"ansible_python_interpreter": "{{ ansible_playbook_python }}"},
        "tasks": tasks,
    }
    done = world.play([play], "-vvv", "--diff", inventory="localhost,").expect()
    text = done.text + json.dumps(done.events)
    for secret in (token, world.panel.password, "wr0ng-Passw0rd", "wr0ng.t0ken"):
        assert secret not in text
