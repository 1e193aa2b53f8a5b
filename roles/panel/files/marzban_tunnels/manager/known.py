# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""What the manager knows about one node, and the panel answers. Other threads read it: what they read is replaced as
a whole, never changed in place."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from marzban_tunnels import responses
from marzban_tunnels.live import STALE_BY_SERVICE
from marzban_tunnels.manager.answers import Shown
from marzban_tunnels.manager.compare import lasting
from marzban_tunnels.manager.hub import Hub
from marzban_tunnels.manager.problems import Problem
from marzban_tunnels.manager.store import Target

_OLDEST = 366 * 86400  # seconds; what a node says may be any number


@dataclass(frozen=True)
class Seen:
    shown: Shown
    at: float

    @property
    def age(self) -> float:
        return time.monotonic() - self.at + (self.shown.age or 0.0)


@dataclass(frozen=True)
class Try:
    """A tunnel was told to the node, and is not there yet as it was told."""

    what: tuple[str, str | None]
    count: int
    due: float
    refusal: str | None = None


class Known:
    """``target`` is what the database has of the node; it is replaced when that changes."""

    def __init__(self, target: Target, hub: Hub) -> None:
        self.target, self._hub = target, hub
        self.problem: Problem | None = None
        self.contact: float | None = None
        self.engine: str | None = None
        self.orphans: list[Shown] = []
        self._seen: dict[str, Seen] = {}
        self._tries: dict[str, Try] = {}
        # uuid → a half that was not taken, with which record of the tunnel, and why
        self._rejected: dict[str, tuple[dict[str, str], str, str]] = {}
        self._reported: dict[str, tuple[Any, ...]] = {}
        self._stale: dict[str, bool | None] = {}  # uuid → as the API says now; None: it has no report of ours
        self._ageing = math.inf  # until then none becomes stale

    def end(self, uuid: str, role: str) -> dict[str, Any] | None:
        """``Live.end`` of a tunnel at this node."""
        wanted, seen, tried = self.target.wanted.get(uuid), self._seen.get(uuid), self._tries.get(uuid)
        if wanted is None or wanted.role != role:
            return None
        refusal = (tried.refusal if tried else None) or self._rejection(uuid)
        if refusal:
            told = {"status": "error", "error": refusal, "symptom": None, "version": wanted.version}
            now = time.monotonic()  # without anything of it there, the last listing says that this is still so
            age = seen.age if seen else now - (self.contact or now)
            shown = seen.shown if seen else None
            counted = shown.recoveries if shown else {}
            return told | {"measured": shown.measured if shown else None, "age": int(age), "recoveries": counted}
        if seen is None or seen.shown.status is None:
            return None
        if _unmeasured(seen.shown) and wanted.status is not None:
            return None  # what was measured before it says more
        shown = seen.shown
        told = {"status": shown.status, "error": shown.error, "symptom": shown.symptom, "version": shown.version}
        return told | {"measured": shown.measured, "age": int(seen.age), "recoveries": shown.recoveries}

    def reject(self, uuid: str, half: dict[str, str], why: str) -> None:
        """The database did not take this half; it is not offered again with the record as it is now."""
        self._rejected = {**self._rejected, uuid: (half, self.target.wanted[uuid].revision, why)}
        self._hub.touch([uuid])

    def _rejection(self, uuid: str) -> str | None:
        half, revision, why = self._rejected.get(uuid, (None, None, None))
        seen, item = self.shown(uuid), self.target.wanted.get(uuid)
        if seen is None or item is None or seen.public != half:
            return None
        return why if item.public is None and item.revision == revision else None

    def shown(self, uuid: str) -> Shown | None:
        """What the node said last about a tunnel."""
        seen = self._seen.get(uuid)
        return seen.shown if seen else None

    def state(self) -> dict[str, Any]:
        """``Live.node``."""
        problem = self.problem
        state = "problem" if problem else "asking" if self.contact is None else "ok"
        missing = {name for uuid in self.target.wanted if (seen := self.shown(uuid)) for name in seen.missing}
        orphans = [
            {"uuid": item.uuid, "id": item.tunnel_id, "name": item.name, "type": item.tunnel_type,
             "interface": item.interface}
            for item in self.orphans
        ]  # fmt: skip
        return {
            "state": state,
            "problem": {"code": problem.code, "detail": problem.detail} if problem else None,
            "contact_age": None if self.contact is None else int(time.monotonic() - self.contact),
            "engine": self.engine,
            "missing": sorted(missing)[:20],
            "recoveries": self.recoveries(),
            "orphans": orphans,
        }

    def recoveries(self) -> dict[str, int]:
        """How often the node's service brought one of its tunnels back, by kind."""
        found: Counter[str] = Counter()
        for seen in self._seen.values():
            found.update(seen.shown.recoveries)
        return dict(found)

    def tell_stale(self, looked: bool = False) -> None:
        """A client whose list has the same ETag takes it that the same ends are stale: so it needs another one when an
        end becomes stale, or is not any more. Cheap where no end's time has come, unless the node was ``looked`` at."""
        now = time.monotonic()
        if not looked and now < self._ageing:
            return
        ends = {uuid: self.end(uuid, item.role) for uuid, item in self.target.wanted.items()}
        ages = {uuid: None if end is None else int(end["age"]) for uuid, end in ends.items()}
        stale = {uuid: None if age is None else age > STALE_BY_SERVICE for uuid, age in ages.items()}
        left = [STALE_BY_SERVICE - age for uuid, age in ages.items() if age is not None and not stale[uuid]]
        self._ageing = now + min(left, default=math.inf)
        if stale != self._stale:
            self._stale = stale
            self._hub.changed()

    def _report(self, target: Target) -> None:
        """Into the database comes only what has changed; measurements stay in memory."""
        for uuid, item in target.wanted.items():
            end = self.end(uuid, item.role)
            if end is None or end["version"] != item.version:
                continue
            if end["status"] == "connecting" and (seen := self.shown(uuid)) and _unmeasured(seen):
                continue
            fact = (item.version, end["status"], lasting(end["error"]))
            if fact[1:] != (item.status, lasting(item.error)) and self._reported.get(uuid) != fact:
                self._reported[uuid] = fact
                age = timedelta(seconds=min(end["age"], _OLDEST))
                self._hub.changes.reports[item.key] = {**end, "reported_at": responses.now() - age}
                self._hub.dirty()
        for uuid in self._reported.keys() - target.wanted.keys():
            del self._reported[uuid]


def _unmeasured(item: Shown) -> bool:
    """Whether the node has measured nothing since it was changed, or since its service began."""
    return item.age is None and item.status == "connecting"
