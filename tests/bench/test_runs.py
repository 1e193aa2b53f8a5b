# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs cost on lab hosts. Nothing is asserted of the clock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.bench.rows import Table, ratio
from tests.bench.worlds import apply, bench_world, changes, mesh, ping, record, ring, unchanged
from tests.support.world import TYPES, World, until

pytestmark = pytest.mark.lab
HOSTS = 10
MANY = 200


@pytest.fixture(scope="module")
def world(directory: Path) -> Iterator[World]:
    """Ten hosts, a WireGuard tunnel between each two of them."""
    with bench_world(directory, "mesh", HOSTS, mesh(HOSTS, "wireguard")) as made:
        yield made


def test_mesh(world: World, table: Table) -> None:
    name = "nothing to change, full mesh of 45 WireGuard tunnels, 10 hosts ÷ ping"
    table.add(ratio(name, partial(unchanged, world), partial(ping, world), 2))


def test_status(world: World, table: Table) -> None:
    status = partial(apply, world, playbook="status")
    table.add(ratio("status, 10 hosts, full mesh ÷ ping", status, partial(ping, world), 1.6))


def fresh(world: World) -> None:
    """Hosts that never had a tunnel, and records that no run has seen; the connections to the hosts are open."""
    for host in world.lab.hosts.values():
        host.replace()
    record(world, mesh(HOSTS, "wireguard"))
    # The first call finds out that the connections to the old hosts are dead.
    hello = ("ansible", "-i", str(world.static()), "all", "-m", "ansible.builtin.ping")
    until("Ansible reaches the new hosts", lambda: world.command(*hello).returncode == 0)


def first(world: World) -> None:
    assert changes(apply(world)) >= HOSTS


def test_first(world: World, table: Table) -> None:
    name = "first run, packages there, 45 WireGuard tunnels, 10 hosts ÷ ping"
    table.add(ratio(name, partial(first, world), partial(ping, world), 8, prepare=partial(fresh, world)))


def test_types(world: World, directory: Path, table: Table) -> None:
    with bench_world(directory, "types", HOSTS, mesh(HOSTS, *TYPES)) as mixed:
        name = "nothing to change, mesh of 45 tunnels of all three types ÷ the same of WireGuard alone"
        table.add(ratio(name, partial(unchanged, mixed), partial(unchanged, world), 1.5))


@pytest.mark.parametrize("hosts", [10, 20, 40])
def test_ring(directory: Path, table: Table, hosts: int) -> None:
    with bench_world(directory, f"ring{hosts}", hosts, ring(hosts)) as made:
        name = f"nothing to change, ring of {hosts} hosts ÷ ping"
        table.add(ratio(name, partial(unchanged, made), partial(ping, made), 2))


def test_many(directory: Path, table: Table) -> None:
    pair = ("h1", "h2", "wireguard")
    with ExitStack() as stack:
        one = stack.enter_context(bench_world(directory, "one", 2, [pair]))
        many = stack.enter_context(bench_world(directory, "many", 2, [pair] * MANY))
        name = f"nothing to change, {MANY} WireGuard tunnels on one host ÷ 1 tunnel"
        table.add(ratio(name, partial(unchanged, many, "--limit", "h1"), partial(unchanged, one, "--limit", "h1"), 1.3))
