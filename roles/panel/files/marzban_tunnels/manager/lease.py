# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""One manager works per database: who it is, is in the panel's row.

The holder raises a number every few seconds. Another takes over when that number has not changed for a while of its own
monotonic clock, or at once where it can see that the holder's process is gone (as after a crash of the panel, which is
started again on the same machine).
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from marzban_tunnels.tables import Panel

_ROW = Panel.id == 1


def _machine() -> str:
    """The same for all processes that see each other's numbers."""
    try:
        seen = Path("/proc/sys/kernel/random/boot_id").read_text() + str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return "?" + secrets.token_hex(4)
    return hashlib.sha256(seen.encode()).hexdigest()[:9]


def _started(pid: int) -> str | None:
    """When this process was started, which tells it from a later one with its number. None: there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _ended(pid: int, started: str) -> bool:
    """Whether a process of this machine is surely gone."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        pass  # somebody else's: /proc may hide it
    return _started(pid) not in (None, started)


class Lease:
    """Not for two threads at once."""

    def __init__(self, patience: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience, self._clock = patience, clock
        self.me = f"{_machine()}:{os.getpid()}:{_started(os.getpid())}:{secrets.token_hex(4)}"
        self._seen: tuple[str | None, int] | None = None
        self._since = 0.0

    def step(self, session: Session) -> bool:
        """Take it, or keep it; whether it is ours. Writes only when it is. The session is committed."""
        kept = session.execute(
            update(Panel).where(_ROW, Panel.lease_holder == self.me).values(lease_beat=Panel.lease_beat + 1)
        )
        if kept.rowcount == 1:  # type: ignore[attr-defined]
            session.commit()
            return True
        session.rollback()
        return self._take(session)

    def _take(self, session: Session) -> bool:
        row = session.execute(select(Panel.lease_holder, Panel.lease_beat).where(_ROW)).one()
        session.rollback()
        seen = (row.lease_holder, row.lease_beat)
        if seen != self._seen:
            self._seen, self._since = seen, self._clock()
        if row.lease_holder is not None and not self._gone(row.lease_holder):
            return False
        taken = session.execute(
            update(Panel)
            .where(_ROW, Panel.lease_beat == row.lease_beat)
            .where(or_(Panel.lease_holder.is_(None), Panel.lease_holder == row.lease_holder))
            .values(lease_holder=self.me, lease_beat=Panel.lease_beat + 1)
        )
        session.commit()
        return bool(taken.rowcount == 1)  # type: ignore[attr-defined]

    def watched(self, session: Session) -> bool:
        """The same for one that waits: reads only, unless there is something to take."""
        return self._take(session)

    def release(self, session: Session) -> None:
        """Let another have it at once."""
        session.execute(update(Panel).where(_ROW, Panel.lease_holder == self.me).values(lease_holder=None))
        session.commit()

    def _gone(self, holder: str) -> bool:
        machine, pid, started, *_rest = [*holder.split(":"), "", "", ""]
        if machine == self.me.partition(":")[0] and pid.isdecimal() and _ended(int(pid), started):
            return True
        return self._clock() - self._since >= self._patience
