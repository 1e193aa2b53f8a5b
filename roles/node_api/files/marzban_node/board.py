# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""What is known about each tunnel at this moment, and what of it a panel is told. Nothing here touches the host."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ansible_collections.marzban.tunnels.plugins.module_utils._model import symptoms
from ansible_collections.marzban.tunnels.plugins.module_utils._node.kept import KeptView
from ansible_collections.marzban.tunnels.plugins.module_utils._node.path import narrow_path
from ansible_collections.marzban.tunnels.plugins.module_utils._node.ping import is_address
from ansible_collections.marzban.tunnels.plugins.module_utils._node.tunnel import Tunnel
from marzban_node.news import News
from marzban_node.recoveries import LATEST, LOOKS, Recoveries, Repair

if TYPE_CHECKING:  # thirty classes, which nothing needs at run time
    from ansible_collections.marzban.tunnels.plugins.module_utils._model.shapes import Measured, Public, State, View

ANSWERED = 12.0  # seconds; a tunnel is active when a probe was answered at most that long before it was measured
SOONEST = 1.0  # seconds between the first attempts to repair a tunnel
LINES = 20  # in the journal about one tunnel, until it is well
RUN_FOR_KEY = (
    "It runs without the pre-shared key, on which both nodes can agree in a run only: run marzban.tunnels.apply with "
    "both."
)


@dataclass
class Entry:
    """One tunnel. Times are those of the monotonic clock, in seconds."""

    kept: KeptView
    applied: KeptView | None = None  # what the engine was last given
    tried: KeptView | None = None  # what it was last given, or could not begin with
    found: State | None = None  # what the last look found on the host
    public: Public | None = None
    peer_key: dict[str, str] | None = None
    missing: list[str] = field(default_factory=list)
    refusal: str | None = None  # why it could not be applied
    refusal_symptom: str | None = None  # the same in one word, where there is one
    needs_run: bool = False
    waiting_for: str | None = None
    doing: int = 0  # changes that go on, or wait for their turn
    changed: float = 0.0  # when the last one ended
    status: str | None = None  # not known yet
    error: str | None = None
    symptom: str | None = None  # of that error
    note: str | None = None
    measured: Measured | None = None
    at: float | None = None  # when it was measured
    answered: float | None = None  # when a probe was answered last
    tries: int = 0  # repairs, since it was well
    next_try: float = 0.0
    told: set[str] = field(default_factory=set)  # the lines about what is wrong, in the journal
    recoveries: Recoveries = field(default_factory=Recoveries)

    @property
    def view(self) -> View:
        """The view that is wanted."""
        return self.kept.view

    @property
    def here(self) -> tuple[int, bool]:
        """The version of the record that the host has, or has refused, and whether it is on: what is told is about it.
        What waits for its turn is not here yet."""
        if self.tried:
            return self.tried.view["version"], self.tried.view["active"]
        if self.found:  # the service began a moment ago, or does not set up this type
            return self.found["version"], self.view["active"] or self.found["interface"] is not None
        return 0, self.view["active"]

    def take(self, wanted: KeptView) -> None:
        """Another view is wanted. What was seen of a tunnel of another type says nothing of this one."""
        if wanted.view["type"] != self.view["type"]:
            self.public = self.peer_key = self.measured = self.at = self.answered = None
            self.status, self.error, self.symptom, self.note = "connecting", None, None, None
        if wanted != self.kept:
            self.recovered()
        self.kept = wanted

    def recovered(self) -> None:
        """It is well, or something else is wanted: what did not last before is forgotten."""
        self.recoveries.well()
        self.told.clear()


class Board:
    """All tunnels of this node, of all panels. ``latest``: who waits for something new is told there."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self.latest = clock, News()
        self._lock = threading.RLock()
        self._entries: dict[str, Entry] = {}

    # What comes in

    def sync(self, kept: Mapping[str, KeptView]) -> list[Entry]:
        """Takes over what is kept on the host; answers those that the engine has not been given yet."""
        with self._lock:
            for uuid in [uuid for uuid, entry in self._entries.items() if uuid not in kept and not entry.doing]:
                self._tell(self._entries.pop(uuid))
            for uuid, wanted in kept.items():
                entry = self._entries.setdefault(uuid, Entry(wanted))
                if not entry.doing:
                    entry.take(wanted)
            new = [entry for entry in self._entries.values() if entry.applied != entry.kept and not entry.doing]
            return [entry for entry in new if self._is_due(entry)]

    def want(self, wanted: KeptView) -> None:
        """A change of a tunnel begins."""
        with self._lock:
            entry = self._entries.setdefault(wanted.view["uuid"], Entry(wanted))
            entry.take(wanted)
            entry.doing += 1
            self._tell(entry)

    def begin(self, uuid: str) -> bool:
        """A removal or a repair of a tunnel begins. Whether that is counted: not where nothing is known of it."""
        with self._lock:
            if uuid in self._entries:
                self._entries[uuid].doing += 1
                self._tell(self._entries[uuid])
            return uuid in self._entries

    def applied(self, wanted: KeptView, tunnel: Tunnel, missing: Sequence[str], repair: Repair | None = None) -> None:
        """The engine was given a tunnel, and left it like this. ``repair``: None where somebody has asked for it."""
        with self._lock:
            entry = self._entries.get(wanted.view["uuid"])
            if entry is None:
                return
            entry.applied = entry.tried = wanted
            shown = (tunnel.checked["peer"]["public"] if tunnel.checked else None) or {}
            if (
                entry.peer_key
                and entry.peer_key["known"] != entry.peer_key["seen"]  # a renewed certificate is not another node
                and not (tunnel.peer_key or tunnel.refused)
                and shown.get("public_key") == entry.peer_key["seen"]
            ):
                entry.recoveries.accepted()
            entry.peer_key = tunnel.peer_key
            entry.refusal, entry.refusal_symptom = (tunnel.error, tunnel.symptom) if tunnel.refused else (None, None)
            entry.missing = list(missing) if tunnel.refused else []
            entry.needs_run = tunnel.needs_peer and not tunnel.refused and tunnel.view["type"] == "wireguard"
            entry.waiting_for = tunnel.waiting_for
            if not tunnel.refused and not entry.recoveries.unsteady:
                entry.told.clear()
            if tunnel.changes and not tunnel.refused:
                entry.recoveries.done(repair, tunnel, self._clock())
            if tunnel.public and (not tunnel.refused or tunnel.pending):
                entry.public = tunnel.public
            if tunnel.changes and not (repair and repair.is_quiet):
                entry.at = entry.answered = entry.measured = entry.error = entry.symptom = entry.note = None
                entry.status = "connecting"

    def ended(self, uuid: str, removed: bool = False, counted: bool = True) -> None:
        """A change of a tunnel has ended. ``counted``: when it began."""
        with self._lock:
            entry = self._entries.get(uuid)
            if entry:
                entry.doing -= counted
                entry.changed = self._clock()
                if removed and entry.doing <= 0:
                    del self._entries[uuid]
                self._tell(entry)

    def failed(self, wanted: KeptView, why: str) -> None:
        """The engine could not even begin."""
        with self._lock:
            entry = self._entries.get(wanted.view["uuid"])
            if entry:
                entry.tried, entry.refusal, entry.refusal_symptom = wanted, why, None

    def measured(self, tunnels: Iterable[Tunnel], begun: float) -> None:
        """What a look that began at ``begun`` has found. Of what was changed meanwhile it says nothing."""
        now = self._clock()
        seen = []
        with self._lock:
            for tunnel in tunnels:
                entry = self._entries.get(tunnel.uuid)
                if entry is None or entry.doing or entry.changed > begun:
                    continue
                seen.append(entry)
                entry.found = tunnel.state
                if entry.here[1] and not entry.view["active"]:
                    continue  # it was not looked for: it is to be stopped, and still runs
                entry.recoveries.look(tunnel, begun)
                if 0 < entry.recoveries.hung < LOOKS and self._lately(entry, now):
                    continue  # it is busy
                entry.at, entry.measured = now, tunnel.measured
                entry.waiting_for = tunnel.waiting_for
                loss = (tunnel.measured or {}).get("loss_percent")
                if loss == 100 and not tunnel.lacks and self._lately(entry, now):
                    continue  # what was said when it was answered last still holds
                entry.status, entry.error, entry.note = tunnel.status, tunnel.error, tunnel.note
                entry.symptom = tunnel.symptom
                if entry.status == "active" and not entry.refusal:
                    entry.told.clear()
                    if entry.recoveries.unsteady or entry.recoveries.is_steady(
                        now
                    ):  # else it may be taken away again soon
                        entry.recovered()
                if loss is not None and loss < 100:
                    entry.answered = begun  # a look may take seconds, and this was in it
            self._tell(*seen)

    def _tell(self, *entries: Entry) -> None:
        self.latest.tell(entry.view["panel"] for entry in entries)

    @staticmethod
    def _lately(entry: Entry, now: float) -> bool:
        return entry.answered is not None and now - entry.answered <= ANSWERED

    def news(self, uuid: str, problem: str | None) -> bool:
        """Whether a line about a tunnel is worth the journal: a problem is told once, until it is over."""
        with self._lock:
            entry = self._entries.get(uuid)
            if entry is None or problem is None:
                return True
            if problem in entry.told or len(entry.told) >= LINES:
                return False
            entry.told.add(problem)
            return True

    def unsteady(self, uuid: str) -> str | None:
        """Why a repair of this tunnel does not last, where that is known by now."""
        with self._lock:
            return self._entries[uuid].recoveries.unsteady if uuid in self._entries else None

    def narrow(self, panel: str) -> list[View]:
        """The views of a panel whose MTU was lowered because of their path."""
        with self._lock:
            its = [entry for entry in self._entries.values() if entry.view["panel"] == panel and entry.found]
            return [entry.view for entry in its if entry.found and narrow_path(entry.found["applied"])]

    def routes(self, ways: Mapping[str, str]) -> None:
        """By which routes the peers of those are reached: ``{uuid: text}``."""
        with self._lock:
            for uuid, way in ways.items():
                if uuid in self._entries:
                    self._entries[uuid].recoveries.route(way, self._clock())

    # What has to be repaired

    def broken(self, tunnels: Iterable[Tunnel], begun: float) -> list[tuple[Entry, Repair]]:
        """Those of a look that have to be put right now, and how.

        Each one waits longer after each attempt, until it is well.
        """
        now = self._clock()
        found: list[tuple[Entry, Repair]] = []
        with self._lock:
            for tunnel in tunnels:
                entry = self._entries.get(tunnel.uuid)
                if entry is None or entry.doing or entry.changed > begun:
                    continue
                recoveries = entry.recoveries
                if 0 < recoveries.hung < LOOKS:
                    continue
                hangs = bool(recoveries.hung) and entry.view["active"]
                lacks = self._lacks(entry, tunnel) or entry.refusal is not None or hangs
                silent = not lacks and self._is_silent(entry, begun) and not recoveries.unstable
                if not lacks and recoveries.is_steady(now):
                    entry.recovered()
                other = None if lacks or not entry.view["active"] else self._other_repair(entry, tunnel, begun)
                if not lacks and not silent:
                    entry.tries = 0 if entry.status in ("active", "inactive") else entry.tries
                    found += [(entry, other)] if other else []
                    continue
                if lacks and entry.view["active"]:
                    recoveries.lacks(entry.view, tunnel.lacks, now)
                if self._is_due(entry):
                    kind = "process" if hangs else "put_back" if lacks else "peer"
                    found.append(
                        (entry, Repair(kind, probe=silent, renew=silent and other is not None and other.renew))
                    )
        return found

    @staticmethod
    def _other_repair(entry: Entry, tunnel: Tunnel, now: float) -> Repair | None:
        """What helps a tunnel of which nothing is missing."""
        if tunnel.waiting_for:
            return None
        return entry.recoveries.silence(tunnel, now) or entry.recoveries.path(tunnel, now)

    def _is_due(self, entry: Entry) -> bool:
        """Whether the engine may be given it again; if so, the next time is later."""
        now = self._clock()
        if now < entry.next_try:
            return False
        entry.next_try = now + min(LATEST, SOONEST * 2**entry.tries)
        entry.tries = min(entry.tries + 1, 16)
        return True

    @staticmethod
    def _lacks(entry: Entry, tunnel: Tunnel) -> bool:
        """Whether something of it is not on the host as it was applied, or not as it is wanted."""
        state: State | None = tunnel.state
        if not entry.view["active"]:
            return state is not None and state["interface"] is not None
        if tunnel.waiting_for:
            return False
        outdated = state is None or state["version"] < entry.view["version"]
        return bool(tunnel.refused or tunnel.measured is None or tunnel.lacks or outdated)

    def _is_silent(self, entry: Entry, now: float) -> bool:
        """Whether its peer has a name, and does not answer: it may have moved."""
        named = entry.view["dial"] and not is_address(entry.view["peer"]["endpoint"])
        return named and entry.view["active"] and not entry.waiting_for and not self._lately(entry, now)

    # What goes out

    def find(self, panel: str, given: str) -> str | None:
        """The uuid of a panel's tunnel by its uuid or its number."""
        with self._lock:
            for uuid, entry in self._entries.items():
                if entry.view["panel"] == panel and given in (uuid, str(entry.view["id"])):
                    return uuid
        return None

    def views(self, panel: str) -> list[View]:
        """The views of a panel."""
        with self._lock:
            return [entry.view for entry in self._entries.values() if entry.view["panel"] == panel]

    def tunnel(self, uuid: str) -> dict[str, Any] | None:
        """NODE_TUNNEL of docs/development/node-service.md."""
        with self._lock:
            entry = self._entries.get(uuid)
            return None if entry is None else self._told(entry)

    def tunnels(self, panel: str) -> list[dict[str, Any]]:
        """All of a panel."""
        with self._lock:
            return [self._told(entry) for entry in self._entries.values() if entry.view["panel"] == panel]

    @staticmethod
    def _symptom(entry: Entry, status: str | None) -> str | None:
        """Of an end that is told with this status. A peer that shows another key explains what else is seen of it."""
        if status not in ("error", "connecting"):
            return None
        if entry.refusal:
            return entry.refusal_symptom
        if entry.recoveries.unsteady:
            return symptoms.TAKEN_AWAY if entry.recoveries.lacked else symptoms.DIES
        if entry.recoveries.unstable:
            return symptoms.FLAPPING
        if entry.peer_key:
            return symptoms.REINSTALLED
        return entry.symptom if entry.error else symptoms.CONNECTING

    def _told(self, entry: Entry) -> dict[str, Any]:
        view, status, error, note = entry.view, entry.status, entry.error, entry.note
        version, active = entry.here
        if not active:
            status, error, note = "inactive", None, None
        elif status is None and entry.waiting_for:
            status = "connecting"
        lasting = entry.refusal or entry.recoveries.unsteady or (entry.recoveries.unstable if active else None)
        if lasting:
            status, error, note = "error", lasting, None
        if entry.needs_run and not error:
            note = note or RUN_FOR_KEY
        return {
            **{key: view[key] for key in ("uuid", "id", "name", "type", "interface")},
            "version": version,
            "active": active,
            "revision": entry.kept.revision,
            "node": view["local"]["node"],
            "peer": view["peer"]["node"],
            "role": view["local"]["role"],
            "status": status,
            "error": error,
            "symptom": self._symptom(entry, status),
            "note": note,
            "waiting_for": entry.waiting_for,
            "refused": entry.refusal is not None,
            "missing": entry.missing,
            "public": entry.public,
            "peer_key": entry.peer_key,
            "measured": entry.measured,
            "age": None if entry.at is None else round(self._clock() - entry.at, 1),
            "doing": entry.doing > 0,
            "recoveries": dict(entry.recoveries.counts),
        }
