# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Panels and lab hosts for the bench, and the commands that are timed there."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path

from tests.lab.lab import Lab
from tests.support import labs
from tests.support.panel import Panel
from tests.support.world import TOP, World, until

IMAGE = "bookworm+tunnels"
TIMEOUT = 900  # seconds: the longest command takes one minute on a quiet machine
Tunnels = Iterable[tuple[str, str, str]]  # source, target, type


def names(count: int) -> list[str]:
    """Names of hosts."""
    return [f"h{number}" for number in range(1, count + 1)]


def mesh(count: int, *kinds: str) -> list[tuple[str, str, str]]:
    """A tunnel between each two of so many hosts; the types take turns."""
    pairs = combinations(names(count), 2)
    return [(source, target, kinds[number % len(kinds)]) for number, (source, target) in enumerate(pairs)]


def ring(count: int) -> list[tuple[str, str, str]]:
    """A WireGuard tunnel from each of so many hosts to the next one, and from the last to the first."""
    hosts = names(count)
    return [(source, target, "wireguard") for source, target in zip(hosts, [*hosts[1:], hosts[0]], strict=True)]


@contextmanager
def bench_world(directory: Path, label: str, hosts: int, tunnels: Tunnels = ()) -> Iterator[World]:
    """A panel, and so many hosts with the packages on them, on which the tunnels have been applied."""
    with Panel.start(directory / f"panel-{label}") as panel:
        if not hosts:
            yield World(directory / f"panel-{label}", panel)
            return
        with Lab.up(labs.named(f"bench-{label}"), dict.fromkeys(names(hosts), IMAGE)) as lab:
            world = World(directory / f"panel-{label}", panel, lab)
            world.register()
            record(world, tunnels)
            until("a run that finds nothing to do", lambda: changes(apply(world)) == 0, seconds=300)
            yield world


def record(world: World, tunnels: Tunnels) -> None:
    """These tunnels on the panel, and no other one."""
    for tunnel in world.tunnels().values():
        world.api("DELETE", f"/tunnels/{tunnel['id']}")
    for number, (source, target, kind) in enumerate(tunnels, 1):
        world.tunnel(f"t{number}", source, target, tunnel_type=kind)


def ansible(world: World, *words: str, **env: str) -> str:
    """What an Ansible command prints; it has to succeed. Nothing of the tests listens to it."""
    plain = {name: value for name, value in world.environment(**env).items() if "_CALLBACK" not in name}
    done = subprocess.run(words, env=plain, cwd=TOP, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def ping(world: World) -> None:
    """Ansible's own floor: one small module on each host, from a static inventory."""
    ansible(world, "ansible", "-i", str(world.static()), "all", "-m", "ansible.builtin.ping")


def apply(world: World, *words: str, playbook: str = "apply") -> str:
    return ansible(world, "ansible-playbook", "-i", str(world.inventory), f"marzban.tunnels.{playbook}", *words)


def changes(printed: str) -> int:
    """How many tasks have changed something, on all hosts."""
    found = re.findall(r"\bchanged=(\d+)", printed)
    assert found, printed
    return sum(map(int, found))


def unchanged(world: World, *words: str) -> None:
    """A run with nothing to do."""
    printed = apply(world, *words)
    assert changes(printed) == 0, printed
