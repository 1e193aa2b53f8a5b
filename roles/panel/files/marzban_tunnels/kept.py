# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""All tunnels as the API answers them, kept between two looks: rows are read again only where they have changed, and
answers are made again only where something may be different. Not for two threads at once."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Table, select
from sqlalchemy.orm import Session

from marzban_tunnels import responses
from marzban_tunnels.live import STALE_BY_SERVICE, Live
from marzban_tunnels.reading import Reader, Rows, one_moment
from marzban_tunnels.tables import ENDS, TUNNELS, Panel

Record = dict[str, Any]
_PAGE = 100  # tunnels in one query
# Answers that are made in a row (some 0.5 ms), and seconds until the next: Marzban's own thread gets its turn between
_AT_ONCE, _BREATH = 10, 0.0002
_AGAIN = 60.0  # seconds after which an answer is made again, whatever is known of it: its ages are not older than that
_MEASURED = ("measured", "age")  # of an end: what changes all the time
_STATES = select(
    TUNNELS.c.id, TUNNELS.c.version, TUNNELS.c.source_node_id, TUNNELS.c.target_node_id,
    TUNNELS.c.last_status, TUNNELS.c.status_since,
)  # fmt: skip
_ALL_ENDS = select(ENDS).order_by(ENDS.c.tunnel_id, ENDS.c.role)
_WRITES = select(Panel.writes).where(Panel.id == 1)


@dataclass
class Found:
    """What is another answer than before."""

    told: set[int] = field(default_factory=set)  # but for measurements and ages
    measured: set[tuple[int, str]] = field(default_factory=set)  # (tunnel, role): measured, or measured again
    deleted: set[int] = field(default_factory=set)
    failed: Exception | None = None  # one could not be made: its answer of before stays


class Kept:
    """``records`` has the answers by the tunnel's id; who reads them does not change them. ``pending`` are those that
    have to be made again."""

    def __init__(self, nodes: Table, clock: Callable[[], float] = time.monotonic) -> None:
        self.records: dict[int, Record] = {}
        self.pending: set[int] = set()
        self._clock = clock
        self._reader = Reader(nodes)
        self._called = select(nodes.c.id, nodes.c.name, nodes.c.address).order_by(nodes.c.id)
        self._rows: dict[int, Rows] = {}
        self._states: dict[int, tuple[Any, ...]] = {}
        self._ids: dict[str, int] = {}  # by uuid
        self._due: dict[int, float] = {}  # when an answer becomes another one by time alone
        self._at: dict[tuple[int, str], float] = {}  # when an end was measured

    def revision(self, session: Session) -> tuple[Any, ...]:
        """Another one after each write of ours, and when a node is called otherwise."""
        nodes = tuple(tuple(row) for row in session.execute(self._called))
        writes = session.scalar(_WRITES)
        session.rollback()
        return writes, nodes

    def read(self, session: Session, revision: tuple[Any, ...]) -> None:
        """Read what has changed; those tunnels are pending then. ``revision`` was read before."""
        called = {number: (name, address) for number, name, address in revision[1]}
        one_moment(session)
        tunnels = session.execute(_STATES).all()
        all_ends = session.execute(_ALL_ENDS).all()
        session.rollback()
        ends: dict[int, list[Any]] = defaultdict(list)
        for end in all_ends:
            ends[end.tunnel_id].append(end)
        changed = set(self._rows)
        missing: list[int] = []
        for row in tunnels:
            source, target = called.get(row.source_node_id), called.get(row.target_node_id)
            if source is None or target is None:  # a node goes away just now, and its tunnels with it
                continue
            known = self._rows.get(row.id)
            if known is None or self._states[row.id] != (_state(row), source, target):
                missing.append(row.id)
            elif known.ends != ends[row.id]:
                self._rows[row.id] = Rows(known.row, ends[row.id], known.addresses)
            else:
                changed.discard(row.id)
        self.pending |= changed.union(missing)  # now: a query may fail
        for start in range(0, len(missing), _PAGE):
            some = missing[start : start + _PAGE]
            for rows in self._reader.rows(session, TUNNELS.c.id.in_(some), limit=len(some)):
                row = rows.row
                names = (row.source_name, row.source_address), (row.target_name, row.target_address)
                self._rows[row.id], self._states[row.id] = rows, (_state(row), *names)
                self._ids[row.uuid] = row.id
        there = {row.id for row in tunnels if row.id in self._rows}
        for number in self._rows.keys() - there:
            del self._ids[self._rows.pop(number).row.uuid], self._states[number]

    def touch(self, uuids: Iterable[str]) -> None:
        """These are pending."""
        self.pending.update(self._ids[uuid] for uuid in uuids if uuid in self._ids)

    def make(self, moment: datetime, live: Live) -> Found:
        """Make again what is pending, and those whose answer may be another one by time alone."""
        now, found = self._clock(), Found()
        pending, self.pending = self.pending, set()
        pending.update(number for number, due in self._due.items() if due <= now)
        for count, number in enumerate(sorted(pending), 1):
            try:
                self._make(found, number, moment, live)
            except Exception as error:  # a mistake of ours, about one of them
                found.failed = error
                self._due[number] = now + _AGAIN
            if count % _AT_ONCE == 0:
                time.sleep(_BREATH)
        return found

    def _make(self, found: Found, number: int, moment: datetime, live: Live) -> None:
        before, rows = self.records.get(number), self._rows.get(number)
        if rows is not None:
            record = responses.tunnel(rows.row, rows.ends, rows.addresses, moment, live)
            self._compare(found, number, before, record)
            self.records[number] = record
        elif before is not None:
            self._forget(number, before)
            found.deleted.add(number)

    def _compare(self, found: Found, number: int, before: Record | None, record: Record) -> None:
        now = self._clock()
        self._due[number] = now + _lasts(record)
        if before is None or _differ(before, record):
            found.told.add(number)
        ends = {} if before is None else {end["role"]: end for end in before["ends"]}
        for end in record["ends"]:
            key, known = (number, end["role"]), ends.get(end["role"])
            at = -math.inf if end["age"] is None else now - end["age"]
            # Ages are whole seconds: one more than that is another measurement
            if end["age"] is not None and at > self._at.get(key, -math.inf) + 1.5:
                self._at[key] = at
                found.measured.add(key)
            elif known is not None and known["measured"] != end["measured"]:
                found.measured.add(key)

    def _forget(self, number: int, before: Record) -> None:
        del self.records[number]
        self._due.pop(number, None)
        for end in before["ends"]:
            self._at.pop((number, end["role"]), None)


def _state(row: Any) -> tuple[Any, ...]:
    """Another one when a tunnel's row is another one."""
    return row.version, row.last_status, row.status_since


def _differ(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two answers are different, but for measurements and ages."""
    if any(one[name] != other[name] for name in other if name != "ends") or len(one["ends"]) != len(other["ends"]):
        return True
    return any(
        here[name] != there[name]
        for here, there in zip(one["ends"], other["ends"], strict=True)
        for name in there
        if name not in _MEASURED
    )


def _lasts(record: Mapping[str, Any]) -> float:
    """Seconds in which this answer does not become another one by time alone."""
    left = _AGAIN
    served = any(end["by"] == responses.SERVICE for end in record["ends"])
    for end in record["ends"]:
        limits = [] if end["stale"] else [end["stale_after"]]
        limits += [STALE_BY_SERVICE] if served else []  # from then on it does not make a tunnel active
        left = min(
            [left, *(limit - end["age"] + 1 for limit in limits if end["age"] is not None and end["age"] <= limit)]
        )
    return max(1.0, left)
