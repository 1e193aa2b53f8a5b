# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""One kept HTTPS connection to a node. What comes from there is hostile until it has been read."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import ssl
import time
from typing import Any

from marzban_tunnels.manager import pins, problems, threads
from marzban_tunnels.manager.problems import Place, Problem, Say

LARGEST = 4 * 2**20  # bytes of an answer
UNUSED = 20.0  # seconds after which a connection is let go; a node ends it after 30
_HEAD = 16384
_STATUS = re.compile(rb"HTTP/1\.[01] ([2-5][0-9]{2})(?: [^\r\n]*)?")
_LENGTH = re.compile(rb"[0-9]{1,9}")


class _Stale(Exception):
    """A kept connection was closed by the node in the meantime, before it answered."""


class Client:
    """Calls to one node. Not for two tasks at once, unless they take turns: calls wait for each other.

    ``place``, ``pin`` and ``headers`` may be set at any time; another place or pin makes a new connection.
    """

    def __init__(
        self, place: Place, pin: str, headers: dict[str, str], tls: ssl.SSLContext, connect: float, call: float
    ) -> None:
        self.place, self.pin, self.headers = place, pin, headers
        self._tls, self._connect, self._call = tls, connect, call
        self._turn = asyncio.Lock()
        self._kept: tuple[asyncio.StreamReader, asyncio.StreamWriter, tuple[str, int, str]] | None = None
        self._used = 0.0

    async def call(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """Status and JSON of an answer. Raises Problem."""
        try:
            async with self._turn:
                answer = await self._in_turn(method, path, body, headers or {})
                self._used = time.monotonic()
                return answer
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the connection, at once."""
        if self._kept is not None:
            self._kept[1].transport.abort()
            self._kept = None

    def let_go_unused(self) -> None:
        """A connection takes memory here and there; and a change that is sent on one that just ends is not repeated."""
        if time.monotonic() - self._used > UNUSED and not self._turn.locked():
            self.close()

    async def _in_turn(self, method: str, path: str, body: Any, headers: dict[str, str]) -> tuple[int, Any]:
        content = b"" if body is None else json.dumps(body).encode()
        named = {**self.headers, **headers, "Host": "marzban-node", "Content-Length": str(len(content))}
        if content:
            named["Content-Type"] = "application/json"
        head = "".join(f"{name}: {value}\r\n" for name, value in named.items())
        request = f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + content
        while True:
            reader, writer, fresh = await self._connection()
            try:
                return await asyncio.wait_for(self._exchange(reader, writer, request), self._call)
            except _Stale:
                self.close()
                if fresh or method != "GET":  # a change is not sent twice: its number would be an old one
                    raise self._problem(problems.closed()) from None
            except TimeoutError:
                raise self._problem(problems.timed_out(self._call, False)) from None
            except (OSError, asyncio.IncompleteReadError) as error:
                if isinstance(error, ssl.SSLError):
                    raise self._problem(problems.no_tls(error.reason or "an error of TLS")) from None
                raise self._problem(problems.closed()) from None

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bool]:
        """The kept connection, or a new one whose pin is right; nothing has been sent on it yet."""
        at = self.place
        where = (at.address, at.port, self.pin)
        if self._kept is not None:
            reader, writer, kept = self._kept
            if kept == where and not writer.is_closing() and not reader.at_eof():
                return reader, writer, False
            self.close()
        try:
            reader, writer = await asyncio.wait_for(self._open(at), self._connect)
        except TimeoutError:
            raise self._problem(problems.timed_out(self._connect, True)) from None
        except ssl.SSLError as error:
            raise self._problem(problems.no_tls(error.reason or "an error of TLS")) from None
        except ConnectionRefusedError:
            raise self._problem(problems.refused()) from None
        except ConnectionError:
            raise self._problem(problems.no_tls("it closed the connection")) from None
        except socket.gaierror:
            raise self._problem(problems.refused("its name can't be resolved")) from None
        except (OSError, ValueError) as error:  # ValueError: text that is not an address
            reason = getattr(error, "strerror", None)
            raise self._problem(problems.refused(reason or "that is not an address")) from None
        try:
            seen = pins.pin_of(writer.get_extra_info("ssl_object").getpeercert(True) or b"")
        except ValueError as error:
            seen = str(error)
        if seen != self.pin:
            writer.transport.abort()
            raise self._problem(problems.certificate_changed(self.pin, seen))
        self._kept = (reader, writer, where)
        return reader, writer, True

    async def _open(self, at: Place) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """At the first address that answers: one that stays silent leaves the others their part of the time."""
        addresses = await threads.aside(_resolve, at.address)
        for address in addresses[:-1]:
            with contextlib.suppress(OSError):  # a TimeoutError is one
                return await asyncio.wait_for(self._open_at(address, at.port), self._connect / len(addresses))
        return await self._open_at(addresses[-1], at.port)

    async def _open_at(self, address: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(address, port, ssl=self._tls, server_hostname="", limit=_HEAD)

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
    ) -> tuple[int, Any]:
        try:
            writer.write(request)
            await writer.drain()
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            raise self._problem(problems.bad_answer("headers without an end")) from None
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise
            raise _Stale from None
        except ConnectionError:
            raise _Stale from None
        status, length, keep = self._head(head)
        content = await reader.readexactly(length)
        if not keep:
            self.close()
        if status in (401, 403):
            raise self._problem(problems.key_wrong(status))
        try:
            return status, json.loads(content)
        except (ValueError, RecursionError):
            raise self._problem(problems.bad_answer(f"status {status}, and no JSON")) from None

    def _head(self, head: bytes) -> tuple[int, int, bool]:
        first, *lines = head[:-4].split(b"\r\n")
        found = _STATUS.fullmatch(first)
        if not found:
            raise self._problem(problems.bad_answer("not HTTP"))
        fields: dict[bytes, bytes] = {}
        for line in lines:
            name, _colon, value = line.partition(b":")
            fields[name.strip().lower()] = value.strip()
        length = fields.get(b"content-length", b"")
        if not _LENGTH.fullmatch(length) or b"transfer-encoding" in fields:
            raise self._problem(problems.bad_answer("no Content-Length"))
        if int(length) > LARGEST:
            raise self._problem(problems.bad_answer(f"{int(length)} bytes, at most {LARGEST} are taken"))
        return int(found[1]), int(length), fields.get(b"connection", b"").lower() != b"close"

    def _problem(self, say: Say) -> Problem:
        return say(self.place)


def _resolve(host: str) -> list[str]:
    """The addresses of a host, at most three; an address itself is not looked up."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in found))[:3]
