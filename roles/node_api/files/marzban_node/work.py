# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The one thread that changes the host. Changes that come together are done together, in one call of the engine."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import Error
from ansible_collections.marzban.tunnels.plugins.module_utils._model.views import title
from ansible_collections.marzban.tunnels.plugins.module_utils._node.kept import KeptView
from ansible_collections.marzban.tunnels.plugins.module_utils._node.state import Busy
from ansible_collections.marzban.tunnels.plugins.module_utils._protocols.base import RENEWED
from marzban_node.board import Board
from marzban_node.engine import Engine
from marzban_node.panels import Panel
from marzban_node.recoveries import Repair

if TYPE_CHECKING:  # thirty classes, which nothing needs at run time
    from ansible_collections.marzban.tunnels.plugins.module_utils._model.shapes import NarrowPath

_log = logging.getLogger(__name__)
MANY = 200  # changes in one call
TRIAL = 0.5  # seconds that larger packets have to pass


@dataclass(eq=False)
class Job:
    """One change. ``wanted``: None for a removal. ``trusted``: the peer's key, where it may be another one.

    ``repair``: what nobody has asked for, so that it gives way to what somebody has.
    """

    panel: Panel
    uuid: str
    wanted: KeptView | None = None
    trusted: str | None = None
    repair: Repair | None = None
    done: threading.Event = field(default_factory=threading.Event)
    error: str | None = None  # why nothing was done
    busy: bool = False  # because somebody else changes this host
    found: bool = False  # there was something to remove
    counted: bool = True  # the board has counted that it began

    @property
    def is_trial(self) -> bool:
        """Whether there is something to do only if larger packets pass by now."""
        return self.repair is not None and self.repair.widen


class Worker(threading.Thread):
    """Does the jobs. ``looked`` is set when there is something new to measure."""

    def __init__(self, engine: Engine, board: Board, looked: threading.Event) -> None:
        super().__init__(name="worker", daemon=True)
        self._engine, self._board, self._looked = engine, board, looked
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self.since: float | None = None  # when the call that goes on began; None: there is none

    def apply(self, panel: Panel, wanted: KeptView, trusted: str | None = None) -> Job:
        """Has a view applied, as a panel wants it."""
        self._board.want(wanted)
        return self._add(Job(panel, wanted.view["uuid"], wanted, trusted))

    def repair(self, panel: Panel, wanted: KeptView, repair: Repair) -> Job:
        """Has a tunnel repaired, or what is kept applied."""
        counted = self._board.begin(wanted.view["uuid"])
        return self._add(Job(panel, wanted.view["uuid"], wanted, repair=repair, counted=counted))

    def remove(self, panel: Panel, uuid: str) -> Job:
        """Has a tunnel removed."""
        return self._add(Job(panel, uuid, counted=self._board.begin(uuid)))

    def end(self) -> None:
        """Ends the thread, after what it is doing."""
        self._jobs.put(None)

    def _add(self, job: Job) -> Job:
        self._jobs.put(job)
        return job

    def run(self) -> None:
        """Until ``end``."""
        while True:
            jobs = [self._jobs.get()]
            while len(jobs) < MANY and not self._jobs.empty():
                jobs.append(self._jobs.get())
            real = [job for job in jobs if job is not None]
            by_panel: dict[str, list[Job]] = {}
            for job in real:
                by_panel.setdefault(job.panel.id, []).append(job)
            for its in by_panel.values():
                self.since = time.monotonic()
                try:
                    self._do(its)
                except Exception as error:
                    self._fail(its, error)
                self.since = None
                for job in its:
                    self._board.ended(job.uuid, job.wanted is None and job.error is None, job.counted)
                    job.done.set()
                if not all(job.error for job in its):
                    self._looked.set()
            if len(real) < len(jobs):
                return

    def _fail(self, jobs: list[Job], error: Exception) -> None:
        if not isinstance(error, Error):
            _log.exception("the engine failed")
        for job in jobs:
            job.error, job.busy = str(error) or type(error).__name__, isinstance(error, Busy)
            if job.wanted and not job.busy:
                self._board.failed(job.wanted, job.error)

    def _do(self, jobs: list[Job]) -> None:
        """The last job of each tunnel counts: those before it wanted what is not wanted any more. Raises Error."""
        last = {job.uuid: job for job in jobs if job.repair}
        last.update((job.uuid, job) for job in jobs if not job.repair)
        paths = self._paths(job for job in last.values() if job.repair)
        wanted = [job.wanted for job in last.values() if job.wanted and not (job.is_trial and job.uuid not in paths)]
        remove = [uuid for uuid, job in last.items() if not job.wanted]
        trusted = {job.uuid: job.trusted for job in jobs if job.trusted}
        begun = time.monotonic()
        names = self._forget(jobs[0].panel, remove)
        repairs = {uuid: job.repair for uuid, job in last.items() if job.repair}
        probe = any(repair.probe or repair.renew for repair in repairs.values())
        renew = {uuid for uuid, repair in repairs.items() if repair.renew}
        applied = self._engine.apply(jobs[0].panel, wanted, remove, trusted, probe, paths, renew)
        took = time.monotonic() - begun
        views = {view.view["uuid"]: view for view in wanted}
        for tunnel in applied.tunnels:
            if tunnel.uuid in views:
                job = last[tunnel.uuid]
                self._board.applied(views[tunnel.uuid], tunnel, applied.answer["missing"], job.repair)
                self._log(job, tunnel.error if tunnel.refused else None, tunnel.changes, took)
        failed = {entry["uuid"]: entry["error"] for entry in applied.answer["removed"]}
        for uuid in remove:
            last[uuid].error, last[uuid].found = failed.get(uuid), uuid in failed
            if not last[uuid].error and os.path.lexists(self._engine.folders.path(uuid)):
                last[uuid].error = f"{self._engine.folders.path(uuid)} could not be removed: its state can't be read"
            why = last[uuid].error
            if why or last[uuid].found:
                _log.info("tunnel %s: %s", names.get(uuid, uuid), f"could not be removed: {why}" if why else "removed")

    def _paths(self, jobs: Iterable[Job]) -> dict[str, NarrowPath | None]:
        """What is to be remembered of paths: nothing where larger packets pass by now. Raises Error."""
        found = {job.uuid: (job.wanted.view, job.repair) for job in jobs if job.repair and job.wanted}
        tried = [(view, repair.path["before"]) for view, repair in found.values() if repair.widen and repair.path]
        paths: dict[str, NarrowPath | None] = {
            uuid: repair.path for uuid, (_view, repair) in found.items() if repair.path and not repair.widen
        }
        paths.update(dict.fromkeys(self._engine.widened(tried, TRIAL)) if tried else {})
        return paths

    def _forget(self, panel: Panel, uuids: list[str]) -> dict[str, str]:
        """First of all, so that what is removed is not made again after a crash. Answers their names. Raises Error.

        Where a state is lost, it is written again by the view that is kept, for the removal to know what is here.
        """
        found = {uuid: self._engine.kept.view(uuid) for uuid in uuids}
        for uuid, kept in found.items():
            if kept and self._engine.folders.state(uuid) is None:
                view = kept.view.copy()
                view["active"] = False
                self._engine.apply(panel, [KeptView(view)])
        self._engine.kept.forget(panel.id, {uuid: None for uuid, kept in found.items() if kept}, True)
        return {uuid: title(kept.view) for uuid, kept in found.items() if kept}

    def _log(self, job: Job, refusal: str | None, changes: list[str], took: float) -> None:
        name = title(job.wanted.view) if job.wanted else job.uuid
        word = "repaired" if job.repair else "applied"
        problem = refusal or (self._board.unsteady(job.uuid) if job.repair else None)
        if refusal:
            line = f"{'repair' if job.repair else 'apply'} refused: {refusal}"
        elif problem:
            line = problem
        elif changes and changes != [RENEWED]:
            line = f"{word} in {took:.1f} s: {', '.join(changes)}"
            if job.repair and job.repair.path:
                line = f"{job.repair.path_words}, in {took:.1f} s"
        else:
            return
        if self._board.news(job.uuid, line if problem else None):
            _log.log(logging.WARNING if problem else logging.INFO, "tunnel %s: %s", name, line)
