# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the service consists of is killed in the middle of operations, and a run works beside the manager: at the end
records and nodes agree, and tunnels that nobody has touched have lost nothing."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import requests

from tests.support.service_hosts import MANAGED, agree, whole, with_service
from tests.support.world import PATIENCE, TYPES, Pings, Run, World, until

pytestmark = pytest.mark.lab
VICTIMS = ("front", "root half", "panel", "process", "node")
OPERATIONS = ("create", "change", "switch", "delete")
#: Nobody touches these, nor reboots their hosts.
STEADY = tuple((f"ab-{kind}", "a", "b") for kind in TYPES)
PAIRS = (("a", "c"), ("b", "c"))
LATEST = 1.5  # seconds from the call to the kill, at most
#: What a run says that has met the manager, about each tunnel that it could not bring about.
AGAIN = re.compile("(?<!of its record and )run again", re.IGNORECASE)


@dataclass(frozen=True)
class Act:
    """What is done to a tunnel. ``record``: as it was before; None: it was not there."""

    name: str
    kind: str
    record: dict[str, Any] | None
    do: Callable[[], object]


class Acting(threading.Thread):
    """A call that goes on while something is killed."""

    def __init__(self, act: Act) -> None:
        super().__init__()
        self._act = act
        self.error: requests.ConnectionError | None = None

    def run(self) -> None:
        try:
            self._act.do()
        except requests.ConnectionError as error:
            self.error = error


class Scene:
    """The world, what is done to it, and what its hosts were before."""

    def __init__(self, world: World) -> None:
        self.world = world
        for tunnel, source, target in STEADY:
            # A run would agree on a pre-shared key, which is a change of its files.
            world.tunnel(tunnel, source, target, {"post_quantum": "off"}, tunnel_type=tunnel.partition("-")[2])
        agree(world)
        self.before = {name: whole(host) for name, host in world.lab.hosts.items()}
        for kind in TYPES:
            world.tunnel(f"ac-{kind}", "a", "c", tunnel_type=kind)
        agree(world)

    def act(self, what: str, kind: str, chance: random.Random, ready: Callable[[World], None]) -> Act:
        """An operation on a tunnel of this type. Where there is none to do it with, one is made, or deleted, before."""
        world, there = self.world, self.world.tunnels()
        names = {f"{a}{c}-{kind}": (a, c) for a, c in PAIRS}
        missing, present = sorted(names.keys() - there.keys()), sorted(names.keys() & there.keys())
        if what == "create" and not missing:
            missing = [chance.choice(present)]
            world.api("DELETE", f"/tunnels/{there[missing[0]]['id']}")
            ready(world)
        elif what != "create" and not present:
            present = [chance.choice(missing)]
            world.tunnel(present[0], *names[present[0]], tunnel_type=kind)
            ready(world)
            there = world.tunnels()
        active = [name for name in present if there[name]["is_active"]]
        if what != "switch" and active:  # those that are off have nothing that can be killed
            present = active
        name = chance.choice(missing if what == "create" else present)
        if what == "create":
            return Act(name, kind, None, lambda: world.tunnel(name, *names[name], tunnel_type=kind))
        record, number = there[name], chance.randrange(1, 99)
        config = chance.choice((
            {"mtu": 1281 + number},
            {"keepalive": number},
            {"source": {"addresses": [f"10.77.{number}.1/30"]}, "target": {"addresses": [f"10.77.{number}.2/30"]}},
        ))  # fmt: skip
        turn = "deactivate" if record["is_active"] else "activate"
        does: dict[str, Callable[[], object]] = {
            "change": lambda: world.change(name, config=config),
            "switch": lambda: world.api("POST", f"/tunnels/{record['id']}/{turn}"),
            "delete": lambda: world.api("DELETE", f"/tunnels/{record['id']}"),
        }
        return Act(name, kind, record, does[what])

    def kill(self, victim: str, act: Act, chance: random.Random) -> str:
        """Kills it, and starts again what nobody else would; which one it was."""
        world = self.world
        if victim == "panel":
            world.panel.kill()
            world.panel.restart()
            return "panel"
        if victim == "node":
            host = world.lab.host("c")
            if chance.random() < 0.5:
                host.reboot()
                return "c rebooted"
            host.stop()
            host.start()
            return "c, its plug pulled"
        host = world.lab.host(chance.choice(act.name[:2]))
        unit = {"front": "marzban-node-front", "root half": "marzban-node-root"}.get(victim)
        if unit is None and act.kind == "ipsec":  # all IPsec tunnels of a host have one process
            host, unit = world.lab.host("c"), "strongswan"
        elif unit is None:
            record = act.record or until(f"{act.name} is recorded", lambda: world.tunnels().get(act.name))
            end = next(end for end in record["ends"] if end["node"] == host.name)
            unit = {"wireguard": "wg-quick@{}", "openvpn": "openvpn-*@{}"}[act.kind].format(end["interface"])
        # It ends well where none of these has a process yet, or any more.
        found = host.run(f"systemctl list-units --plain --no-legend '{unit}.service' | cut -d' ' -f1").stdout.split()
        host.run(f"systemctl kill --signal KILL '{unit}.service'", check=False)
        return f"{' '.join(found) or 'nothing'} on {host.name}"

    def killed(self, seed: int) -> None:
        """One operation, one kill in the middle of it, and both sides agree again."""
        chance = random.Random(seed)
        victim, kind = VICTIMS[seed % 5], TYPES[seed % 3]
        what = OPERATIONS[(seed % 5 + seed // 5) % 4]
        act = self.act(what, kind, chance, agree)
        moment = LATEST * chance.random() ** 2  # what is done is done early
        acting = Acting(act)
        acting.start()
        time.sleep(moment)
        killed = self.kill(victim, act, chance)
        acting.join(PATIENCE)
        # A call that was under way when the panel was killed has been done, or has not.
        assert acting.error is None or victim == "panel", acting.error
        begun = time.monotonic()
        print(f"seed {seed}: {what} {act.name}, after {moment:.2f} s {killed}", end="", flush=True)
        agree(self.world)
        print(f"; agreed {time.monotonic() - begun:.1f} s later")

    def nothing_leaked(self) -> None:
        """Without the tunnels of this file the hosts are as before them."""
        for name, record in self.world.tunnels().items():
            if name not in {steady[0] for steady in STEADY}:
                self.world.api("DELETE", f"/tunnels/{record['id']}")
        agree(self.world)
        for name, host in self.world.lab.hosts.items():
            assert whole(host) == self.before[name], name


@pytest.fixture(scope="module")
def scene(make_world: Callable[..., World]) -> Scene:
    hosts = {"a": "bookworm+tunnels", "b": "trixie+tunnels", "c": "bookworm+tunnels"}
    return Scene(with_service(make_world(login=False, env=MANAGED, **hosts)))


@pytest.fixture
def unharmed(scene: Scene) -> Iterator[None]:
    """Pings in the tunnels that nobody touches, every 10 ms: not one may be lost."""
    world = scene.world
    pings = {name: Pings(world.lab.host("a"), world.addresses(name, "b")[0], 0.01).start() for name, *_ends in STEADY}
    try:
        yield
    finally:
        lost = {name: pinging.stop() for name, pinging in pings.items()}
    print({name: len(pinging.answered()) for name, pinging in pings.items()}, "pings answered")
    assert not any(lost.values()), lost


@pytest.mark.variation  # the root half alone is killed in test_service_hosts.py
def test_killed_in_the_middle(scene: Scene, unharmed: None) -> None:
    for seed in range(50):
        scene.killed(seed)
    scene.nothing_leaked()


class Applying(threading.Thread):
    """A run that goes on while something else happens."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.done: Run | None = None

    def run(self) -> None:
        self.done = self.world.apply()


def said(event: dict[str, Any]) -> list[str]:
    """The lines of a task that failed."""
    return str(event["result"]["msg"]).splitlines()


@pytest.mark.variation  # what it has found has tests of its own
def test_a_run_and_the_manager_at_once(scene: Scene, unharmed: None) -> None:
    world = scene.world
    codes = []
    for seed in range(20):
        chance = random.Random(seed)
        applying, done = Applying(world), []
        applying.start()
        while applying.is_alive():
            what, kind = chance.choice(OPERATIONS), chance.choice(TYPES)
            act = scene.act(what, kind, chance, lambda _world: None)
            act.do()
            done.append(f"{what} {act.name}")
            applying.join(chance.uniform(0.2, LATEST))
        run = applying.done
        assert run is not None
        codes.append(run.code)
        print(f"seed {seed}: exit code {run.code} beside {', '.join(done)}")
        failed = [line for event in run.events if event["outcome"] == "failed" for line in said(event)]
        print(*failed, sep="\n")
        assert bool(failed) == bool(run.code), run.text
        assert all(AGAIN.search(line) for line in failed), run.text
        agree(world)
    print("exit codes:", codes)
    scene.nothing_leaked()
