# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Writes the history down while this process's manager works: changes of status when they are seen, sums once a minute.

What it writes is kept short, because Marzban's own writes wait for it on SQLite, and so is a step of it, because events
wait for that: whatever concerns many tunnels is done in pieces, one with each step of the feed. It does not wait for
the database either: what could not be written is written with the next attempt. Writing does not raise
``tunnel_panel.writes``, or everybody would read the whole list again.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Engine, delete, select, update
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from marzban_tunnels import history
from marzban_tunnels.feed import Step
from marzban_tunnels.sums import DAY, HOUR, KEPT, LONGEST, PERIOD, Period, Row, Track, combined, starts
from marzban_tunnels.tables import CHANGES, SUMS, TUNNELS, Panel

_log = logging.getLogger("uvicorn.error")  # the log that Marzban writes to
# Seconds between the beginnings of two writes of all sums. With those in which a thousand tunnels are written, it is a
# minute at most
EVERY = 50
# Seconds after which a tunnel whose ends have not answered is `connecting`: before, they may not have been asked yet
GRACE = 60
_LEASE = 30  # seconds in which a process surely learns that it does not have the lease any more
_MOST = 250  # rows in one transaction; tunnels, where it is about changes
_AT_ONCE = 50  # tunnels whose hour is made in one step, of twelve rows each
# Seconds between two transactions in a row: on SQLite, others meet a pause only by chance. See service.py
PAUSE = 0.05
_WAITING = 20  # sums of one tunnel that wait for a database that is away; then the oldest are lost
PATIENCE = 100  # milliseconds that a lock is waited for
_Key = tuple[int, int]  # when the period began, the tunnel
_PANEL = Panel.id == 1
_HOLDER = select(Panel.lease_holder).where(_PANEL)
_ROWS = select(SUMS.c.tunnel_id, *(SUMS.c[name] for name in Row._fields)).where(SUMS.c.level == PERIOD)


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
                if self._work is not None and self._work.is_before(now):
                    self._work.end()
                self._work = _Work(step.engine, now)
            if self._work.step(step, now):
                self._written()
        except _Lost:
            self._work, self._again = None, now + _LEASE
        except (DBAPIError, PoolTimeout) as error:
            if not 0 <= now - self._logged < EVERY:  # a full disk would say it each second
                self._logged = now
                _log.info("marzban_tunnels: the history waits for the database: %s", type(error).__name__)

    def end(self) -> None:
        """The panel ends, and no step follows: write what is not written yet."""
        work, self._work = self._work, None
        with suppress(_Lost, DBAPIError, PoolTimeout):
            if work is not None:
                work.end()


def seconds_of(moment: datetime) -> int:
    """Naive UTC as seconds since 1970."""
    return int(moment.replace(tzinfo=UTC).timestamp())


class _Work:
    """From the moment at which this process began to lead, while its clock goes on without a jump."""

    def __init__(self, engine: Engine, now: int) -> None:
        self._engine = engine
        with _connected(engine) as connection:
            self._holder = connection.scalar(_HOLDER)
            self._known = _known(connection)  # the status that was written last, by tunnel
            self._base = dict(_rows(connection, SUMS.c.start == now - now % PERIOD))
        self._begun = self._last = self._tried = now
        self._all = True  # whether to look at all tunnels
        # Tunnels that may have another status than the known one: which, and when it was seen first, where it could not
        # be written then
        self._doubtful: dict[int, history.Seen | None] = {}
        self._tracks: dict[int, Track] = {}
        self._over: dict[_Key, Row] = {}  # not written yet since the period is over
        self._due: list[_Key] = []  # what is to be written now
        self._others: Iterator[None] | None = None  # what is done beside it, one piece with each step
        self._built: set[int] = set()  # hours that were made, or that there is nothing of
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

    def end(self) -> None:
        """Write what is not written yet."""
        seen = {tunnel: seen for tunnel, seen in self._doubtful.items() if seen is not None}
        if seen:
            self._note(dict(islice(seen.items(), _MOST)))
        self._due = self._unwritten()
        while self._due:
            self._write()
            time.sleep(PAUSE if self._due else 0)

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
        seen = self._changes(step, now)
        written = bool(seen) and self._note(seen)
        if not self._due and not 0 <= now - self._tried < EVERY:
            self._tried, self._all = now, True
            with _connected(self._engine) as connection:
                self._known = _known(connection)  # a database may have been restored, and others write as well
            self._due, self._others = self._unwritten(), self._others or self._beside()
        if self._due:
            self._write()
        elif self._others is not None and next(self._others, True):
            self._others = None
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
            del self._over[next(iter(self._over))]

    def _unwritten(self) -> list[_Key]:
        tracks = self._tracks.items()
        return [*self._over, *((track.period.start, tunnel) for tunnel, track in tracks if track.changed)]

    def _row(self, start: int, tunnel: int) -> Row | None:
        """As it is now; None where it was written meanwhile, or the tunnel is deleted."""
        track = self._tracks.get(tunnel)
        if (row := self._over.get((start, tunnel))) is None and track is not None and track.period.start == start:
            row = track.period.row()
        return row

    def _write(self) -> None:
        """Some of what is due. Where that fails, nothing is due until it is the time for all again."""
        due, self._due = self._due, []
        rows = {key: row for key in due[:_MOST] if (row := self._row(*key)) is not None}
        self._store(PERIOD, rows)
        for key in rows:
            if self._over.pop(key, None) is None:
                self._tracks[key[1]].changed = False
        self._due = due[_MOST:]

    # changes of status

    def _changes(self, step: Step, now: int) -> dict[int, history.Seen]:
        """What may have to be written."""
        for tunnel_id in step.records if self._all else step.told:
            self._doubtful.setdefault(tunnel_id, None)
        self._all = False
        found: dict[int, history.Seen] = {}
        for tunnel_id, seen in list(self._doubtful.items()):
            record = step.records.get(tunnel_id)
            if record is None or record["status"] == self._known.get(tunnel_id):
                del self._doubtful[tunnel_id]
            elif record["stale"] and record["status"] != "inactive" and now < self._begun + GRACE:
                continue  # its nodes may not have been asked yet
            else:
                # Where it can't be written at once, it is still told since when it is so
                if seen is None or seen.status != record["status"]:
                    error = history.error_of(record["status"], record["ends"])
                    self._doubtful[tunnel_id] = seen = history.Seen(record["status"], error, step.moment)
                found[tunnel_id] = seen
        return dict(islice(found.items(), _MOST))

    def _note(self, seen: dict[int, history.Seen]) -> bool:
        def different(stored: Mapping[int, str | None]) -> dict[int, history.Seen]:
            # Where a call has written since (switched off, say), what was seen may be older: the next step says
            return {it: seen[it] for it, was in stored.items() if seen[it].status != was == self._known.get(it)}

        with _connected(self._engine) as connection:
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

    def _commit(self, connection: Connection, statement: Any, *values: list[dict[str, Any]]) -> None:
        connection.execute(statement, *values)
        self._check(connection)
        connection.commit()

    # once a minute

    def _store(self, level: int, rows: Mapping[_Key, Row]) -> None:
        values = [{"level": level, "start": key[0], "tunnel_id": key[1], **row._asdict()} for key, row in rows.items()]
        if values:
            with _connected(self._engine) as connection:
                self._commit(connection, _upsert(connection.dialect.name), values)

    def _beside(self) -> Iterator[None]:
        """All that is done beside writing sums. Each piece is short."""
        yield from self._hours()
        for level in KEPT:
            yield from self._old(level)
            yield from self._of_deleted(level)
        tunnel = CHANGES.c.tunnel_id
        self._swept = self._first(select(tunnel).where(tunnel > self._swept).order_by(tunnel)) or 0
        if self._swept and self._swept not in self._known:
            with _connected(self._engine) as connection:
                self._commit(connection, delete(CHANGES).where(tunnel == self._swept))

    def _hours(self) -> Iterator[None]:
        """The rows of hours that are over and not made yet, made of their periods; the newest hour first. There are
        older ones after a time in which the panel was down, or the database was away."""
        over = self._last - LONGEST  # samples of it may still come for a while
        last = over - over % HOUR - HOUR
        self._built = {hour for hour in self._built if hour >= last - DAY}
        for hour in range(last, last - DAY + HOUR, -HOUR):
            if hour not in self._built and not any(hour <= start < hour + HOUR for start, _tunnel in self._unwritten()):
                yield from self._hour(hour)
                self._built.add(hour)

    def _hour(self, hour: int) -> Iterator[None]:
        """One tunnel after the other, so that who goes on after a break sees where that was."""
        of_hour = SUMS.c.start.in_(range(hour, hour + HOUR, PERIOD))
        after = self._first(select(SUMS.c.tunnel_id).where(*_of(HOUR, hour)).order_by(SUMS.c.tunnel_id.desc())) or 0
        left = select(SUMS.c.start).where(SUMS.c.level == PERIOD, of_hour, SUMS.c.tunnel_id > after)
        tunnels = [] if self._first(left) is None else sorted(tunnel for tunnel in self._known if tunnel > after)
        yield
        for begin in range(0, len(tunnels), _AT_ONCE):
            some = tunnels[begin : begin + _AT_ONCE]
            periods: dict[int, list[Row]] = defaultdict(list)
            with _connected(self._engine) as connection:
                for tunnel, row in _rows(connection, of_hour, SUMS.c.tunnel_id.between(some[0], some[-1])):
                    periods[tunnel].append(row)
            self._store(HOUR, {(hour, tunnel): combined(rows, HOUR) for tunnel, rows in sorted(periods.items())})
            yield

    def _old(self, level: int) -> Iterator[None]:
        """Delete what is not kept any longer: the oldest period, where that is too old, and one that is still to come
        (the clock was wrong). Not more in one minute, so that a clock that is wrong for some minutes does not cost the
        history."""
        of_level = select(SUMS.c.start).where(SUMS.c.level == level)
        for query in (
            of_level.where(SUMS.c.start < starts(level, self._last)[0]).order_by(SUMS.c.start),
            of_level.where(SUMS.c.start > self._last + HOUR).order_by(SUMS.c.start.desc()),
        ):
            start = self._first(query)
            while start is not None:
                period = _of(level, start)
                last = self._first(select(SUMS.c.tunnel_id).where(*period).order_by(SUMS.c.tunnel_id).offset(_MOST - 1))
                with _connected(self._engine) as connection:
                    some = () if last is None else (SUMS.c.tunnel_id <= last,)
                    self._commit(connection, delete(SUMS).where(*period, *some))
                start = None if last is None else start
                yield

    def _of_deleted(self, level: int) -> Iterator[None]:
        """Delete rows of deleted tunnels: of one period after the other."""
        of_level = select(SUMS.c.start).where(SUMS.c.level == level, SUMS.c.start > self._sweep[level])
        start = self._first(of_level.order_by(SUMS.c.start))
        self._sweep[level] = start or 0
        while start is not None:
            period = _of(level, start)
            query = select(SUMS.c.tunnel_id).where(*period, SUMS.c.tunnel_id.not_in(select(TUNNELS.c.id))).limit(_MOST)
            with _connected(self._engine) as connection:
                deleted = connection.scalars(query).all()
                connection.rollback()
                if deleted:
                    self._commit(connection, delete(SUMS).where(*period, SUMS.c.tunnel_id.in_(deleted)))
            start = start if len(deleted) == _MOST else None
            yield

    def _first(self, query: Any) -> int | None:
        with _connected(self._engine) as connection:
            found: int | None = connection.scalar(query.limit(1))
            return found


def _known(connection: Connection) -> dict[int, str | None]:
    found = {row.id: row.last_status for row in connection.execute(select(TUNNELS.c.id, TUNNELS.c.last_status))}
    connection.rollback()
    return found


def _rows(connection: Connection, *where: Any) -> list[tuple[int, Row]]:
    """Periods of five minutes, with their tunnel."""
    rows = connection.execute(_ROWS.where(*where)).all()
    connection.rollback()  # a writer of SQLite waits for readers
    return [(row[0], Row(*row[1:])) for row in rows]


def _of(level: int, start: int) -> tuple[Any, Any]:
    return SUMS.c.level == level, SUMS.c.start == start


def _upsert(dialect: str) -> Any:
    """Insert rows, or replace what they were before. Each database has its own words for it."""
    statement: Any
    if dialect in ("mysql", "mariadb"):
        statement = mysql.insert(SUMS)
        return statement.on_duplicate_key_update({name: statement.inserted[name] for name in Row._fields})
    statement = (sqlite if dialect == "sqlite" else postgresql).insert(SUMS)
    new = {name: statement.excluded[name] for name in Row._fields}
    return statement.on_conflict_do_update(index_elements=list(SUMS.primary_key), set_=new)


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
