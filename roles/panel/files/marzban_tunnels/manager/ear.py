# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""A call to a node that waits until there is something new, on a connection of its own: what a node has measured is
here at once, and nobody asks again and again. A node of an older version can't be listened to."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

from marzban_tunnels.manager.client import Client
from marzban_tunnels.manager.hub import Pace

_QUICK = 1.0  # seconds; after answers that come sooner the next call waits longer and longer, up to as long
_FIRST_PAUSE = 0.1
_TUNNELS = 1000  # of a node, read in a second: a large listing costs time


class Ear:
    """``heard`` is called when there is an answer to ``take``, and when listening fails.

    An answer counts only where the call was sent after the last visit of the node: else the visit has seen later things
    than it has. Then the call is sent again with what the visit knows, and is answered at once where there is more.
    """

    def __init__(self, client: Client, pace: Pace, heard: Callable[[], None]) -> None:
        self.client, self._pace, self._heard = client, pace, heard
        self.failures = 0  # in a row
        self._may = asyncio.Event()
        self._visits = 0
        self._news, self._tunnels = "", 0
        self._pause = 0.0
        self._answer: Any = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Once the node may be called."""
        self._task = asyncio.create_task(self._run())

    def listen(self, news: str, tunnels: int) -> None:
        """From now on, for other news than these; they came with so many tunnels."""
        self._news, self._tunnels = news, tunnels
        self._may.set()

    def take(self) -> Any:
        """The listing that was heard, if any; a visit begins. A call that is waiting goes on."""
        answer, self._answer = self._answer, None
        self._visits += 1
        self._may.clear()
        return answer

    def aim(self) -> None:
        """The client calls another place, or shows another key: what waits is ended."""
        if self._task is not None:
            self._task.cancel()
            self.take()
            self.start()

    async def end(self) -> None:
        """At once."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self.client.close()

    async def _run(self) -> None:
        while True:
            await self._may.wait()
            pause = max(self._pause, self._tunnels / _TUNNELS)
            if pause >= _FIRST_PAUSE:
                await asyncio.sleep(pause)
            if self._may.is_set():
                await self._once()

    async def _once(self) -> None:
        visits, begun = self._visits, time.monotonic()
        try:
            path = f"/api/tunnels?after={self._news}&wait={self._pace.listen:g}"
            status, body = await self.client.call("GET", path)
        except Exception:
            status, body = 0, None
        if status != 200:  # the watch asks in the same way, and says what is wrong
            self.failures += 1
            if visits == self._visits:
                self._may.clear()
                self._heard()
            await asyncio.sleep(min(self._pace.retry * 2 ** min(self.failures - 1, 10), self._pace.slow))
            return
        self.failures = 0
        quick = time.monotonic() - begun < _QUICK
        self._pause = min(max(2 * self._pause, _FIRST_PAUSE), _QUICK) if quick else 0.0
        if visits == self._visits:
            self._may.clear()
            self._answer = body
            self._heard()
