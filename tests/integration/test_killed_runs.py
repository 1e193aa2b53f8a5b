# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""A run that is killed at any moment, in the middle of changes, is repaired by one plain run."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.world import MESH, PATIENCE, TOP, World

pytestmark = [pytest.mark.lab, pytest.mark.variation]
CONFIG = "/etc/marzban/tunnels"
IDLE = (3, 11, 19)  # the seeds after which a second run is seen to change nothing


class Watch:
    """The world, and how many seconds its last plain run took."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.seconds = 0.0

    def plain(self) -> None:
        began = time.monotonic()
        self.world.apply("--diff").expect()
        self.seconds = time.monotonic() - began


@pytest.fixture(scope="module")
def watch(make_world: Callable[..., World]) -> Watch:
    watch = Watch(make_world(login=False, a="bookworm+tunnels", b="bookworm+tunnels", c="trixie+tunnels"))
    watch.world.mesh()
    watch.plain()
    return watch


def change(world: World, chance: random.Random) -> list[str]:
    """Changes some of the mesh's records, takes some private keys away, and says what was done."""
    there, done = world.tunnels(), []
    for name, source, target in MESH:
        if name not in there:
            world.tunnel(name, source, target, tunnel_type=name.partition("-")[2])
            done.append(f"{name} created")
            continue
        what = chance.choices(("left", "deleted", "mtu", "key", "stopped"), (4, 2, 2, 2, 1))[0]
        if what == "deleted":
            world.api("DELETE", f"/tunnels/{there[name]['id']}")
        elif what == "mtu":
            world.change(name, config={"mtu": chance.randrange(1280, 1380)})
        elif what == "key":
            host = world.lab.host(chance.choice((source, target)))
            # A tunnel that is stopped gets another one when it is started.
            host.run(f"rm -f {CONFIG}/{there[name]['uuid']}/private.key")
        elif what == "stopped":
            world.api("POST", f"/tunnels/{there[name]['id']}/{'de' if there[name]['is_active'] else ''}activate")
        if what != "left":
            done.append(f"{name} {what}")
    return done


def family(pid: int) -> list[int]:
    """A process, stopped so that it starts no other, and all below it: Ansible's workers lead sessions of their own."""
    try:
        os.kill(pid, signal.SIGSTOP)
        children = " ".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")).split()
    except (ProcessLookupError, FileNotFoundError):  # it has just ended
        return []
    return [pid, *(below for child in children for below in family(int(child)))]


def killed(world: World, seconds: float, all_of_it: bool) -> str | None:
    """Kills a run after so many seconds, alone (its workers end what they are at) or with all that it has started,
    and answers the task that was the last to end; None where it has ended by itself before."""
    record = world.directory / "killed.jsonl"
    record.write_text("")
    with subprocess.Popen(
        ["ansible-playbook", "-i", str(world.static()), "marzban.tunnels.apply"],
        env=world.environment(MARZBAN_TEST_RECORD=str(record)),
        cwd=TOP,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as run:
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.wait(seconds)
        if run.returncode is None:
            for pid in family(run.pid) if all_of_it else [-run.pid]:  # a negative one is a process group
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if run.wait(PATIENCE) != -signal.SIGKILL:
            return None
    lines = record.read_text().splitlines(keepends=True)
    ended = [json.loads(line) for line in lines if line.endswith("\n")]
    return f"{ended[-1]['task']} on {ended[-1]['host']}" if ended else "none"


@pytest.mark.parametrize("seed", range(20))
def test_one_run_repairs_what_a_killed_one_left(watch: Watch, seed: int) -> None:
    world, chance = watch.world, random.Random(seed)
    last = None
    while last is None:  # it may be quicker than the one before
        done = change(world, chance)
        moment = chance.uniform(0.1, 0.8) * watch.seconds
        last = killed(world, moment, all_of_it=seed % 2 == 0)
    print(f"{', '.join(done)}; killed after {moment:.1f} of {watch.seconds:.1f} s; the last task: {last}")

    watch.plain()
    records = world.tunnels()
    expected = {name: "active" if record["is_active"] else "inactive" for name, record in records.items()}
    assert {name: record["status"] for name, record in records.items()} == expected
    world.expect_traffic(*(item for item in MESH if expected.get(item[0]) == "active"))
    for host in "abc":
        mine = {records[name]["uuid"] for name, *ends in MESH if name in records and host in ends}
        assert set(world.lab.host(host).run(f"ls -d {CONFIG}/*/ | xargs -n 1 basename").stdout.split()) == mine
    if seed in IDLE:
        assert world.apply("--diff").expect().changed() == []
