# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""One line of JSON per request, and limits on what is read of one."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from datetime import UTC, datetime
from typing import IO, Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_BODY = 16 * 1024 * 1024  # bytes


class Lines:
    """Writes JSON objects, one a line, each at once; to a file (mode 0600) or to stderr."""

    def __init__(self, path: str | None) -> None:
        self._lock = threading.Lock()
        self._stream: IO[str] = sys.stderr
        if path:
            self._stream = open(path, "a", encoding="utf-8", opener=_private)  # noqa: SIM115

    def write(self, **fields: Any) -> None:
        """One line, with the time in front."""
        moment = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": moment, **fields}) + "\n"
        with self._lock:
            self._stream.write(line)
            self._stream.flush()


class LogHandler(logging.Handler):
    """What the libraries log, as lines of the same kind."""

    def __init__(self, lines: Lines) -> None:
        super().__init__()
        self._lines = lines
        self.setFormatter(logging.Formatter())

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        self._lines.write(level=record.levelname.lower(), logger=record.name, message=self.format(record))


class AccessLog:
    """ASGI middleware: method, path, status, milliseconds, admin, client. No query string, header or body.

    The line is written before the last part of the answer leaves (of one without a body: before its head), so that
    who has read an answer finds its line. Of an answer whose length nobody knows it is written when it begins: a stream
    may go on for days.
    """

    def __init__(self, app: ASGIApp, lines: Lines) -> None:
        self._app = app
        self._lines = lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        scope.setdefault("state", {})
        status, written, read = 500, False, 0
        head: Message | None = None

        def write() -> None:
            nonlocal written
            if written:
                return
            written = True
            self._lines.write(
                method=scope["method"],
                path=scope["path"],
                status=status,
                milliseconds=round((time.monotonic() - started) * 1000, 1),
                admin=scope["state"].get("admin"),
                client=scope["client"][0] if scope.get("client") else None,
            )

        async def count(message: Message) -> None:
            nonlocal status, head
            if message["type"] == "http.response.start":
                status, head = message["status"], message
                return
            if message["type"] == "http.response.body" and (not message.get("more_body") or _is_endless(head)):
                write()
            if head is not None:
                await send(head)
                head = None
            await send(message)

        async def limit() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > LARGEST_BODY:
                raise HTTPException(413, f"At most {LARGEST_BODY} bytes in a request")
            return message

        try:
            await self._app(scope, limit, count)
        finally:
            write()


def _is_endless(head: Message | None) -> bool:
    return head is not None and not any(name.lower() == b"content-length" for name, _value in head["headers"])


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
