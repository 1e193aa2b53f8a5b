# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""From samples of a tunnel to sums over periods of five minutes, and from those to hours. Pure: the time comes in.

A sample is a tunnel as the API answers it, at a moment at which one of its ends was measured or its status became
another one. Times are seconds since 1970. What a sample says comes from nodes: it is bounded here, whatever it is.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from marzban_tunnels.live import STALE_BY_SERVICE

PERIOD, HOUR, DAY = 300, 3600, 86400
KEPT = {PERIOD: DAY, HOUR: 31 * DAY}  # seconds for which the sums of a level are kept
LONGEST = STALE_BY_SERVICE  # seconds between two samples; what was in between a longer time is not known
# Samples of one end in one period that the median is made of. A node measures every 5 s, so that these are all of them;
# where there are more, the last ones count.
SAMPLES = 60
_INTEGER, _BIG = 2**31 - 1, 2**63 - 1  # what the columns hold
# Which way the bytes go that an end counts
_WAYS = {("source", "tx_bytes"): 0, ("target", "rx_bytes"): 0, ("source", "rx_bytes"): 1, ("target", "tx_bytes"): 1}


class Row(NamedTuple):
    """A period's sums, as the table has them."""

    up: int
    down: int
    samples: int
    rtt_us: int | None
    rtt_worst_us: int | None
    loss: int | None
    to_target: int | None
    to_source: int | None


def starts(level: int, now: int) -> range:
    """When the periods of a level began that are kept at this moment, the open one too."""
    last = now - now % level
    return range(last - KEPT[level], last + level, level)


def combined(rows: Sequence[Row], seconds: int) -> Row:
    """The sums of several as those of one period of so many seconds; at least one. The round trip is the median of
    their medians, weighted by their samples."""
    up = min(sum(row.up for row in rows), seconds)
    return Row(
        up=up,
        down=min(sum(row.down for row in rows), seconds - up),
        samples=min(sum(row.samples for row in rows), _INTEGER),
        rtt_us=_middle([(row.rtt_us, max(1, row.samples)) for row in rows if row.rtt_us is not None]),
        rtt_worst_us=max((row.rtt_worst_us for row in rows if row.rtt_worst_us is not None), default=None),
        loss=_mean([(row.loss, max(1, row.samples)) for row in rows if row.loss is not None]),
        to_target=_added([row.to_target for row in rows]),
        to_source=_added([row.to_source for row in rows]),
    )


def _middle(weighted: list[tuple[int, int]]) -> int | None:
    half, seen = sum(weight for _value, weight in weighted) / 2, 0
    for value, weight in sorted(weighted):
        seen += weight
        if seen >= half:
            return value
    return None


def _mean(weighted: list[tuple[int, int]]) -> int | None:
    total = sum(weight for _value, weight in weighted)
    return round(sum(value * weight for value, weight in weighted) / total) if total else None


def _added(numbers: Sequence[int | None]) -> int | None:
    there = [number for number in numbers if number is not None]
    return min(sum(there), _BIG) if there else None


class Period:
    """The sums of a tunnel in one period, as they grow. ``base`` is what another process has written of it."""

    def __init__(self, start: int, base: Row | None = None) -> None:
        self.start, self.base = start, base
        self.up = self.down = self.samples = self._losses = 0
        self._rtts: dict[str, array[float]] = {}
        self._worst: float | None = None
        self._loss = 0.0
        self._bytes: dict[tuple[str, str], int] = {}

    def measured(self, role: str, measured: Mapping[str, Any], number: int) -> None:
        """An end was measured, for the ``number``-th time."""
        rtt, loss = measured.get("rtt_ms"), measured.get("loss_percent")
        self.samples += rtt is not None or loss is not None
        if rtt is not None:
            known = self._rtts.setdefault(role, array("d"))
            if len(known) < SAMPLES:
                known.append(rtt)
            else:
                known[number % SAMPLES] = rtt
            self._worst = rtt if self._worst is None else max(self._worst, rtt)
        if loss is not None:
            self._loss += loss
            self._losses += 1

    def counted(self, role: str, counter: str, more: int) -> None:
        """A counter of an end has grown."""
        self._bytes[role, counter] = self._bytes.get((role, counter), 0) + more

    def row(self) -> Row | None:
        """As it is now; None where nothing is known of this period."""
        if not (self.up or self.down or self.samples or self._bytes):
            return self.base
        rtts = [rtt for known in self._rtts.values() for rtt in known]
        # Both ends count the same bytes, and each of them may have been away for a while
        ways: list[int | None] = [None, None]
        for place, number in self._bytes.items():
            way = _WAYS[place]
            ways[way] = max(min(number, _BIG), ways[way] or 0)
        mine = Row(
            up=min(self.up, PERIOD),
            down=min(self.down, PERIOD - min(self.up, PERIOD)),
            samples=min(self.samples, _INTEGER),
            rtt_us=_microseconds(median(rtts)) if rtts else None,
            rtt_worst_us=None if self._worst is None else _microseconds(self._worst),
            loss=round(self._loss / self._losses * 100) if self._losses else None,
            to_target=ways[0],
            to_source=ways[1],
        )
        return mine if self.base is None else combined([self.base, mine], PERIOD)


def _microseconds(milliseconds: float) -> int:
    return int(min(round(milliseconds * 1000), _INTEGER))


class _End:
    """What is known of an end between two of its samples."""

    def __init__(self) -> None:
        self.at: int | None = None  # of its last measurement
        self.number = 0
        self.counters: dict[str, int] = {}


class Track:
    """A tunnel from sample to sample."""

    def __init__(self, period: Period) -> None:
        self.period = period
        self.changed = False  # since it was written
        self._at: int | None = None
        self._up: bool | None = None
        self._ends = {"source": _End(), "target": _End()}

    def take(self, record: Mapping[str, Any], measured: Collection[str], now: int) -> Iterator[Period]:
        """A sample; the ends with these roles were measured just now. Answers the periods that are over now."""
        since, self._at = self._at, now
        if since is not None and 0 <= now - since <= LONGEST:
            yield from self._count(since, now)
        yield from self._go_to(now)
        self._up = None if record["stale"] else {"active": True, "inactive": None}.get(record["status"], False)
        if record["status"] == "inactive":
            return
        for end in record["ends"]:
            if end["role"] in measured and end["measured"] is not None and (end["age"] or 0) <= LONGEST:
                self._measured(self._ends[end["role"]], end, now)

    def _count(self, since: int, now: int) -> Iterator[Period]:
        """The time between two samples counts as what the first one was."""
        border = min(max(self.period.start + PERIOD, since), now)
        self._add(border - since)
        yield from self._go_to(now)
        self._add(now - border)

    def _add(self, seconds: int) -> None:
        if seconds and self._up is not None:
            self.changed = True
            if self._up:
                self.period.up += seconds
            else:
                self.period.down += seconds

    def _go_to(self, now: int) -> Iterator[Period]:
        start = now - now % PERIOD
        if start != self.period.start:
            if self.changed:
                yield self.period
            self.period, self.changed = Period(start), False

    def _measured(self, end: _End, seen: Mapping[str, Any], now: int) -> None:
        gap = None if end.at is None else now - end.at
        end.at, end.number = now, end.number + 1
        self.changed = True
        measured = seen["measured"]
        self.period.measured(seen["role"], measured, end.number)
        for counter in ("rx_bytes", "tx_bytes"):
            number, before = measured.get(counter), end.counters.get(counter)
            if number is None:
                end.counters.pop(counter, None)
                continue
            end.counters[counter] = number
            if before is not None and gap is not None and 0 <= gap <= PERIOD:
                # A counter that has become smaller began again
                self.period.counted(seen["role"], counter, number - before if number >= before else number)
