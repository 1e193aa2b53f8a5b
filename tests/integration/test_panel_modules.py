# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules that record nodes and tunnels on the panel: each once by Ansible, and directly what it does then."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.support.faulty import Answer, Faulty, Request
from tests.support.panel_modules import Task, call, errors, nodes, own, quartet, run, start_over
from tests.support.world import World


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    return make_world()


@pytest.fixture(autouse=True)
def empty(world: World) -> None:
    start_over(world)


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
    check, apply = quartet(world, "node", options, "POST /api/node", f"PUT /api/node/{number}", way=run)
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
        ({"name": "nl-1"}, "address is required. The node does not exist yet"),
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
    (everything,) = run(world, [("node_info", {}, True)])
    single, none, bad = call(
        world,
        [
            ("node_info", {"name": "fi-1"}, False),
            ("node_info", {"name": "FI-1"}, False),
            ("node", {"name": "bad\u202ename", "state": "absent"}, False),
        ],
    )
    assert [node["name"] for node in everything["nodes"]] == ["de-1", "fi-1", "us-1", "bad\u202ename"]
    assert [node["address"] for node in single["nodes"]] == ["203.0.113.2"]
    assert none["nodes"] == []
    assert bad["changed"], "a broken node can be deleted"
    assert sorted(nodes(world)) == ["de-1", "fi-1", "us-1"]


# tunnel


def test_tunnel_is_created(world: World) -> None:
    config = {"mtu": 1380, "source": {"routes": ["192.168.1.0/24"]}, "colour": "red"}
    options = {"name": "de-fi", "source": "de-1", "target": str(nodes(world)["fi-1"]["id"]), "config": config}
    check, apply = quartet(world, "tunnel", options, "POST /api/tunnels", way=run)
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
    (result,) = call(world, [("tunnel", {"name": "de-fi", "config": {"dial": "both", "mtu": 1400}}, False)])
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
        ({"name": "de-fi", "source": "de-1"}, "target is required. The tunnel does not exist yet"),
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
    (result,) = call(world, [("tunnel", new, False)])
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
        (result,) = call(world, [("tunnel", {"name": "de-fi", "active": False}, False)], MARZBAN_URL=faulty.url)
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
            ("node_info", {}, False),
        ]
        actions: list[Task] = [
            ("tunnel_views", {"nodes": {"de-1": ""}}, False),
            ("tunnel_publish", {"keys": [{"uuid": "x", "node": "de-1", "public": {}}]}, False),
        ]
        *about_tunnels, nodes_only = call(world, tasks, MARZBAN_URL=faulty.url)
        about_tunnels += run(world, actions, MARZBAN_URL=faulty.url)
    for result in about_tunnels:
        assert result["failed"]
        assert "Use a panel that has the tunnels API" in result["msg"]
    assert len(nodes_only["nodes"]) == 3


# tunnel_info


def test_tunnel_is_renamed(world: World) -> None:
    record = world.tunnel("de-fi", "de-1", "fi-1", {"mtu": 1400})
    path = f"PUT /api/tunnels/{record['id']}"
    _check, apply = quartet(world, "tunnel", {"name": "de-fi", "new_name": "frankfurt"}, path)
    renamed = world.tunnels()["frankfurt"]
    assert apply["tunnel"]["name"] == "frankfurt"
    assert (renamed["uuid"], renamed["config"]) == (record["uuid"], record["config"])
    quartet(world, "tunnel", {"name": "frankfurt", "new_name": "Zu\u0308rich"}, path)
    assert "Z\u00fcrich" in world.tunnels()
    quartet(world, "tunnel", {"name": "Zu\u0308rich", "new_name": "frankfurt"}, path)
    world.tunnel("de-us", "de-1", "us-1")
    errors(
        world,
        "tunnel",
        ({"name": "frankfurt", "new_name": "de-us"}, "new_name: 'de-us' can't be used. Another tunnel has this name"),
        ({"name": "de-fi", "new_name": "de-nl"}, "The panel has no such tunnel to rename"),
        ({"name": "frankfurt", "new_name": "a\nb"}, "new_name: 'a\\nb'"),
    )


def test_tunnel_info(world: World) -> None:
    first = world.tunnel("de-fi", "de-1", "fi-1", {"mtu": 1400})
    world.tunnel("fi-us", "fi-1", "us-1")
    (everything,) = run(world, [("tunnel_info", {}, False)])
    tasks = [{"name": "de-fi"}, {"name": "DE-FI"}, {"id": first["id"]}, {"id": 999_999}]
    by_name, none, by_id, no_id = call(world, [("tunnel_info", options, False) for options in tasks])
    assert [tunnel["name"] for tunnel in everything["tunnels"]] == ["de-fi", "fi-us"]
    assert by_name["tunnels"] == by_id["tunnels"] == everything["tunnels"][:1]
    assert by_name["tunnels"][0]["config"] == {"mtu": 1400}
    assert none["tunnels"] == no_id["tunnels"] == []
    assert everything["panel"]
    (short,) = call(world, [("tunnel_info", {"only_ports": True}, False)])
    assert set(own(short)) == {"ports", "mapped_ports", "panel"}
    assert short["mapped_ports"] == {}
    listens: dict[str, list[int]] = {}
    for end in (end for tunnel in everything["tunnels"] for end in tunnel["ends"]):
        listens.setdefault(end["node"], []).append(end["port"])
    assert short["ports"] == {node: [f"{port}/udp" for port in sorted(its)] for node, its in listens.items()}


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
