# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The history of many tunnels in simulated time: what is written at once, how long it takes, and what it needs."""

from __future__ import annotations

import random
import time
from datetime import timedelta
from pathlib import Path
from statistics import median

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from marzban_tunnels import history
from marzban_tunnels import recorder as recorder_module
from marzban_tunnels.recorder import Recorder
from marzban_tunnels.sums import DAY, HOUR, PERIOD
from marzban_tunnels.tables import CHANGES, SUMS
from tests.support.history_world import BEGIN, ROLES, Simulated, write_times

BUSY = 3  # the machine may be


def test_many_tunnels_are_written_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One transaction with each step. The process ends while it makes an hour, and the next one goes on there."""
    monkeypatch.setattr(recorder_module, "_MOST", 3)
    monkeypatch.setattr(recorder_module, "_AT_ONCE", 2)
    world, writer = Simulated(str(tmp_path / "panel.db"), 7), Recorder()
    world.now = BEGIN + timedelta(seconds=HOUR - 200)
    with write_times(world.engine) as times:
        world.go(writer, HOUR - 145)
        for written in (3, 6, 7):
            assert (world.count(SUMS), len(times)) == (written, (written + 2) // 3)
            world.go(writer, int((world.now - BEGIN).total_seconds()) + 5)
        world.go(writer, HOUR - 100)
        world.status = dict.fromkeys(world.status, "error")
        begun = world.now
        for written in (3, 6, 7, 7):
            writer.step(world.step(told=world.status))
            assert world.count(CHANGES) == written
            world.now += timedelta(seconds=1)
    with world.engine.connect() as connection:
        assert {row.at for row in connection.execute(select(CHANGES))} == {begun}, "when it was seen"
    world.go(writer, HOUR)

    def hours() -> list[int]:
        return [tunnel for tunnel in world.status if world.sums(HOUR, tunnel)]

    while len(hours()) < 4:
        world.go(writer, int((world.now - BEGIN).total_seconds()) + 5)
    assert hours() == [1, 2, 3, 4]
    world.go(Recorder(), int((world.now - BEGIN).total_seconds()) + 100)
    assert hours() == list(world.status)
    for tunnel in world.status:
        row, periods = world.sums(HOUR, tunnel)[0], world.sums(PERIOD, tunnel)
        assert (row.up, row.down) == (periods[HOUR - 300].up, periods[HOUR - 300].down)
    world.engine.dispose()


@pytest.mark.variation
@pytest.mark.parametrize(("server", "hours"), [("sqlite", 24), ("mariadb", 3)])
def test_a_day_of_a_thousand_tunnels(tmp_path: Path, request: pytest.FixtureRequest, server: str, hours: int) -> None:
    """On a hundred simulated nodes, each tunnel measured every 20 s, a tenth of them with each step; now and then some
    break."""
    where = str(tmp_path / "panel.db")
    if server == "mariadb":
        where = request.getfixturevalue("mariadb").database("history")
    chance = random.Random(7)
    world, writer, steps = Simulated(where, 1000, 100), Recorder(), []
    with write_times(world.engine) as times:
        for count in range(hours * HOUR // 2):
            world.now += timedelta(seconds=2)
            told = set(chance.sample(range(1, 1001), 1 if count % 2 else 0))
            for tunnel in told:
                world.status[tunnel] = chance.choice(("active", "active", "error", "connecting"))
            if count % (HOUR // 2) == 900:  # all nodes are away at once, or there again
                world.status = dict.fromkeys(world.status, "error" if world.status[1] == "active" else "active")
                told = set(world.status)
            measured = range(1 + count % 10, 1001, 10)
            for tunnel in measured:
                sent = 1_234_567 * count
                for role in ROLES:
                    world.rtt[tunnel, role] = 5 + chance.random() * 40
                    world.counters[tunnel, role] = sent, sent
            step = world.step(measured=measured, told=told)
            begun, used = time.perf_counter(), time.thread_time()
            writer.step(step)
            steps.append((time.perf_counter() - begun, time.thread_time() - used))
        begun = time.monotonic()
        writer.end()
        assert time.monotonic() - begun < 1 * BUSY, "Feed.stop waits so long"
        print(f"{server}: the end took {time.monotonic() - begun:.2f} s")
    worst, rows = max(times), world.count(SUMS)
    print(f"{server}: {len(times)} writes, median {1000 * median(times):.1f} ms, longest {1000 * worst:.0f} ms")
    for name, of in zip(("by the clock", "of a processor"), zip(*steps, strict=True), strict=True):
        print(
            f"steps {name}: median {1000 * median(of):.1f} ms, worst {[round(1000 * it) for it in sorted(of)[-5:]]} ms"
        )
    print(f"{rows} sums, {world.count(CHANGES)} changes")
    assert rows >= 1000 * (hours * 12 + hours - 2)
    assert worst < 0.1 * BUSY
    assert max(used for _clock, used in steps) < 0.1 * BUSY, "events wait for it"
    assert sorted(steps)[-1 - len(steps) // 1000][0] < 0.1 * BUSY
    if server == "sqlite":
        with world.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").all()
        size = Path(where).stat().st_size
        print(f"{size / 1e6:.1f} MB")
        assert size < 20e6, "docs/performance.md tells it"
        begun = time.monotonic()
        with Session(world.engine) as session:
            answer = history.read(session, world.record(500), world.now)
        assert time.monotonic() - begun < 0.1 * BUSY
        assert len(answer["day"]["rows"]) >= DAY // PERIOD
    world.engine.dispose()
