# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""What has changed, for those who want to know at once: streams of events, history, metrics, webhooks.

One thread per process of the panel. While somebody needs it, it looks each second whether the database has changed, and
soon after each ``touch``; what differs it hands to its listeners. While nobody does, it keeps nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, Self

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from marzban_tunnels import responses
from marzban_tunnels.kept import Found, Kept

if TYPE_CHECKING:
    from marzban_tunnels.service import Tunnels

_log = logging.getLogger("uvicorn.error")  # the log that Marzban writes to
TICK = 1.0  # seconds between two looks at the database
SOON = 0.15  # seconds between two steps, so that what changes together is told together
_BUSY = 5  # times as long as a step has kept a processor, nothing is done after it: a sixth of one at most
_IDLE = 5.0  # seconds between two looks whether somebody needs it
_SILENT = 60.0  # seconds between two lines in the log


@dataclass(frozen=True)
class Step:
    """What is known at a moment, and what is different since the step before. At the first step all tunnels are in
    ``told``."""

    moment: datetime  # naive UTC, whole seconds
    # All tunnels as the API answers them, by id; not to be changed. Status and `stale` are as they are now. An `age` is
    # that of the moment at which the answer was made, at most a minute ago
    records: Mapping[int, dict[str, Any]]
    told: frozenset[int]  # those whose answer is another one, but for measurements and ages
    measured: frozenset[int]  # those of which an end was measured, or measured again
    deleted: frozenset[int]
    leads: bool  # this process holds the manager's lease
    engine: Engine  # for a short session of the listener's own
    measured_ends: frozenset[tuple[int, str]] = frozenset()  # (tunnel, role)
    nodes: bool = False  # GET /api/tunnels/nodes may answer something else now
    first: bool = False


class Listener(Protocol):
    """Called in the feed's thread, one after the other."""

    def step(self, step: Step) -> None:
        """Look at a step. What this raises is logged, and the next listener is called."""


@dataclass
class _Known:
    """What the feed knows."""

    kept: Kept
    revision: tuple[Any, ...] | None = None  # of the database, when it was read
    read_at: float = float("-inf")
    manager: dict[str, Any] | None = None
    nodes: bool = False  # to be told
    first: bool = True


class NoFeed:
    """Nobody wants to know."""

    def touch(self, uuids: Iterable[str] = (), nodes: bool = False) -> None:
        return None


class Feed:
    """``tunnels`` has started before ``start`` is called. Tests call ``step`` themselves, with clocks of their own.

    Put what wants to know into ``listeners`` with ``add``, before ``start``.
    """

    def __init__(
        self,
        engine: Engine,
        tunnels: Tunnels,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = responses.now,
    ) -> None:
        self.listeners: list[Listener] = []
        # Asked at least every five seconds, in the feed's thread: whether somebody needs steps now
        self.needs: list[Callable[[], bool]] = []
        self._ends: list[Callable[[], object]] = []
        self.tunnels, self.clock, self.now = tunnels, clock, now
        self._engine = engine
        self._condition = threading.Condition()
        self._woken = self._ended = False
        self._uuids: set[str] = set()
        self._nodes = self._database = False
        self._silent_until = float("-inf")
        self._thread: threading.Thread | None = None
        self._known = self._nothing()

    def add(self, listener: Listener, need: Callable[[], bool], end: Callable[[], object] = lambda: None) -> None:
        """Tell this one each step. ``need`` says whether it needs them now; ``end`` is called after the last step, and
        the process may end while it works."""
        self.listeners.append(listener)
        self.needs.append(need)
        self._ends.append(end)

    # from any thread

    def touch(self, uuids: Iterable[str] = (), nodes: bool = False) -> None:
        """Something of these tunnels, or of a node's service, may be different now. Without arguments: the database
        has changed. Cheap."""
        uuids = tuple(uuids)
        with self._condition:
            self._uuids.update(uuids)
            self._nodes = self._nodes or nodes
            self._database = self._database or not (uuids or nodes)
            self._woken = True
            self._condition.notify()

    def wake(self) -> None:
        """Look now whether somebody needs a step."""
        with self._condition:
            self._woken = True
            self._condition.notify()

    def read_again(self) -> None:
        """Rows of tunnels have changed, and ``tunnel_panel.writes`` has not: for a listener, in its ``step``."""
        self._known.revision = None
        self.tunnels.live.renew()
        self.wake()

    def start(self) -> None:
        """Begin; once."""
        with self._condition:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="marzban_tunnels feed", daemon=True)
                self._thread.start()

    def stop(self, seconds: float = 1.0) -> None:
        """End it. Doesn't wait long for the database."""
        with self._condition:
            self._ended, thread = True, self._thread
            self._condition.notify()
        if thread is not None:
            thread.join(seconds)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    # in the feed's thread

    def needed(self) -> bool:
        """Whether somebody needs steps now."""
        return any(need() for need in self.needs)

    def step(self) -> None:
        """Find out what is different, and tell the listeners. Raises what reading the database raises; then nothing is
        lost, and the next step tells it."""
        with self._condition:
            uuids, nodes, database = self._uuids, self._nodes, self._database
            self._uuids, self._nodes, self._database = set(), False, False
        known, live = self._known, self.tunnels.live
        known.nodes = known.nodes or nodes
        known.kept.touch(uuids)
        self._read(known, database)
        moment, manager = self.now(), live.manager_state()
        known.nodes = known.nodes or manager != known.manager
        found = known.kept.make(moment, live)
        if found.failed is not None:
            self._tell(found.failed)
        step = self._step(known, found, moment)
        known.manager, known.nodes, known.first = manager, False, False
        for listener in self.listeners:
            try:
                listener.step(step)
            except Exception as error:
                self._tell(error)

    def _read(self, known: _Known, changed: bool) -> None:
        """Read what has changed in the database. Where that fails, the next step reads it."""
        now = self.clock()
        if known.revision is not None and not changed and now < known.read_at + TICK:
            return
        known.read_at = float("-inf")
        with Session(self._engine) as session:
            revision = known.kept.revision(session)
            if revision != known.revision:
                known.kept.read(session, revision)
                known.nodes = True
        known.revision, known.read_at = revision, now

    def _step(self, known: _Known, found: Found, moment: datetime) -> Step:
        records = dict(known.kept.records)
        return Step(
            moment=moment,
            records=records,
            told=frozenset(found.told),
            measured=frozenset(number for number, _role in found.measured),
            deleted=frozenset(found.deleted),
            leads=self.tunnels.live.leads(),
            engine=self._engine,
            measured_ends=frozenset(found.measured),
            nodes=known.nodes,
            first=known.first,
        )

    def _nothing(self) -> _Known:
        return _Known(Kept(self.tunnels.nodes, lambda: self.clock()))

    def _run(self) -> None:
        while not self._ended:
            begun = time.thread_time()
            needed = False
            try:
                needed = self.needed()
                if needed:
                    self.step()
                elif not self._known.first:  # what is kept takes memory, and would be old
                    self._known = self._nothing()
            except Exception as error:
                self._tell(error)
            taken = time.thread_time() - begun
            self._wait(max(SOON, _BUSY * taken), TICK if needed else _IDLE)
        for end in self._ends:
            try:
                end()
            except Exception as error:
                self._tell(error)

    def _wait(self, least: float, most: float) -> None:
        """Until it is touched, or ``most`` is over; but not sooner than ``least``."""
        with self._condition:
            self._condition.wait_for(lambda: self._ended, least)
            self._condition.wait_for(lambda: self._woken or self._ended, max(0.0, most - least))
            self._woken = False

    def _tell(self, error: Exception) -> None:
        """Once a minute at most: it may happen each second."""
        now = time.monotonic()
        if now >= self._silent_until:
            self._silent_until = now + _SILENT
            text = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            away = isinstance(error, SQLAlchemyError)
            _log.warning("marzban_tunnels: what has changed can't be told at the moment: %s", text, exc_info=not away)
