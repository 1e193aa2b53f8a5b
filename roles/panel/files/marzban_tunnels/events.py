# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""What the streams of ``GET /api/tunnels/events`` send: made once for all of them, in the feed's thread, and kept for
those that come back after a break."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from sqlalchemy.orm import Session

from marzban_tunnels.exits import hang_up
from marzban_tunnels.feed import Feed, Step
from marzban_tunnels.node_services import NodeServices
from marzban_tunnels.service import Tunnels

PATH = "/api/tunnels/events"
BEAT = 10.0  # seconds
RECHECK = 60.0  # seconds after which a stream's token is looked at again
KEPT = 30.0  # seconds for which events are made and kept when no stream is open any more
MOST_STREAMS = 200  # in one process
MOST_EVENTS, MOST_BYTES = 2000, 4 * 1024 * 1024  # that are kept
_PATIENCE = 0.3  # seconds with clients that do not take the end of their stream, when the process ends
_AT_ONCE = 256 * 1024  # bytes that a stream sends in one piece
_PER_EVENT = 100  # tunnels, so that nobody has to take a thousand of them in one piece
_MEASURED = ("measured", "age", "by", "stale")
_ID = re.compile(r"([0-9a-f]{8})-([0-9]{1,15})")


class Buffer:
    """The last events, as they are sent. Each has the next number; their ids begin with a text of this buffer."""

    def __init__(self, most_events: int = MOST_EVENTS, most_bytes: int = MOST_BYTES) -> None:
        self.epoch = secrets.token_hex(4)
        self._most_events, self._most_bytes = most_events, most_bytes
        self._parts: deque[bytes] = deque()
        self._bytes = 0
        self.last = 0  # the number of the newest

    def add(self, name: str, data: str) -> None:
        """One more; the oldest go where it is too much."""
        self.last += 1
        part = event(f"{self.epoch}-{self.last}", name, data)
        self._parts.append(part)
        self._bytes += len(part)
        while self._parts and (len(self._parts) > self._most_events or self._bytes > self._most_bytes):
            self._bytes -= len(self._parts.popleft())

    def after(self, position: int) -> tuple[bytes, int] | None:
        """What follows this number, as much as is sent in one piece, and the number of the last of it. None where some
        of it is no longer there."""
        behind = self.last - position
        if not 0 <= behind <= len(self._parts):
            return None
        found: list[bytes] = []
        size = 0
        while behind > 0 and size < _AT_ONCE:
            found.append(self._parts[-behind])
            size += len(found[-1])
            behind -= 1
        return b"".join(found), self.last - behind

    def position(self, last_event_id: str | None) -> int | None:
        """The number in an id, where all that follows it is still there."""
        found = _ID.fullmatch(last_event_id or "")
        if found is None or found[1] != self.epoch or self.after(int(found[2])) is None:
            return None
        return int(found[2])


def event(number: str, name: str, data: str) -> bytes:
    """One event as it is sent. JSON has no line breaks."""
    return f"id: {number}\nevent: {name}\ndata: {data}\n\n".encode("utf-8", "replace")


class Reader:
    """A stream that is open. ``wake`` is set when there may be something to send, or it has to end."""

    def __init__(self) -> None:
        self.wake = asyncio.Event()
        self.gone = False  # its client is
        self.task = asyncio.current_task()


class Events:
    """A listener of the feed. Streams belong to one event loop: all but ``step``, ``needed`` and ``end`` is called
    there."""

    def __init__(
        self,
        tunnels: Tunnels,
        feed: Feed,
        clock: Callable[[], float] = time.monotonic,
        make: Callable[[], Buffer] = Buffer,
    ) -> None:
        self.beat, self.recheck, self.most_streams = BEAT, RECHECK, MOST_STREAMS
        self.ending = False  # the process ends: no stream begins, and all return
        self.clock = clock
        self.feed, self._make = feed, make
        self._services = NodeServices(tunnels)
        self._lock = threading.Lock()  # around what both threads use
        self._buffer: Buffer | None = None
        self._open = 0
        self._until = float("-inf")  # events are kept without a stream
        self._loop: asyncio.AbstractEventLoop | None = None
        self._readers: set[Reader] = set()
        self._beat_at = 0.0
        self._nodes: dict[str, Any] = {}  # as they were told
        self._look = False  # at the nodes
        feed.add(self, self.needed)

    # in the loop

    @contextlib.contextmanager
    def reading(self) -> Iterator[Reader]:
        """For as long as a stream is open, events are made."""
        reader = Reader()
        with self._lock:
            if not self._is_needed():
                self._buffer = None
            self._open += 1
        self._loop = asyncio.get_running_loop()
        self._readers.add(reader)
        try:
            yield reader
        finally:
            self._readers.discard(reader)
            with self._lock:
                self._open -= 1
                self._until = self.clock() + KEPT

    def is_full(self) -> bool:
        """Whether as many streams are open as there may be."""
        return self.open_streams() >= self.most_streams

    def open_streams(self) -> int:
        """How many there are."""
        return self._open

    async def ready(self, reader: Reader, seconds: float) -> bool:
        """Wait until the feed has looked: what changes from then on is told."""
        if self._buffer is None:
            self.feed.wake()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._buffer is None and not self.ending:
                    reader.wake.clear()
                    await reader.wake.wait()
        return self._buffer is not None

    def hello(self, last_event_id: str | None) -> tuple[bytes, int]:
        """The first event of a stream, and the number after which it goes on. Where it does not go on after
        ``last_event_id``, the client reads all once, after it has this event."""
        with self._lock:
            buffer = self._buffer
            assert buffer is not None  # it stays while a stream is open
            position = buffer.position(last_event_id)
            resumed, position = position is not None, buffer.last if position is None else position
            data = _json({"resumed": resumed, "beat": math.ceil(self.beat)})
            return event(f"{buffer.epoch}-{position}", "hello", data), position

    def after(self, position: int) -> tuple[bytes, int] | None:
        """What is to be sent after this event, and up to which; None where a stream was too slow for that."""
        with self._lock:
            assert self._buffer is not None
            return self._buffer.after(position)

    # from any thread, also from a handler of signals

    def end(self, server: Any = None) -> None:
        """The process ends: all streams do. ``server`` is uvicorn's, which waits for them."""
        self.ending = True
        self._in_loop(lambda: self._end(server))

    def _end(self, server: Any) -> None:
        self._wake()
        asyncio.get_running_loop().call_later(_PATIENCE, self._cancel, server)

    def _cancel(self, server: Any) -> None:
        """Those whose clients do not take what is sent are still there."""
        for reader in self._readers:
            if reader.task is not None:
                reader.task.cancel()
        if server is not None:
            asyncio.get_running_loop().call_later(_PATIENCE, hang_up, server, PATH)

    def _in_loop(self, work: Callable[[], object]) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(work)

    def _wake(self) -> None:
        for reader in self._readers:
            reader.wake.set()

    # in the feed's thread

    def needed(self) -> bool:
        """Whether a stream is open, or was a moment ago."""
        with self._lock:
            return self._is_needed()

    def _is_needed(self) -> bool:
        return self._open > 0 or self.clock() < self._until

    def step(self, step: Step) -> None:
        """Make events of what is different."""
        with self._lock:
            if not self._is_needed():
                self._buffer, self._nodes = None, {}
                return
            buffer = self._buffer
        try:
            if buffer is None:
                self._begin(step)
            else:
                self._tell(step, buffer)
        finally:
            self._in_loop(self._wake)

    def _begin(self, step: Step) -> None:
        """What is known by now is not told: clients read it."""
        self._changed_nodes(step)
        self._look, self._beat_at = False, self.clock() + self.beat
        with self._lock:
            self._buffer = self._make()

    def _tell(self, step: Step, buffer: Buffer) -> None:
        self._look = self._look or step.nodes
        told = sorted(step.told)
        for some in _split(told):
            records = ",".join(_json(step.records[number]) for number in some)
            self._add(buffer, "tunnels", f'{{"tunnels":[{records}],"deleted":[]}}')
        if step.deleted:
            self._add(buffer, "tunnels", _json({"tunnels": [], "deleted": sorted(step.deleted)}))
        ends = sorted(key for key in step.measured_ends if key[0] not in step.told)
        for part in _split(ends):
            self._add(buffer, "measured", _json({"ends": [_measured(step, *key) for key in part]}))
        if self._look:  # this may raise; then there is no beat either
            if nodes := self._changed_nodes(step):
                self._add(buffer, "nodes", _json(nodes))
            self._look = False
        if self.clock() >= self._beat_at:
            self._beat_at = self.clock() + self.beat
            self._add(buffer, "beat", "{}")

    def _add(self, buffer: Buffer, name: str, data: str) -> None:
        with self._lock:
            buffer.add(name, data)

    def _changed_nodes(self, step: Step) -> dict[str, Any] | None:
        """What of GET /api/tunnels/nodes is different, but for ages."""
        with Session(step.engine) as session:
            answer = self._services.all(session)
        nodes = {_key(item): item for item in answer["nodes"]}
        now = {key: _without_ages(item) for key, item in nodes.items()} | {"": answer["manager"]}
        before, self._nodes = self._nodes, now
        if before == now:
            return None
        changed = [item for key, item in nodes.items() if before.get(key) != now[key]]
        return {"manager": answer["manager"], "nodes": changed, "gone": sorted(before.keys() - now.keys())}


def _split(items: list[Any]) -> Iterable[list[Any]]:
    return (items[start : start + _PER_EVENT] for start in range(0, len(items), _PER_EVENT))


def _measured(step: Step, number: int, role: str) -> dict[str, Any]:
    end = next(end for end in step.records[number]["ends"] if end["role"] == role)
    return {"tunnel_id": number, "role": role, **{name: end[name] for name in _MEASURED}}


def _key(item: dict[str, Any]) -> str:
    """A node that is deleted may have the number of a later one."""
    return str(item["uuid"] if item["deleted"] else item["node_id"])


def _without_ages(item: dict[str, Any]) -> dict[str, Any]:
    deletions = [{name: found[name] for name in found if name != "age"} for found in item["deletions"]]
    return {**item, "contact_age": None, "deletions": deletions}


def _json(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))
