# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The changes of status that a webhook has not been told yet, and when each is due. Pure: times come in, as seconds of
the monotonic clock. Not for two threads at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

GATHER = 1.0  # seconds: what comes within them goes together
# Seconds that a tunnel has to stay `connecting` before that is told: each change of its record leads through it
SETTLE = 10.0
APART = 60.0  # seconds between two messages about one tunnel
KEEP = 86400.0  # seconds after which what could not be delivered is dropped
MOST = 100  # changes in one message
CONNECTING = "connecting"


@dataclass(frozen=True)
class Waiting:
    """What is to be told about a tunnel: that it is not ``before`` any more, which it was when it was told last."""

    change: dict[str, Any]  # the latest, as it is sent
    before: str
    times: int  # how many changes are in it
    first: float  # when the first of them came
    last: float
    quiet: bool = True  # in between it was nothing else than `connecting`
    tried: bool = False  # it was sent, and nobody knows whether it has arrived

    @property
    def blip(self) -> bool:
        """Whether it was `connecting` for a moment, and is again what it was."""
        return self.change["status"] == self.before and self.quiet and self.times == 2 and not self.tried

    @property
    def settled(self) -> float:
        """From when on this is more than a moment between two other statuses."""
        return self.last + SETTLE if self.change["status"] == CONNECTING else self.first


class Pending:
    """One entry for each tunnel, so that it is bounded by their number."""

    def __init__(self) -> None:
        self._waiting: dict[int, Waiting] = {}
        self._held: dict[int, float] = {}  # until then nothing is told about this tunnel
        self._blips: dict[int, float] = {}  # until then another one is told

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, change: dict[str, Any], before: str, now: float) -> None:
        """A tunnel has changed. Of its changes that were not told, only this one is kept, and how many there were."""
        number = change["id"]
        known = self._waiting.get(number)
        if known is None:
            self._waiting[number] = Waiting(change, before, 1, now, now)
        else:
            quiet = known.quiet and known.change["status"] == CONNECTING
            self._waiting[number] = replace(known, change=change, times=known.times + 1, last=now, quiet=quiet)

    def forget(self, number: int) -> None:
        """There is no such tunnel any more."""
        self._waiting.pop(number, None)
        self._held.pop(number, None)
        self._blips.pop(number, None)

    def due(self) -> float | None:
        """When the next message has to be sent; None: nothing waits."""
        times = (max(item.first + GATHER, self._ready(number)) for number, item in self._waiting.items())
        return min(times, default=None)

    def take(self, now: float) -> list[Waiting]:
        """What goes into the next message, the oldest first; it does not wait here any more."""
        ready = [number for number, item in self._waiting.items() if self._ready(number) <= now]
        ready.sort(key=lambda number: self._waiting[number].first)
        found: list[Waiting] = []
        for number in ready:
            item = self._waiting[number]
            if len(found) == MOST:
                break
            del self._waiting[number]
            if item.blip and self._blips.get(number, now) <= now:
                self._blips[number] = now + APART
            else:
                found.append(item)
        return found

    def put_back(self, items: list[Waiting], now: float) -> int:
        """These could not be delivered. Answers how many were dropped, because they are too old."""
        dropped = 0
        for item in items:
            number = item.change["id"]
            later = self._waiting.get(number)
            if now - item.first > KEEP:
                dropped += 1
            elif later is None:
                self._waiting[number] = replace(item, tried=True)
            else:
                times = item.times + later.times
                self._waiting[number] = replace(later, before=item.before, times=times, first=item.first, tried=True)
        return dropped

    def delivered(self, items: list[Waiting], now: float) -> None:
        """These have arrived: nothing is told about these tunnels for a while."""
        for times in (self._held, self._blips):
            for number in [number for number, until in times.items() if until <= now]:
                del times[number]
        self._held.update((item.change["id"], now + APART) for item in items)

    def _ready(self, number: int) -> float:
        return max(self._waiting[number].settled, self._held.get(number, 0.0))
