# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""A database with tunnels, and steps of a feed that are made up: a simulated day takes no day."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Engine, event, func, insert, select

from marzban_tunnels.feed import Step
from marzban_tunnels.standalone.database import Database
from marzban_tunnels.standalone.tables import Node
from marzban_tunnels.tables import CHANGES, SUMS, TUNNELS, Panel

BEGIN = datetime(2026, 11, 22, 18, 0)
ROLES = ("source", "target")


def seconds(moment: datetime) -> int:
    return int(moment.replace(tzinfo=UTC).timestamp())


class Simulated:
    """Tunnels between simulated nodes. ``now`` is moved by hand; what an end measures is in ``rtt``, ``loss`` and
    ``counters``."""

    def __init__(self, where: str, tunnels: int = 1, nodes: int = 2) -> None:
        self.database = Database(where)
        self.database.upgrade()
        self.engine: Engine = self.database.engine
        self.now = BEGIN
        self.status = dict.fromkeys(range(1, tunnels + 1), "active")
        self.error: dict[int, str] = {}
        self.stale: set[int] = set()
        self.rtt: dict[tuple[int, str], float | None] = {}
        self.loss: dict[tuple[int, str], float | None] = {}
        self.counters: dict[tuple[int, str], tuple[int, int]] = {}  # received, sent
        self._records: dict[int, dict[str, Any]] = {}
        self._told: set[int] = set()
        with self.engine.begin() as connection:
            connection.execute(insert(Panel).values(id=1, uuid="u"))
            for number in range(1, nodes + 1):
                place = {"address": "203.0.113.1", "port": 1, "api_port": 2, "status": "connected"}
                connection.execute(insert(Node).values(id=number, name=f"n{number}", created_at=BEGIN, **place))
            rows = [self._row(number, nodes) for number in self.status]
            connection.execute(insert(TUNNELS), rows)

    def _row(self, number: int, nodes: int) -> dict[str, Any]:
        row = {"id": number, "uuid": f"u{number}", "source_node_id": 1 + number % nodes}
        row |= {"target_node_id": 1 + (number + 1) % nodes, "tunnel_type": "wireguard", "config": "{}"}
        return row | {"is_active": True, "created_at": BEGIN, "updated_at": BEGIN, "last_status": "active"}

    def record(self, number: int) -> dict[str, Any]:
        """A tunnel as the API answers it, as far as the history looks at it."""
        stale, status = number in self.stale, self.status[number]
        ends = []
        for role in ROLES:
            received, sent = self.counters.get((number, role), (None, None))
            measured = {"rtt_ms": self.rtt.get((number, role)), "loss_percent": self.loss.get((number, role))}
            measured |= {"rx_bytes": received, "tx_bytes": sent}
            told = {"role": role, "status": status, "error": self.error.get(number), "stale": stale, "age": 0}
            ends.append({**told, "measured": measured})
        told = {"id": number, "uuid": f"u{number}", "status": status, "since": None, "stale": stale}
        return {**told, "is_active": True, "ends": ends}

    def step(self, measured: Iterable[int] = (), told: Iterable[int] = (), leads: bool = True, **more: Any) -> Step:
        """The step of this moment."""
        measured, told = set(measured), set(told)
        for number in self.status if not self._records else measured | told:
            self._records[number] = self.record(number)
        ends = frozenset((number, role) for number in measured for role in ROLES)
        return Step(
            moment=self.now,
            records=dict(self._records),
            told=frozenset(told),
            measured=frozenset(measured),
            deleted=frozenset(),
            leads=leads,
            engine=self.engine,
            measured_ends=ends,
            **more,
        )

    def go(self, recorder: Any, until: int, every: int = 5) -> None:
        """All tunnels are measured each few seconds, until so many seconds after BEGIN."""
        while self.now < BEGIN + timedelta(seconds=until):
            self.now += timedelta(seconds=every)
            recorder.step(self.step(measured=self.status))

    def turn(self, recorder: Any, number: int, status: str, error: str | None = None) -> None:
        """A tunnel has another status now, and the feed says so at once."""
        self.status[number] = status
        self.error.pop(number, None)
        if error is not None:
            self.error[number] = error
        recorder.step(self.step(told=[number]))

    def sums(self, level: int = 300, tunnel: int = 1) -> dict[int, Any]:
        """The rows of a tunnel, by the seconds between BEGIN and their start."""
        with self.engine.connect() as connection:
            rows = connection.execute(select(SUMS).where(SUMS.c.level == level, SUMS.c.tunnel_id == tunnel)).all()
        return {row.start - seconds(BEGIN): row for row in rows}

    def changes(self, tunnel: int = 1) -> list[tuple[int, str, str | None]]:
        """``(seconds after BEGIN, status, error)`` of each change."""
        with self.engine.connect() as connection:
            query = select(CHANGES).where(CHANGES.c.tunnel_id == tunnel).order_by(CHANGES.c.number)
            rows = connection.execute(query).all()
        return [(int((row.at - BEGIN).total_seconds()), row.status, row.error) for row in rows]

    def count(self, table: Any) -> int:
        with self.engine.connect() as connection:
            return connection.scalar(select(func.count()).select_from(table)) or 0


@contextmanager
def write_times(engine: Engine) -> Iterator[list[float]]:
    """Seconds of each write transaction, from its first write until after the commit."""
    times: list[float] = []
    begun: dict[Any, float] = {}
    committed: set[Any] = set()

    def finish(raw: Any) -> None:
        if raw in begun:
            times.append(time.perf_counter() - begun.pop(raw))
        committed.discard(raw)

    def before(_connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if cursor.connection in committed:
            finish(cursor.connection)
        if statement.lstrip()[:6].upper() in ("INSERT", "UPDATE", "DELETE"):
            begun.setdefault(cursor.connection, time.perf_counter())

    hooks = (
        ("before_cursor_execute", before),
        ("commit", lambda connection: committed.add(connection.connection.dbapi_connection)),
        ("checkin", lambda raw, _record: finish(raw)),
    )
    for name, hook in hooks:
        event.listen(engine, name, hook)
    try:
        yield times
    finally:
        for name, hook in hooks:
            event.remove(engine, name, hook)
