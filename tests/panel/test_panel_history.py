# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The history of tunnels in simulated time, against a log of what was broken when."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, insert, select, update
from sqlalchemy.orm import Session

from marzban_tunnels import deletions, history
from marzban_tunnels import recorder as recorder_module
from marzban_tunnels.recorder import Recorder
from marzban_tunnels.standalone.tables import Node
from marzban_tunnels.sums import DAY, HOUR, KEPT, PERIOD, Row, combined
from marzban_tunnels.tables import CHANGES, SUMS, TUNNELS, Panel
from tests.support.history_world import BEGIN, ROLES, Simulated, seconds

BUSY = 3  # the machine may be


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Simulated]:
    made = Simulated(str(tmp_path / "panel.db"))
    yield made
    made.engine.dispose()


def read(world: Simulated, tunnel: int = 1) -> Any:
    with Session(world.engine) as session:
        return history.read(session, world.record(tunnel), world.now)


def spent(log: list[tuple[int, str]], start: int, end: int) -> dict[str, int]:
    """Seconds of each status between two moments, out of ``[(from, status)…]``."""
    found: dict[str, int] = {}
    for (at, status), (until, _) in zip(log, [*log[1:], (10**9, "")], strict=True):
        found[status] = found.get(status, 0) + max(0, min(until, end) - max(at, start))
    return found


def test_history_is_the_log(world: Simulated) -> None:
    """Broken at known moments, three hours long, with a run's pause in it in which nobody measures."""
    chance = random.Random(12)
    log: list[tuple[int, str]] = [(5, "active")]
    recorder = Recorder()
    world.go(recorder, 5)
    for status in ("error", "active", "connecting", "error", "active", "inactive", "active") * 3:
        at = log[-1][0] + chance.choice((3, 40, 299, 300, 611, 1307))
        while world.now < BEGIN + timedelta(seconds=at - 5):
            world.go(recorder, int((world.now - BEGIN).total_seconds()) + 5)
        world.now = BEGIN + timedelta(seconds=at)
        world.turn(recorder, 1, status, f"broken at {at}" if status == "error" else None)
        log.append((at, status))
    end = log[-1][0] - log[-1][0] % PERIOD + 2 * PERIOD + 90
    world.go(recorder, end)
    assert world.changes() == [(at, status, f"broken at {at}" if status == "error" else None) for at, status in log[1:]]
    rows = world.sums()
    for start in range(0, end - PERIOD, PERIOD):
        there = spent(log, start, start + PERIOD)
        up, down = there.get("active", 0), there.get("error", 0) + there.get("connecting", 0)
        row = rows.get(start)
        assert ((row.up, row.down) if row else (0, 0)) == (up, down), start
        assert row or there["inactive"] == PERIOD
    hours = world.sums(HOUR)
    assert len(hours) >= 2
    for start, row in hours.items():
        there = spent(log, start, start + HOUR)
        assert (row.up, row.down) == (there.get("active", 0), there.get("error", 0) + there.get("connecting", 0))
    answer = read(world)
    assert [change["status"] for change in answer["changes"]] == [status for _at, status in log[1:]]
    assert answer["day"]["rows"][0][0] == seconds(BEGIN)
    assert len(answer["month"]["rows"]) == end // HOUR + 1, "the open hour is made of its periods"
    assert answer["month"]["rows"][-1][1] == sum(
        row[1] for row in answer["day"]["rows"] if row[0] >= seconds(BEGIN) + end // HOUR * HOUR
    )


def test_what_is_measured(world: Simulated) -> None:
    recorder = Recorder()
    rtts, losses = [], []
    for count in range(65):  # up to 320 s: five seconds into the second period and more
        for role in ROLES:
            rtt, loss = 10.0 + count + (0.5 if role == "target" else 0), 10 if count % 2 else 0
            world.rtt[1, role], world.loss[1, role] = rtt, loss
            if 5 * count + 5 < PERIOD:
                rtts.append(rtt)
                losses.append(loss)
        # What the source sends is lost in part; its counters began again at the 20th sample
        sent = count * 1000 if count < 20 else (count - 20) * 1000 + 7
        world.counters[1, "source"], world.counters[1, "target"] = (0, sent), (count * 900, 50 * count)
        world.go(recorder, 5 * count + 5)
    world.go(recorder, 320 + 60)
    row = world.sums()[0]
    middle = sorted(rtts)
    assert row.rtt_us == round((middle[len(middle) // 2 - 1] + middle[len(middle) // 2]) / 2 * 1000)
    assert row.rtt_worst_us == round(max(rtts) * 1000)
    assert row.loss == round(sum(losses) / len(losses) * 100)
    assert row.samples == len(rtts)
    assert row.to_target == 19 * 1000 + 7 + 38 * 1000, "57 increases without the first sample, one of them from 0 again"
    assert row.to_source == 58 * 50
    assert read(world)["day"]["rows"][0][3:] == [
        row.rtt_us / 1000,
        row.rtt_worst_us / 1000,
        row.loss / 100,
        row.to_target,
        row.to_source,
    ]


def test_what_nobody_has_measured_is_neither_up_nor_down(world: Simulated) -> None:
    def silent(seconds: int) -> None:
        for _ in range(seconds):
            world.now += timedelta(seconds=1)
            recorder.step(world.step())

    recorder = Recorder()
    world.go(recorder, 60)
    silent(20)
    world.go(recorder, 125)  # the next sample comes after 25 s
    silent(22)
    world.stale.add(1)
    world.turn(recorder, 1, "connecting")
    silent(30)
    world.stale.clear()
    world.turn(recorder, 1, "active")
    while world.now < BEGIN + timedelta(seconds=420):
        world.go(recorder, int((world.now - BEGIN).total_seconds()) + 5)
    assert world.sums()[0].up == 300 - 5 - 25 - 30
    assert world.sums()[0].down == 0
    assert world.changes()[0][1] == "connecting"


def test_hours_are_made_of_their_periods() -> None:
    rows = [Row(300, 0, 60, 10_000, 30_000, 0, 5, None), Row(100, 50, 20, 20_000, 25_000, 400, 7, 3)]
    assert combined(rows, HOUR) == Row(400, 50, 80, 10_000, 30_000, 100, 12, 3)
    assert combined([Row(3000, 900, 2**31 - 1, None, None, None, None, None)] * 2, HOUR) == Row(
        3600, 0, 2**31 - 1, None, None, None, None, None
    )
    assert combined([Row(0, 0, 1, None, None, None, 2**63 - 1, 1)] * 2, HOUR).to_target == 2**63 - 1


def test_hostile_numbers_fit_into_their_columns(world: Simulated) -> None:
    recorder = Recorder()
    for count in range(15):
        for role in ROLES:
            world.rtt[1, role] = 2.0**62
            world.loss[1, role] = 100.0
            world.counters[1, role] = ((2**63 - 1) * (count % 2), 2**63 - 1)
        world.go(recorder, 5 * count + 5)
    row = world.sums()[0]
    assert (row.rtt_us, row.to_source, row.to_target) == (2**31 - 1, 2**63 - 1, 2**63 - 1)


def test_a_restart_in_a_period_loses_a_minute_at_most(world: Simulated) -> None:
    world.rtt[1, "source"] = 20.0
    first = Recorder()
    world.go(first, 150)  # written at 55 and 105
    world.now += timedelta(seconds=5)
    world.rtt[1, "source"] = 10.0
    world.go(Recorder(), 380)
    row = world.sums()[0]
    assert row.up == 100 + 140, "without what came after the last write, and the seconds in which nobody looked"
    assert row.rtt_us == 10_000
    assert row.rtt_worst_us == 20_000
    assert row.samples == 21 + 28


def test_a_status_that_nobody_has_seen_is_not_written(world: Simulated) -> None:
    """After a start the nodes were not asked yet, and the API says `connecting`."""
    world.stale.add(1)
    world.status[1] = "connecting"
    recorder = Recorder()
    for _ in range(3):
        recorder.step(world.step(told=[1]))
        world.now += timedelta(seconds=1)
    world.stale.clear()
    world.turn(recorder, 1, "active")
    assert world.changes() == []
    world.stale.add(1)
    world.status[1] = "connecting"
    recorder = Recorder()
    begun = int((world.now - BEGIN).total_seconds())
    for _ in range(70):
        recorder.step(world.step(told=[1]))
        world.now += timedelta(seconds=1)
    assert world.changes() == [(begun + 60, "connecting", None)], "its nodes do not answer"


def test_what_happened_while_the_panel_was_down(world: Simulated) -> None:
    world.go(Recorder(), 70)
    world.now += timedelta(hours=1)
    recorder = Recorder()
    world.status[1], world.error[1] = "error", "no answer\n" + "x" * 300
    world.go(recorder, 3600 + 70 + 70)
    assert [change[:2] for change in world.changes()] == [(3675, "error")]
    assert world.changes()[0][2] == ("no answer " + "x" * 300)[:200]
    assert set(world.sums()) == {0, 3600}


def test_two_writers_write_a_change_once(world: Simulated) -> None:
    """Two processes believe that they lead; a third one, an API call, was faster than both."""
    one, other = Recorder(), Recorder()
    for writer in (one, other):
        writer.step(world.step(measured=[1]))
    world.status[1] = "error"
    for writer in (one, other):
        writer.step(world.step(told=[1]))
    assert len(world.changes()) == 1
    with Session(world.engine) as session:
        history.write(session.execute, {1: history.Seen("inactive", None, world.now)}, decided=True)
        session.commit()
    for writer in (one, other):
        world.turn(writer, 1, "inactive")
    assert [status for _at, status, _error in world.changes()] == ["error", "inactive"]


def test_what_was_seen_before_a_call_is_not_written_after_it(world: Simulated) -> None:
    recorder = Recorder()
    world.go(recorder, 10)
    world.status[1] = "error"
    seen = world.step(told=[1])
    with Session(world.engine) as session:
        history.write(session.execute, {1: history.Seen("inactive", None, world.now)}, decided=True)
        session.commit()
    recorder.step(seen)
    world.turn(recorder, 1, "inactive")
    world.turn(recorder, 1, "active")
    assert [status for _at, status, _error in world.changes()] == ["inactive", "active"]


def test_who_has_lost_the_lease_writes_nothing(world: Simulated) -> None:
    recorder = Recorder()
    world.go(recorder, 50)
    with world.engine.begin() as connection:
        connection.execute(update(Panel).values(lease_holder="another"))
    world.status[1] = "error"
    recorder.step(world.step(told=[1]))
    world.go(recorder, 75)  # the feed does not know it yet
    recorder.step(world.step(leads=False))
    assert world.changes() == []
    assert world.sums() == {}


def test_it_does_not_wait_for_a_busy_database(world: Simulated, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    recorder = Recorder()
    world.go(recorder, 60)
    with closing(sqlite3.connect(world.engine.url.database or "", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        begun = time.monotonic()
        world.turn(recorder, 1, "error")
        world.go(recorder, 70)
        assert time.monotonic() - begun < 1 * BUSY, "three attempts"
        other.execute("ROLLBACK")
    assert len([line for line in caplog.records if "waits for the database" in line.getMessage()]) == 1
    world.go(recorder, 200)
    assert [change[:2] for change in world.changes()] == [(60, "error")], "since when it was seen"
    assert (world.sums()[0].up, world.sums()[0].down) == (55, 95)
    with world.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 60_000, "others still wait"


def test_nobody_reads_the_list_again_for_it(world: Simulated) -> None:
    def writes() -> Any:
        with world.engine.connect() as connection:
            return connection.scalar(select(Panel.writes))

    before, recorder = writes(), Recorder()
    world.go(recorder, 130)
    world.turn(recorder, 1, "error")
    assert world.changes()
    assert world.sums()
    assert writes() == before


def test_bounds_of_one_tunnel(world: Simulated, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    for count in range(2 * 103):
        world.now += timedelta(seconds=1)
        world.turn(recorder, 1, "active" if count % 2 else "error")
    assert len(world.changes()) == history.CHANGES_KEPT
    assert world.changes()[-1][0] == 206
    # Periods of more than a month, a deleted tunnel's too, and two of a time to come
    now = seconds(world.now)
    rows = [
        recorder_values(level, start, tunnel)
        for level, keep in KEPT.items()
        for start in range(now - now % level - keep - 3 * level, now + 2 * HOUR, level * 40)
        for tunnel in (1, 99)
    ]
    rows += [recorder_values(level, now - now % level - KEPT[level] - level, 1) for level in KEPT]
    with world.engine.begin() as connection:
        connection.execute(insert(SUMS), rows)
        connection.execute(insert(CHANGES).values(tunnel_id=99, number=1, at=BEGIN, status="error"))
    monkeypatch.setattr(recorder_module, "EVERY", 20)
    world.go(recorder, 206 + 5 * 250)
    answer = read(world)
    with world.engine.connect() as connection:
        left = connection.execute(select(SUMS.c.level, SUMS.c.start, SUMS.c.tunnel_id)).all()
    now = seconds(world.now)
    assert {row.tunnel_id for row in left} == {1}
    for level, keep in KEPT.items():
        of_level = [row.start for row in left if row.level == level]
        assert of_level
        assert min(of_level) >= now - now % level - keep
        assert max(of_level) <= now + HOUR
    assert world.count(CHANGES) == history.CHANGES_KEPT
    assert len(answer["day"]["rows"]) <= DAY // PERIOD + 1


def recorder_values(level: int, start: int, tunnel: int) -> dict[str, Any]:
    row = Row(level, 0, 1, 1, 1, 0, 1, 1)
    return {"level": level, "start": start, "tunnel_id": tunnel, **row._asdict()}


def test_a_deleted_tunnel_takes_its_changes_along(world: Simulated) -> None:
    writer = Recorder()
    world.go(writer, 70)
    world.turn(writer, 1, "error")
    with world.engine.begin() as connection:
        deletions.remove(connection.execute, Node.__table__, [1])  # type: ignore[arg-type]
    assert world.count(CHANGES) == 0


def test_a_clock_that_is_put_back(world: Simulated) -> None:
    writer = Recorder()
    world.go(writer, 700)
    world.now = BEGIN + timedelta(seconds=310)
    world.turn(writer, 1, "error")
    while world.now < BEGIN + timedelta(seconds=600):
        world.go(writer, int((world.now - BEGIN).total_seconds()) + 5)
    world.go(writer, 700)
    rows = world.sums()
    assert [change[:2] for change in world.changes()] == [(310, "error")]
    assert rows[0].up == 295, "as it was"
    assert rows[300].up + rows[300].down == PERIOD, "measured twice, and not longer than it is"
    assert (rows[600].up, rows[600].down) == (0, 60), "the second time; 40 s are not written yet"


def test_a_process_that_was_stopped_looks_again(world: Simulated) -> None:
    """Meanwhile another one has written the same period."""
    stopped, other = Recorder(), Recorder()
    world.go(stopped, 70)
    world.now += timedelta(seconds=5)
    world.go(other, 200)
    world.go(stopped, 290)
    world.go(stopped, 400)
    assert world.sums()[0].up == pytest.approx(285, abs=60), "a minute at most is lost"


def test_a_restored_database(world: Simulated, tmp_path: Path) -> None:
    """The panel goes on, and its database is suddenly one of before."""
    writer = Recorder()
    world.go(writer, 70)
    world.turn(writer, 1, "error", "first")
    with world.engine.begin() as connection:
        connection.execute(delete(CHANGES))
        connection.execute(update(TUNNELS).values(last_status="active", status_since=None, status_changes=0))
    world.go(writer, 200)
    assert [change[1:] for change in world.changes()] == [("error", "first")]


def test_since_is_told_only_of_the_status_that_was_written(world: Simulated) -> None:
    written: list[int] = []
    writer = Recorder(lambda: written.append(1))
    world.go(writer, 10)
    assert written == []
    world.turn(writer, 1, "error")
    assert written == [1]
    with world.engine.connect() as connection:
        row = connection.execute(select(TUNNELS)).one()
    assert (row.last_status, row.status_since, row.status_changes) == ("error", world.now, 1)


def test_an_unknown_status_has_no_since(world: Simulated) -> None:
    """As after an upgrade: nobody knows since when it is so."""
    with world.engine.begin() as connection:
        connection.execute(update(TUNNELS).values(last_status=None))
    writer = Recorder()
    world.go(writer, 10)
    assert world.changes() == []
    world.turn(writer, 1, "error")
    assert [change[1] for change in world.changes()] == ["error"]


def test_the_end_writes_what_is_not_written(world: Simulated) -> None:
    writer = Recorder()
    world.go(writer, 100)
    writer.end()
    assert world.sums()[0].up == 95
    writer.end()
    other = Recorder()
    world.go(other, 150)
    with world.engine.begin() as connection:
        connection.execute(update(Panel).values(lease_holder="another"))
    other.end()
    assert world.sums()[0].up == 95, "another process's manager works now"
