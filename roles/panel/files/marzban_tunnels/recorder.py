# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Writes the history down while this process's manager works: changes of status when they are seen, sums once a minute.

What it writes is kept short, because Marzban's own writes wait for it on SQLite. It does not wait for the database
either: what could not be written is written with the next attempt. Writing does not raise ``tunnel_panel.writes``, or
everybody would read the whole list again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Engine, Table, delete, select, update
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from marzban_tunnels import history
from marzban_tunnels.feed import Step
from marzban_tunnels.sums import DAY, HOUR, KEPT, LONGEST, PERIOD, Period, Row, Track, combined, starts
from marzban_tunnels.tables import CHANGES, SUMS, TUNNELS, Panel

_log = logging.getLogger("uvicorn.error")  # the log that Marzban writes to
EVERY = 60  # seconds between two writes of sums
# Seconds after which a tunnel whose ends have not answered is `connecting`: before, they may not have been asked yet
GRACE = 60
_LEASE = 30  # seconds in which a process surely learns that it does not have the lease any more
_MOST_CHANGES = 500  # in one transaction
_MOST_ROWS = 1000  # in one transaction
# Seconds between two transactions in a row: on SQLite, others meet a pause only by chance. See service.py
PAUSE = 0.05
_LEAST_ROWS = 500  # that one attempt may write; or two periods of each tunnel
_BREATH = 0.002  # seconds between two reads of many rows: other threads get their turn
_WAITING = 20  # sums of one tunnel that wait for a database that is away; then the oldest are lost
PATIENCE = 100  # milliseconds that a lock is waited for
_Item = tuple[int, int, int, Row]  # level, start, tunnel
_PANEL = Panel.id == 1
_HOLDER = select(Panel.lease_holder).where(_PANEL)
_ANY = select(SUMS.c.start)
_ROW = [SUMS.c[name] for name in Row._fields]


class _Lost(Exception):
    """Another process's manager works with this database now."""


class Recorder:
    """A listener of the feed."""

    def __init__(self, written: Callable[[], object] = lambda: None) -> None:
        """``written`` is called when a change was written: answers have another ``since`` then."""
        self._work: _Work | None = None
        self._again = 0  # when it begins again, after another process had the lease
        self._written = written
        self._logged = -EVERY  # when the log said last that the database is away

    def step(self, step: Step) -> None:
        """A step of the feed. What fails because the database is busy is tried again with a later one."""
        now = seconds_of(step.moment)
        if not step.leads:
            self._work, self._again = None, 0
        if not step.leads or self._again - _LEASE <= now < self._again:
            return
        try:
            if self._work is None or not self._work.goes_on(now):
                with _connected(step.engine) as connection:
                    if self._work is not None and self._work.is_before(now):
                        self._work.end(connection)
                    self._work = _Work(connection, now)
            if self._work.step(step, now):
                self._written()
        except _Lost:
            self._work, self._again = None, now + _LEASE
        except (DBAPIError, PoolTimeout) as error:
            if not 0 <= now - self._logged < EVERY:  # a full disk would say it each second
                self._logged = now
                _log.info("marzban_tunnels: the history waits for the database: %s", type(error).__name__)


def seconds_of(moment: datetime) -> int:
    """Naive UTC as seconds since 1970."""
    return int(moment.replace(tzinfo=UTC).timestamp())


class _Work:
    """From the moment at which this process began to lead, while its clock goes on without a jump."""

    def __init__(self, connection: Connection, now: int) -> None:
        self._holder = connection.scalar(_HOLDER)
        self._known = _known(connection)  # the status that was written last, by tunnel
        self._base = dict(_rows_of(connection, PERIOD, now - now % PERIOD))
        self._begun = self._last = self._tried = now
        self._all = True  # whether to look at all tunnels
        # Tunnels that may have another status than the known one: which, and when it was seen first, where it could not
        # be written then
        self._doubtful: dict[int, history.Seen | None] = {}
        self._tracks: dict[int, Track] = {}
        self._over: dict[tuple[int, int], Row] = {}  # by (start, tunnel): not written yet since the period is over
        self._built: set[int] = set()  # hours that were made, or that there is nothing of
        self._begun_hour = 0  # one of which some rows may not be written yet
        # Where the search for rows of deleted tunnels is
        self._sweep, self._swept = dict.fromkeys(KEPT, 0), 0

    def goes_on(self, now: int) -> bool:
        """Whether this moment follows the last one. Another process may have written meanwhile, if this one was
        stopped; and where the clock was put back, there are sums of this period already."""
        return now - self._last <= LONGEST and not self.is_before(now)

    def is_before(self, now: int) -> bool:
        """Whether the clock was put back to an earlier period. What is measured twice then counts once, as it was the
        second time."""
        return now - now % PERIOD < self._last - self._last % PERIOD

    def end(self, connection: Connection) -> None:
        """Write what is not written yet."""
        self._store(connection, dict(sorted(self._unwritten().items())), [], [])

    def step(self, step: Step, now: int) -> bool:
        """Whether a change was written."""
        self._last = now
        for tunnel_id in step.deleted:
            self._tracks.pop(tunnel_id, None)
            self._doubtful.pop(tunnel_id, None)
        roles: dict[int, list[str]] = {tunnel_id: [] for tunnel_id in step.told}
        for tunnel_id, role in step.measured_ends:
            roles.setdefault(tunnel_id, []).append(role)
        for tunnel_id, ends in roles.items():
            if (record := step.records.get(tunnel_id)) is not None:
                self._take(tunnel_id, record, ends, now)
        due = not 0 <= now - self._tried < EVERY
        seen = self._changes(step, now)
        if not seen and not due:
            return False
        with _connected(step.engine) as connection:
            written = bool(seen) and self._note(connection, seen)
            if due:
                self._tried = now
                self._minute(connection, now)
        return written

    # samples

    def _take(self, tunnel_id: int, record: Mapping[str, Any], ends: Collection[str], now: int) -> None:
        track = self._tracks.get(tunnel_id)
        if track is None:
            start = now - now % PERIOD
            base = self._base.pop(tunnel_id, None) if start == self._begun - self._begun % PERIOD else None
            track = self._tracks[tunnel_id] = Track(Period(start, base))
        for period in track.take(record, ends, now):
            if (row := period.row()) is not None:
                self._over[period.start, tunnel_id] = row
        if len(self._over) > _WAITING * max(1, len(self._tracks)):
            del self._over[min(self._over)]

    def _unwritten(self) -> dict[tuple[int, int], Row]:
        rows = dict(self._over)
        for tunnel_id, track in self._tracks.items():
            if track.changed and (row := track.period.row()) is not None:
                rows[track.period.start, tunnel_id] = row
        return rows

    # changes of status

    def _changes(self, step: Step, now: int) -> dict[int, history.Seen]:
        """What may have to be written."""
        for tunnel_id in step.records if self._all else step.told:
            self._doubtful.setdefault(tunnel_id, None)
        self._all = False
        found: dict[int, history.Seen] = {}
        for tunnel_id, before in list(self._doubtful.items()):
            record = step.records.get(tunnel_id)
            if record is None or record["status"] == self._known.get(tunnel_id):
                del self._doubtful[tunnel_id]
            elif record["stale"] and record["status"] != "inactive" and now < self._begun + GRACE:
                continue  # its nodes may not have been asked yet
            elif len(found) < _MOST_CHANGES:
                seen = history.Seen(record["status"], history.error_of(record["status"], record["ends"]), step.moment)
                # Where it could not be written at once, it is still told since when it is so
                late = before is not None and before.status == seen.status
                self._doubtful[tunnel_id] = found[tunnel_id] = before if late and before is not None else seen
        return found

    def _note(self, connection: Connection, seen: dict[int, history.Seen]) -> bool:
        def different(stored: Mapping[int, str | None]) -> dict[int, history.Seen]:
            # Where a call has written since (switched off, say), what was seen may be older: the next step says
            return {it: seen[it] for it, was in stored.items() if seen[it].status != was == self._known.get(it)}

        stored = history.known(connection.execute, sorted(seen))
        connection.rollback()
        written = different(stored)
        if written:
            # The lock of the panel's row
            connection.execute(update(Panel).where(_PANEL).values(lease_beat=Panel.lease_beat))
            self._check(connection)
            stored = history.known(connection.execute, sorted(seen))
            written = different(stored)
            history.write(connection.execute, written)
            connection.commit()
        self._known |= stored | {tunnel: found.status for tunnel, found in written.items()}
        for tunnel in seen.keys() - (stored.keys() - written.keys()):  # the others are looked at again
            self._doubtful.pop(tunnel, None)
        return bool(written)

    def _check(self, connection: Connection) -> None:
        if connection.scalar(_HOLDER) != self._holder:
            connection.rollback()
            raise _Lost

    # once a minute

    def _minute(self, connection: Connection, now: int) -> None:
        """Sums, and beside them one thing more, so that no transaction becomes long."""
        self._known = _known(connection)  # a database may have been restored, and others write as well
        self._all = True
        rows = self._unwritten()
        some = dict(sorted(rows.items())[: max(_LEAST_ROWS, 2 * len(self._tracks))])
        hours = [] if self._over else self._hour(connection, now, rows)
        self._store(connection, some, hours, [] if self._over or hours else self._old(connection, now))

    def _store(
        self, connection: Connection, rows: Mapping[tuple[int, int], Row], hours: list[_Item], old: list[Any]
    ) -> None:
        """A transaction has so many rows at most that others do not wait long; most writes are one."""
        mine = [(PERIOD, start, tunnel, row) for (start, tunnel), row in rows.items()] + hours
        for begin in range(0, len(mine), _MOST_ROWS):
            some = mine[begin : begin + _MOST_ROWS]
            if begin:
                time.sleep(PAUSE)
            _upsert(connection, [_values(*item) for item in some])
            self._check(connection)
            connection.commit()
            for level, start, tunnel, _row in some:
                if level == PERIOD and self._over.pop((start, tunnel), None) is None:
                    self._tracks[tunnel].changed = False
        if hours:
            self._begun_hour = 0
        if old:
            for statement in old:
                connection.execute(statement)
            self._check(connection)
            connection.commit()

    def _hour(self, connection: Connection, now: int, waiting: Mapping[tuple[int, int], Row]) -> list[_Item]:
        """The rows of the newest hour that is over and not made yet, made of its periods. The others follow, one with
        each write: after a time in which the panel was down, or the database was away."""
        last = now - LONGEST - (now - LONGEST) % HOUR - HOUR  # samples of it may still come for a while
        self._built = {hour for hour in self._built if hour >= last - DAY}
        for hour in range(last, last - DAY + HOUR, -HOUR):
            if hour in self._built:
                continue
            if any(hour <= start < hour + HOUR for start, _tunnel in waiting):
                continue
            periods: dict[int, list[Row]] = {}
            if hour == self._begun_hour or connection.execute(_ANY.where(*_of(HOUR, hour)).limit(1)).first() is None:
                for start in range(hour, hour + HOUR, PERIOD):
                    for tunnel, row in _rows_of(connection, PERIOD, start):
                        periods.setdefault(tunnel, []).append(row)
                    time.sleep(_BREATH)
            if periods:
                self._begun_hour = hour
                return [(HOUR, hour, tunnel, combined(rows, HOUR)) for tunnel, rows in sorted(periods.items())]
            self._built.add(hour)
        connection.rollback()
        return []

    def _old(self, connection: Connection, now: int) -> list[Any]:
        """Statements that delete some of what is not kept any longer: of each level the oldest period, where that is
        too old, one that is still to come (the clock was wrong), and rows of deleted tunnels. So few that a clock that
        is wrong for some minutes does not cost the history, and that nobody waits for them."""
        statements: list[Any] = []
        start = SUMS.c.start
        for level in KEPT:
            of_level = _ANY.where(SUMS.c.level == level).limit(1)
            for found in (
                of_level.where(start < starts(level, now)[0]).order_by(start),
                of_level.where(start > now + HOUR).order_by(start.desc()),
            ):
                if (row := connection.execute(found).first()) is not None:
                    statements.append(delete(SUMS).where(*_of(level, row.start)))
            after = connection.execute(of_level.where(start > self._sweep[level]).order_by(start)).first()
            self._sweep[level] = 0 if after is None else after.start
            if after is not None:
                there = {tunnel for tunnel, _row in _rows_of(connection, level, after.start)}
                statements += _of_deleted(SUMS, there - self._known.keys(), *_of(level, after.start))
        tunnel = CHANGES.c.tunnel_id
        last = connection.scalar(select(tunnel).where(tunnel > self._swept).order_by(tunnel).limit(1))
        self._swept = last or 0
        statements += _of_deleted(CHANGES, {self._swept} - {0} - self._known.keys())
        connection.rollback()
        return statements


def _of_deleted(table: Table, tunnels: set[int], *where: Any) -> list[Any]:
    return [delete(table).where(*where, table.c.tunnel_id.in_(sorted(tunnels)))] if tunnels else []


def _of(level: int, start: int) -> tuple[Any, Any]:
    return SUMS.c.level == level, SUMS.c.start == start


def _known(connection: Connection) -> dict[int, str | None]:
    found = {row.id: row.last_status for row in connection.execute(select(TUNNELS.c.id, TUNNELS.c.last_status))}
    connection.rollback()
    return found


def _rows_of(connection: Connection, level: int, start: int) -> list[tuple[int, Row]]:
    """The rows of one period, by tunnel."""
    rows = connection.execute(select(SUMS.c.tunnel_id, *_ROW).where(*_of(level, start))).all()
    connection.rollback()  # a writer of SQLite waits for readers
    return [(row[0], Row(*row[1:])) for row in rows]


def _values(level: int, start: int, tunnel: int, row: Row) -> dict[str, Any]:
    return {"level": level, "start": start, "tunnel_id": tunnel, **row._asdict()}


def _upsert(connection: Connection, values: list[dict[str, Any]]) -> None:
    """Insert rows, or replace what they were before. Each database has its own words for it."""
    statement: Any
    if connection.dialect.name in ("mysql", "mariadb"):
        statement = mysql.insert(SUMS)
        statement = statement.on_duplicate_key_update({name: statement.inserted[name] for name in Row._fields})
    else:
        statement = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(SUMS)
        new = {name: statement.excluded[name] for name in Row._fields}
        statement = statement.on_conflict_do_update(index_elements=list(SUMS.primary_key), set_=new)
    connection.execute(statement, values)


@contextmanager
def _connected(engine: Engine) -> Iterator[Connection]:
    """A connection that does not wait long for a lock. MariaDB waits 1 s, which is its least."""
    with engine.connect() as connection:
        name = connection.dialect.name
        if name == "sqlite":
            usual = connection.exec_driver_sql("PRAGMA busy_timeout").scalar()
            words = f"PRAGMA busy_timeout = {PATIENCE}", f"PRAGMA busy_timeout = {usual}"
        elif name in ("mysql", "mariadb"):
            names = "SESSION innodb_lock_wait_timeout", "SESSION lock_wait_timeout"
            words = (
                "SET " + ", ".join(f"{it} = 1" for it in names),
                "SET " + ", ".join(f"{it} = DEFAULT" for it in names),
            )
        else:
            words = f"SET lock_timeout = {PATIENCE}", "SET lock_timeout = DEFAULT"
        connection.exec_driver_sql(words[0])
        connection.commit()
        try:
            yield connection
        finally:
            connection.rollback()
            connection.exec_driver_sql(words[1])
            connection.commit()
