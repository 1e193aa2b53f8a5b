# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What records cost on the controller: reading ten thousand of them, and writing a thousand."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.bench.rows import Row, Table, ratio
from tests.bench.worlds import ansible, bench_world
from tests.support.panel import Panel, database
from tests.support.panel_api import key
from tests.support.world import TYPES, World

RECORDS = 10_000  # nodes, and as many tunnels: each is joined with the next one
NEW, LOOPED = 1_000, 100
REQUESTS = 12


@pytest.fixture
def world(directory: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    with bench_world(directory, request.node.name, 0) as made:
        yield made


def fill(panel: Panel, count: int) -> None:
    """Nodes and tunnels as the panel would hold them after a run, straight into the database: calls take minutes."""
    with database(panel) as connection:
        for number in range(1, count + 1):
            # Each node has two ends: of its own tunnel and of the tunnel of the one before it.
            kind, nodes = TYPES[number % 3], {"source": number, "target": number % count + 1}
            connection.execute(
                "INSERT INTO nodes (id, name, address, port, api_port, usage_coefficient, status, created_at)"
                " VALUES (?, ?, ?, 62050, 62051, 1, 'connected', datetime())",
                (number, f"node-{number:05}", f"203.0.{number // 250}.{number % 250 + 1}"),
            )
            connection.execute(
                "INSERT INTO tunnels (id, uuid, version, source_node_id, target_node_id, tunnel_type, name, config,"
                " is_active, created_at, updated_at) VALUES (?, ?, 1, ?, ?, ?, ?, '{}', 1, datetime(), datetime())",
                (number, f"00000000-0000-4000-8000-{number:012}", *nodes.values(), kind, f"tunnel-{number:05}"),
            )
            for place, (role, node) in enumerate(nodes.items()):
                connection.execute(
                    "INSERT INTO tunnel_ends (tunnel_id, role, node_id, port, interface, public, status, reported_at)"
                    " VALUES (?, ?, ?, ?, ?, ?, 'active', datetime())",
                    (number, role, node, 20000 + place, f"mz{number}", json.dumps(key(kind))),
                )
                for position, first in enumerate((ipaddress.ip_address("10.201.0.0"), ipaddress.ip_address("fd00::"))):
                    host = first + number * 2 + place
                    mapped = (0xFFFF << 32) * (host.version == 4)
                    ends = [f"{int(item) + mapped:032x}" for item in (host, host - place, host - place + 1)]
                    connection.execute(
                        "INSERT INTO tunnel_addresses (host, tunnel_id, role, position, address, first, last)"
                        " VALUES (?, ?, ?, ?, ?, ?, ?)",
                        (
                            ends[0],
                            number,
                            role,
                            position,
                            f"{host}/{host.max_prefixlen - 1}",
                            ends[1],
                            ends[2],
                        ),
                    )


def listed(world: World, inventory: Path) -> str:
    return ansible(world, "ansible-inventory", "-i", str(inventory), "--list")


def requests(world: World, inventory: Path) -> int:
    """How many requests a reading sends."""
    before = len(world.panel.log_lines())
    assert f"node-{RECORDS:05}" in listed(world, inventory)
    return len(world.panel.log_lines()) - before


def static(world: World, said: str) -> Path:
    """A file that gives what ``ansible-inventory --list`` has ``said``: in JSON, which Ansible reads fastest."""
    groups = json.loads(said, object_hook=lambda value: value.get("__ansible_unsafe", value))  # strings from the panel
    hosts = groups.pop("_meta")["hostvars"]
    del groups["all"]
    children = {name: {"hosts": dict.fromkeys(group["hosts"])} for name, group in groups.items()}
    path = world.directory / "static.json"
    path.write_text(json.dumps({"all": {"hosts": hosts, "children": children}}))
    return path


def test_inventory(world: World, table: Table) -> None:
    fill(world.panel, RECORDS)
    same = static(world, listed(world, world.inventory))
    assert same.read_text().count('"interface": "mz') == 2 * RECORDS
    name = f"inventory of {RECORDS:,} nodes and {RECORDS:,} tunnels"
    table.add(
        ratio(
            f"{name} ÷ a static file of the same",
            partial(listed, world, world.inventory),
            partial(listed, world, same),
            0.7,
        )
    )
    cached = world.directory / "cached.marzban.yml"
    cache = {
        "cache": True,
        "cache_plugin": "ansible.builtin.jsonfile",
        "cache_connection": str(world.directory / "cache"),
    }
    cached.write_text(json.dumps({"plugin": "marzban.tunnels.nodes", **cache}))
    table.add(Row(name, REQUESTS, [requests(world, cached)], "requests, cold cache"))
    table.add(Row(name, 0, [requests(world, cached)], "requests, warm cache"))


def tasks(world: World, name: str, task: dict[str, object]) -> partial[str]:
    """A playbook on the controller with this task alone."""
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": [task]}
    play["vars"] = {"ansible_python_interpreter": "{{ ansible_playbook_python }}"}
    path = world.directory / f"{name}.yml"
    path.write_text(json.dumps([play]))
    token = str(world.session.headers["Authorization"]).split()[1]
    return partial(ansible, world, "ansible-playbook", "-i", "localhost,", str(path), MARZBAN_TOKEN=token)


def forget(panel: Panel) -> None:
    """No tunnel on the panel."""
    with database(panel) as connection:
        for name in ("tunnel_addresses", "tunnel_ends", "tunnels"):
            connection.execute(f"DELETE FROM {name}")


def test_set(world: World, table: Table) -> None:
    node = [world.panel.add_node(name, f"203.0.113.{number}") for number, name in enumerate(("a", "b"), 1)]
    ends = {"source": "a", "target": "b"}
    declared = tasks(
        world,
        "set",
        {"marzban.tunnels.tunnel_set": {"tunnels": [{"name": f"s{number}", **ends} for number in range(NEW)]}},
    )
    body = {"source_node_id": node[0]["id"], "target_node_id": node[1]["id"], "tunnel_type": "wireguard"}
    looped = tasks(
        world,
        "loop",
        {
            "ansible.builtin.uri": {
                "url": f"{world.panel.url}/api/tunnels",
                "method": "POST",
                "ca_path": world.panel.ca_path,
                "headers": {"Authorization": "Bearer {{ lookup('env', 'MARZBAN_TOKEN') }}"},
                "body_format": "json",
                "body": {**body, "name": "u{{ item }}"},
            },
            "loop": list(range(LOOPED)),
            "loop_control": {"label": "{{ item }}"},
        },
    )
    name = f"tunnel_set of {NEW:,} new tunnels ÷ a loop of uri over {LOOPED}, per tunnel"
    table.add(ratio(name, declared, looped, 0.02, prepare=partial(forget, world.panel), share=LOOPED / NEW))
    assert len(world.tunnels()) == 1000  # a page of them; there are a hundred more
