# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs that reach only a part: --limit, a host that is off, a stale inventory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.world import MESH, TYPES, World, between, until

# What `--limit` leaves is in test_apply and test_playbooks as well: these are the long ways round.
pytestmark = [pytest.mark.lab, pytest.mark.variation]


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    return make_world(a="bookworm+tunnels", b="trixie+tunnels", c="bookworm+tunnels")


@pytest.fixture
def joined(world: World) -> None:
    world.bring_about(*MESH)


def statuses(world: World) -> dict[str, str]:
    return {name: tunnel["status"] for name, tunnel in world.tunnels().items()}


def stored(world: World) -> Path:
    """The inventory of this moment in a file, and a script that prints it: the form is that of inventory scripts."""
    listed = world.directory / "snapshot.json"
    saved = world.command("ansible-inventory", "-i", str(world.inventory), "--list", "--output", str(listed))
    assert saved.returncode == 0, saved.stderr
    script = world.directory / "snapshot"
    script.write_text(f"#!/bin/sh\nexec cat {listed}\n")
    script.chmod(0o755)
    return script


def test_one_node_after_the_other(world: World) -> None:
    """On a fresh panel each node is reached by a run of its own, and what waits says for whom."""
    world.bring_about()
    world.mesh()
    first = world.apply("--limit", "a", "--diff").expect()
    waiting = {tunnel["name"]: tunnel["waiting_for"] for tunnel in first.results("tunnel_apply", "a")[-1]["tunnels"]}
    assert waiting == {f"a{peer}-{kind}": peer for peer in "bc" for kind in TYPES}
    assert "waiting for b" in first.text
    assert "waiting for c" in first.text
    assert set(statuses(world).values()) == {"connecting"}

    second = world.apply("--limit", "b", "--diff").expect()
    assert "waiting for a" not in second.text
    assert "waiting for c" in second.text
    assert all(world.silent(*item) for item in between("ab"))
    third = world.apply("--limit", "c", "--diff").expect()
    for run in (first, second, third):
        assert run.results("tunnel_health") == [], "nothing can pass before the other end knows the key, which is new"

    # b and c know all keys of those before them; a and b learn the later ones now.
    world.apply("--limit", "a", "--diff").expect()
    world.expect_traffic(*between("ab"), *between("ac"))
    assert {name for name, status in statuses(world).items() if status != "active"} == {f"bc-{kind}" for kind in TYPES}
    world.apply("--limit", "b", "--diff").expect()
    world.expect_traffic(*MESH)
    # A pre-shared key is the one thing that waits for a run with both ends.
    both = world.apply("--diff").expect()
    for host in "abc":
        assert {name.partition("-")[2] for name in both.changes(host)} == {"wireguard"}
    assert world.apply("--diff").expect().changed() == []
    assert set(statuses(world).values()) == {"active"}


@pytest.mark.usefixtures("joined")
def test_a_limited_run_leaves_every_tunnel_of_every_node(world: World) -> None:
    for name in "abc":
        assert world.apply("--limit", name, "--diff").expect().changed() == []
        world.expect_traffic(*MESH)
    # A record that changed is applied at one end; the other follows with its own run, and works until then.
    world.change("ab-wireguard", config={"mtu": 1380})
    changed = world.apply("--limit", "a", "--diff").expect()
    assert changed.changes("a") == {
        "ab-wireguard": ["conf changed", "firewall rules loaded", "MTU 1380 instead of 1440"]
    }
    world.expect_traffic(*MESH)
    assert "ab-wireguard" in world.apply("--limit", "b", "--diff").expect().changes("b")
    world.expect_traffic(*MESH)
    assert world.apply("--diff").expect().changed() == []


@pytest.mark.usefixtures("joined")
def test_a_run_while_a_node_is_off(world: World) -> None:
    c = world.lab.host("c")
    c.stop()
    world.change("ab-wireguard", config={"mtu": 1400})
    world.tunnel("second", "a", "b")
    run = world.apply("--diff", env={"ANSIBLE_SSH_ARGS": "-o ConnectTimeout=3"})
    assert run.code == 4, run.text  # Ansible's own for hosts that can't be reached
    assert "c could not be reached" in run.text
    assert not run.of("a", ["failed"])
    assert not run.of("b", ["failed"])
    world.expect_traffic(*between("ab"), ("second", "a", "b"))
    assert statuses(world)["second"] == "active"

    c.start()
    world.expect_traffic(*MESH)
    assert world.apply("--diff").expect().changed() == []
    assert set(statuses(world).values()) == {"active"}


@pytest.mark.usefixtures("joined")
def test_an_inventory_of_yesterday(world: World) -> None:
    """AWX keeps the inventory as a snapshot: what is applied are the records of this moment all the same."""
    world.tunnel("second", "a", "b")
    world.apply().expect()
    snapshot = stored(world)
    world.change(
        "ab-wireguard", config={"source": {"addresses": ["10.7.0.0/31"]}, "target": {"addresses": ["10.7.0.1/31"]}}
    )
    world.api("DELETE", f"/tunnels/{world.tunnels()['second']['id']}")
    world.tunnel("third", "b", "c")
    stale = world.apply("--diff", inventory=snapshot).expect()
    assert [item["name"] for answer in stale.results("tunnel_apply", "a") for item in answer["removed"]] == ["second"]
    assert world.addresses("ab-wireguard", "b")[0] == "10.7.0.1"
    world.expect_traffic(*MESH, ("third", "b", "c"))
    assert world.apply("--diff").expect().changed() == [], "the live inventory gives another result than the snapshot"
    assert set(statuses(world).values()) == {"active"}


@pytest.mark.usefixtures("joined")
def test_a_snapshot_with_a_node_that_is_gone_from_the_panel(world: World) -> None:
    """A host that is not a node any more keeps what it has until somebody takes it off, and hurts nobody."""
    snapshot = stored(world)
    nodes = {node["name"]: node["id"] for node in world.api("GET", "/nodes")}
    world.api("DELETE", f"/node/{nodes['c']}")
    assert sorted(world.tunnels()) == sorted(f"ab-{kind}" for kind in TYPES)
    run = world.apply("--diff", inventory=snapshot).expect()
    removed = {
        name: sorted(item["name"] for answer in run.results("tunnel_apply", name) for item in answer["removed"])
        for name in "abc"
    }
    ac, bc = (sorted(name for name, _source, _target in between(pair)) for pair in ("ac", "bc"))
    assert removed == {"a": ac, "b": bc, "c": [*ac, *bc]}
    until("c has nothing of ours", lambda: "mz" not in world.lab.host("c").run("ip -o link").stdout)
    world.expect_traffic(*between("ab"))
    assert world.apply("--diff", inventory=snapshot).expect().changed() == []
