# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Blocking work beside an event loop, in daemon threads: what hangs there (a name server, a locked database) does not
delay the end of the panel, as the executors of Python's library would."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
_Job = Callable[[], None]


class Worker:
    """One thread that does one thing after the other, until it is stopped."""

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    async def do(self, work: Callable[..., T], *arguments: Any) -> T:
        """Answers what ``work`` answers, or raises what it raises."""
        job, future = _job(work, arguments)
        self._jobs.put(job)
        return await future

    def stop(self) -> None:
        """After what waits."""
        self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


async def aside(work: Callable[..., T], *arguments: Any) -> T:
    """The same in a thread that is made for it."""
    job, future = _job(work, arguments)
    threading.Thread(target=job, daemon=True).start()
    return await future


def _job(work: Callable[..., T], arguments: tuple[Any, ...]) -> tuple[_Job, asyncio.Future[T]]:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(answer: T | None, error: BaseException | None) -> None:
        if not future.done():
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(answer)  # type: ignore[arg-type]

    def job() -> None:
        answer, failed = None, None
        try:
            answer = work(*arguments)
        except BaseException as error:  # handed on, whatever it is
            failed = error
        try:
            loop.call_soon_threadsafe(settle, answer, failed)
        except RuntimeError:  # the loop has ended: nobody waits
            return

    return job, future
