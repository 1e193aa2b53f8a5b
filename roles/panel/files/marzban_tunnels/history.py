# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""When a tunnel's status became another one, and how it was: what is written of a change, and what is read of both.

A change is written once, by the first process or call that sees it, in one transaction with the tunnel's
``last_status``. All who write one hold the lock of the panel's row, so that nobody writes what another one has just
written.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import bindparam, delete, insert, select, update
from sqlalchemy.orm import Session

from marzban_tunnels import checks, responses
from marzban_tunnels.node_rows import Execute
from marzban_tunnels.sums import DAY, HOUR, PERIOD, Row, combined, starts
from marzban_tunnels.tables import CHANGES, SUMS, TUNNELS

CHANGES_KEPT = 200  # of each tunnel
LONGEST_ERROR = 200  # characters
COLUMNS = ("at", "up", "down", "rtt_ms", "rtt_worst_ms", "loss_percent", "to_target", "to_source")
_CHUNK = 500  # tunnels in one statement
# Made once, and over tables: see allocate.py
_KNOWN = select(TUNNELS.c.id, TUNNELS.c.last_status).where(TUNNELS.c.id.in_(bindparam("tunnels", expanding=True)))
_COUNTS = select(TUNNELS.c.id, TUNNELS.c.status_changes).where(TUNNELS.c.id.in_(bindparam("tunnels", expanding=True)))
_OLD = delete(CHANGES).where(CHANGES.c.tunnel_id == bindparam("tunnel"), CHANGES.c.number <= bindparam("last"))
_OF_ONE = select(CHANGES).where(CHANGES.c.tunnel_id == bindparam("tunnel")).order_by(CHANGES.c.number.desc())
_SUMS_OF_ONE = select(SUMS).where(
    SUMS.c.level == bindparam("level"),
    SUMS.c.start.in_(bindparam("starts", expanding=True)),
    SUMS.c.tunnel_id == bindparam("tunnel"),
)


class Seen(NamedTuple):
    """The status that a tunnel has, and since when."""

    status: str
    error: str | None
    at: datetime


def error_of(status: str, ends: Iterable[Mapping[str, Any]]) -> str | None:
    """Why a tunnel of this status, with these ends, is in error, as a change of its status has it."""
    failed = responses.failed_end(status, ends)
    return None if failed is None else checks.one_line(failed["error"], LONGEST_ERROR)


def known(execute: Execute, tunnel_ids: Sequence[int]) -> dict[int, str | None]:
    """The status that was written last, of those of these tunnels that are there."""
    found: dict[int, str | None] = {}
    for begin in range(0, len(tunnel_ids), _CHUNK):
        rows = execute(_KNOWN, {"tunnels": tunnel_ids[begin : begin + _CHUNK]})
        found.update((row.id, row.last_status) for row in rows)
    return found


def write(execute: Execute, seen: Mapping[int, Seen], decided: bool = False) -> None:
    """These tunnels (by id) have these statuses now: write down which of them is another one than the last. The caller
    holds the lock of the panel's row. Where somebody has written without it, the number of a change is taken already,
    which raises IntegrityError.

    Where no status was ever written, nobody knows since when this one is, unless it was ``decided`` just now.
    """
    groups: dict[tuple[str | None, str, datetime], list[int]] = defaultdict(list)
    for tunnel_id, was in known(execute, sorted(seen)).items():
        if was != seen[tunnel_id].status:
            groups[was, seen[tunnel_id].status, seen[tunnel_id].at].append(tunnel_id)
    written: list[int] = []
    for (was, status, at), tunnels in groups.items():
        values: dict[str, Any] = {"last_status": status}
        if was is not None or decided:
            values |= {"status_since": at, "status_changes": TUNNELS.c.status_changes + 1}
            written += tunnels
        same = TUNNELS.c.last_status.is_(None) if was is None else TUNNELS.c.last_status == was
        for begin in range(0, len(tunnels), _CHUNK):
            some = tunnels[begin : begin + _CHUNK]
            execute(update(TUNNELS).where(TUNNELS.c.id.in_(some), same).values(values))
    for begin in range(0, len(written), _CHUNK):
        counted = execute(_COUNTS, {"tunnels": written[begin : begin + _CHUNK]}).all()
        execute(insert(CHANGES), [_row(row.id, row.status_changes, seen[row.id]) for row in counted])
        old = [
            {"tunnel": row.id, "last": row.status_changes - CHANGES_KEPT}
            for row in counted
            if row.status_changes > CHANGES_KEPT
        ]
        if old:
            execute(_OLD, old)


def begun(execute: Execute, tunnel_id: int, seen: Seen) -> dict[str, Any]:
    """A tunnel is made now: write its first status down. Answers what its own row has of it."""
    execute(insert(CHANGES), _row(tunnel_id, 1, seen))
    return {"last_status": seen.status, "status_since": seen.at, "status_changes": 1}


def _row(tunnel_id: int, number: int, seen: Seen) -> dict[str, Any]:
    return {"tunnel_id": tunnel_id, "number": number, **seen._asdict()}


def read(session: Session, record: Mapping[str, Any], moment: datetime) -> dict[str, Any]:
    """The answer of ``GET /api/tunnels/{id}/history``, for a tunnel as the API answers it."""
    tunnel = record["id"]
    changes = session.execute(_OF_ONE.limit(CHANGES_KEPT), {"tunnel": tunnel}).all()
    now = int(moment.replace(tzinfo=UTC).timestamp())
    found = {level: _rows(session, tunnel, level, now) for level in (PERIOD, HOUR)}
    session.rollback()
    # An hour's row is made some minutes after its end; until then it is made here
    hours: dict[int, list[Row]] = defaultdict(list)
    for start, row in found[PERIOD].items():
        hours[start - start % HOUR].append(row)
    month = {start: combined(rows, HOUR) for start, rows in hours.items() if start > now - DAY} | found[HOUR]
    return {
        "tunnel_id": tunnel,
        "uuid": record["uuid"],
        "status": record["status"],
        "since": record["since"],
        "changes": [{"at": row.at.isoformat(), "status": row.status, "error": row.error} for row in reversed(changes)],
        "day": _answer(PERIOD, found[PERIOD]),
        "month": _answer(HOUR, month),
    }


def _rows(session: Session, tunnel: int, level: int, now: int) -> dict[int, Row]:
    wanted = {"level": level, "tunnel": tunnel, "starts": list(starts(level, now))}
    return {
        row.start: Row(*(getattr(row, name) for name in Row._fields)) for row in session.execute(_SUMS_OF_ONE, wanted)
    }


def _answer(level: int, rows: Mapping[int, Row]) -> dict[str, Any]:
    return {
        "seconds": level,
        "columns": COLUMNS,
        "rows": [
            [
                start,
                row.up,
                row.down,
                None if row.rtt_us is None else row.rtt_us / 1000,
                None if row.rtt_worst_us is None else row.rtt_worst_us / 1000,
                None if row.loss is None else row.loss / 100,
                row.to_target,
                row.to_source,
            ]
            for start, row in sorted(rows.items())
        ],
    }
