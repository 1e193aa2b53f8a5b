# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A panel that means harm: strings that are to break out of a configuration, to be templates, or to be the controller.

A proxy before a panel in order puts them into its answers. Whatever it says, nothing runs that it named, nothing is
written but what passed the checks, and the tunnels that it did not touch work.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.faulty import Answer, Faulty, Request
from tests.support.world import Run, World

pytestmark = pytest.mark.lab

OWNED = "/tmp/marzban-tunnels-hostile"  # what each of the strings would make
TEMPLATE = "{{ lookup('ansible.builtin.pipe', 'touch " + OWNED + "') }}"
STRINGS = {
    "template": TEMPLATE,
    "statement": "{% set x = lookup('ansible.builtin.pipe', 'touch " + OWNED + "') %}",
    "wg-quick": f"x\nPostUp = touch {OWNED}\n#",
    "shell": f"x$(touch {OWNED});`touch {OWNED}`|touch {OWNED}",
    "token": "@node.dir@",
    "folder": f"../../../../{OWNED}",
}
Change = Callable[[Any], None]


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    world = make_world(a="bookworm+tunnels", b="bookworm+tunnels")
    world.tunnel("good", "a", "b")
    for what in ("victim-1", "victim-2"):
        world.tunnel(what, "a", "b")
    return world


@pytest.fixture
def faulty(world: World) -> Iterator[Faulty]:
    with Faulty.before(world.panel) as proxy:
        yield proxy


def say(faulty: Faulty, path: str, change: Change) -> None:
    """From now on the proxy's answers to GET ``path`` are changed on their way."""

    def rule(request: Request) -> Answer:
        passed = faulty.forward(request)
        data = json.loads(passed.body)
        change(data)
        passed.body = json.dumps(data).encode()
        return passed

    faulty.on("GET", path, rule)


def spread(string: str, value: Any) -> Any:
    """``value`` with each text in it, at any depth, replaced by ``string``; numbers and truths stay."""
    if isinstance(value, dict):
        return {key: spread(string, item) for key, item in value.items()}
    if isinstance(value, list):
        return [spread(string, item) for item in value]
    return string if isinstance(value, str) or value is None else value


def each_field(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all texts in ``value``."""
    if isinstance(value, (dict, list)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from each_field(item, (*place, key))
    elif isinstance(value, str) or value is None:
        yield place


def expect_harmless(world: World, run: Run) -> None:
    assert world.lab is not None
    assert not Path(OWNED).exists(), "it ran on the controller"
    for name, host in world.lab.hosts.items():
        assert host.run(["ls", "-d", OWNED], check=False).returncode, f"it ran on {name}"
        written = host.run(
            "cat /etc/wireguard/*.conf /etc/marzban/tunnels/*/*.nft /etc/marzban/tunnels/*/state.json"
        ).stdout
        assert OWNED not in written
        assert "@" not in written
    world.expect_traffic(("good", "a", "b"))


def test_every_field_of_a_tunnel(world: World, faulty: Faulty) -> None:
    """For each string, one record for each text in a record, with the string in its place; and one full of it."""
    count: list[int] = []

    def change(tunnels: list[dict[str, Any]]) -> None:
        victim = next(tunnel for tunnel in tunnels if tunnel["name"] == "victim-1")
        number = first = max(tunnel["id"] for tunnel in tunnels)
        for string in STRINGS.values():
            for place in each_field(victim):
                number += 1
                copy = json.loads(json.dumps({**victim, "id": number}))
                holder = copy
                for key in place[:-1]:
                    holder = holder[key]
                holder[place[-1]] = string
                tunnels.append(copy)
            number += 1
            tunnels.append({**spread(string, victim), "id": number})
        count.append(number - first)  # a later round may have more fields to fill

    say(faulty, "/api/tunnels", change)
    run = world.apply("--diff", "-v", inventory=world.static(), env={"MARZBAN_URL": faulty.url, "MARZBAN_RETRIES": "0"})
    assert run.code == 2, run.text  # told at the end, after the others were applied
    broken = run.results("tunnel_round")[0]["broken"]
    assert count[0] > 20 * len(STRINGS)
    assert len(broken) == count[0], "all copies are refused: by their string, or as copies of the victim"
    for string in STRINGS.values():
        assert any(repr(string)[1:30] in item["error"] for item in broken), string
    expect_harmless(world, run)


FIELDS = ("name", "address", "status", "xray_version", "message")


def test_every_field_of_a_node(world: World, faulty: Faulty) -> None:
    """The inventory leaves the node out, or shows the string as it is: it never is a template."""
    nodes = world.api("GET", "/nodes")
    named = {(what, key): f"{what}-{key}" for what in STRINGS for key in FIELDS}

    def change(listed: list[dict[str, Any]]) -> None:
        for number, ((what, key), name) in enumerate(named.items(), 100):
            listed.append({**nodes[0], "id": number, "name": name, "address": "203.0.113.77", key: STRINGS[what]})

    say(faulty, "/api/nodes", change)
    env = {"MARZBAN_URL": faulty.url}
    listed = world.command("ansible-inventory", "-i", str(world.inventory), "--list", **env)
    assert listed.returncode == 0, listed.stderr
    hosts = json.loads(listed.stdout)["_meta"]["hostvars"]
    usable = {name for (_what, key), name in named.items() if key not in ("name", "address")}
    assert set(hosts) == {"a", "b"} | usable, "a node's name and address have to be in order"
    assert " ".join(listed.stderr.split()).count("is left out") == 2 * len(STRINGS)

    # A playbook that uses all of it shows text.
    shown = [name for (_what, key), name in named.items() if key == "message"]
    show = {
        "hosts": ",".join(shown),
        "gather_facts": False,
        "tasks": [
            {"ansible.builtin.debug": {"var": "marzban_node"}},
            {"ansible.builtin.debug": {"msg": "{{ marzban_node.message }} {{ marzban_node | to_json }}"}},
            {"ansible.builtin.set_fact": {"again": "{{ marzban_node.message }}"}},
            {"ansible.builtin.debug": {"msg": "{{ again }}"}},
        ],
    }
    run = world.play([show], env=env)
    assert run.code == 0, run.text
    for what, string in STRINGS.items():
        host = named[what, "message"]
        seen = next(
            event["result"] for event in run.events if event["host"] == host and "marzban_node" in event["result"]
        )
        assert seen["marzban_node"]["message"] == " ".join(string.split())
    assert not Path(OWNED).exists()


# What would be the controller


def test_a_node_is_never_the_controller_or_a_group(world: World, faulty: Faulty) -> None:
    names = ["localhost", "LOCALHOST", "127.0.0.1", "localhost.", "ip6-localhost", "all", "ungrouped", "marzban_nodes"]
    nodes = world.api("GET", "/nodes")
    say(faulty, "/api/nodes", lambda listed: listed.extend({**nodes[0], "id": 99, "name": name} for name in names))
    listed = world.command("ansible-inventory", "-i", str(world.inventory), "--list", MARZBAN_URL=faulty.url)
    assert listed.returncode == 0, listed.stderr
    data = json.loads(listed.stdout)
    assert set(data["_meta"]["hostvars"]) == {"a", "b"}
    assert set(data["marzban_nodes"]["hosts"]) == {"a", "b"}
    flat = " ".join(listed.stderr.split())
    for name in names:
        assert f"Node {name!r} (id 99) is left out: name: {name!r}" in flat
    assert flat.count("rename the node on the panel") == len(names)


@pytest.mark.parametrize("address", ["localhost"])
def test_what_is_delegated_to_the_controller_stays_there(world: World, faulty: Faulty, address: str) -> None:
    """A node with the controller's own address is left out: nothing runs here in its name."""
    nodes = world.api("GET", "/nodes")
    say(faulty, "/api/nodes", lambda listed: listed.append({**nodes[0], "id": 99, "name": "here", "address": address}))
    command = {
        "hosts": "here",
        "gather_facts": False,
        "tasks": [{"ansible.builtin.command": {"argv": ["touch", OWNED]}}],
    }
    run = world.play([command], env={"MARZBAN_URL": faulty.url})
    assert "Node 'here' is left out: address: 'localhost'" in " ".join(run.text.split())
    assert "skipping: no hosts matched" in run.text
    assert run.code == 0, "as docs/trouble.md says"
    assert not Path(OWNED).exists()
