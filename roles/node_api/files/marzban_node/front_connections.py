# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""What a client of the front may cost: connections, time, and bytes in memory before anybody knows who it is.

aiohttp bounds neither the length of a head, nor how many requests are sent ahead, nor how long a client may take. So
it gets from here one head at a time, and then as much of a body as its handler asks for.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp.web import BaseRequest, Server, StreamResponse
from aiohttp.web_protocol import RequestHandler

from .front_answers import refusal

CONNECTIONS = 64
OF_ONE_ADDRESS = 16
HANDSHAKE = 5.0  # seconds
FIRST_HEAD = 10.0  # seconds from the connection to the end of the first request's head
IDLE = 30.0  # seconds between an answer and the next request's head; a panel keeps none so long that it does not use
WHOLE = 45.0  # seconds from the start of a request to the start of the next one: 24 for the answer, then to read it
HEAD = 8192  # bytes
AHEAD = 512 * 1024  # bytes that may come before they are asked for; asyncio gives 256 KiB at once
DROPPED = 1024 * 1024  # bytes of a refused body that are read, so that the client reads the answer
RETRY = 0.5  # seconds until the next try where no connection can be taken

log = logging.getLogger("marzban_node")
Answering = Callable[[BaseRequest], Awaitable[StreamResponse]]


def source(address: str) -> str:
    """Who counts as one client: an IPv4 address, or a /64 of IPv6."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)


class Place:
    """A client's connection among those that may be open."""

    def __init__(self, door: Door, address: str) -> None:
        self.door, self.source = door, source(address)
        self.served = False  # a whole head has come
        self.since = asyncio.get_running_loop().time()
        self.transport: asyncio.Transport | None = None
        door.places.add(self)
        door.taken[self.source] += 1

    def leave(self) -> None:
        """Also more than once."""
        if self in self.door.places:
            self.door.places.discard(self)
            self.door.taken[self.source] -= 1
            if not self.door.taken[self.source]:
                del self.door.taken[self.source]


class Connection(RequestHandler):
    """One connection. What comes is a head (``_head``), a part of the body that was asked for (``_left``), or held."""

    def __init__(self, place: Place, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.place = place
        self._held = bytearray()
        self._head = True
        self._left = 0
        self._dropping = False
        self._dropped = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.place.transport = transport if isinstance(transport, asyncio.Transport) else None
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.place.leave()
        self._held.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._dropping:
            self._dropped += len(data)
            if self._dropped > DROPPED:
                self._abort()
        elif self._left:
            part, rest = data[: self._left], data[self._left :]
            self._left -= len(part)
            self._held += rest
            if not self._left:
                self._hold()
            super().data_received(part)
        else:
            self._held += data
            if self._head:
                self._look_for_head()
            elif len(self._held) > AHEAD:
                self._abort()

    def body(self, length: int) -> None:
        """Gives aiohttp so many bytes of what follows the head."""
        self._left = length
        held, self._held = bytes(self._held), bytearray()
        self._resume()
        if held:
            self.data_received(held)

    def drop_body(self) -> None:
        """Reads no more of this connection: the answer is its last."""
        self._held.clear()
        self._dropping = True
        self._resume()

    def next_request(self) -> None:
        """The request is answered: the next one may come."""
        if not self._dropping and not self._left and self.transport is not None:
            self._head = True
            self._resume()
            if self._held:
                self._look_for_head()

    def handle_error(
        self, request: BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> StreamResponse:
        """What aiohttp could not read as HTTP; nothing of it is answered or logged."""
        self._dropping = True
        answer = refusal(400, "bad_request", "This is not a request of HTTP/1.1 that can be read.")
        answer.force_close()
        return answer

    def _look_for_head(self) -> None:
        end = self._held.find(b"\r\n\r\n", 0, HEAD)
        if end < 0:
            if len(self._held) >= HEAD:
                self._refuse_head()
            return
        head = bytes(self._held[: end + 4])
        del self._held[: end + 4]
        self._hold()
        self.place.served, self.place.since = True, asyncio.get_running_loop().time()
        super().data_received(head)

    def _hold(self) -> None:
        self._head = False
        # Not aiohttp's own pause_reading: that is about its parser, and differs between its versions.
        if self.place.transport is not None:
            self.place.transport.pause_reading()

    def _resume(self) -> None:
        if self.place.transport is not None and not self.place.transport.is_closing():
            self.place.transport.resume_reading()

    def _refuse_head(self) -> None:
        text = b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        transport = self.transport
        self._head, self._dropping = False, True
        self._held.clear()
        if transport is not None:
            transport.write(text)
            transport.close()

    def _abort(self) -> None:
        self._held.clear()
        if self.place.transport is not None:
            self.place.transport.abort()


class Door(Server):
    """Lets clients in, each to a Connection, and puts out those that take too long."""

    def __init__(self, answer: Answering, context: ssl.SSLContext) -> None:
        # Server's own arguments: what aiohttp would decompress is refused unread, and it writes no access log.
        self._settings = {
            "access_log": None,
            "keepalive_timeout": IDLE,
            "lingering_time": 1.0,
            "max_line_size": HEAD,
            "max_field_size": HEAD,
            "auto_decompress": False,
        }
        super().__init__(answer, **self._settings)  # type: ignore[arg-type]
        self._context = context
        self.places: set[Place] = set()
        self.taken: Counter[str] = Counter()

    async def let_in(self, listener: socket.socket) -> None:
        """Takes connections until it is cancelled."""
        loop = asyncio.get_running_loop()
        tasks: set[asyncio.Task[None]] = set()
        while True:
            try:
                client, address = await loop.sock_accept(listener)
            except OSError:  # no file descriptor is left, or the client has gone
                await asyncio.sleep(RETRY)
                continue
            if len(self.places) >= CONNECTIONS or self.taken[source(address[0])] >= OF_ONE_ADDRESS:
                client.close()
                continue
            task = loop.create_task(self._welcome(client, Place(self, address[0])))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    async def _welcome(self, client: socket.socket, place: Place) -> None:
        loop = asyncio.get_running_loop()

        def connection() -> Connection:
            return Connection(place, self, loop=loop, **self._settings)

        try:
            await loop.connect_accepted_socket(
                connection, client, ssl=self._context, ssl_handshake_timeout=HANDSHAKE, ssl_shutdown_timeout=2
            )
        except (TimeoutError, OSError, ssl.SSLError, EOFError):
            place.leave()
            client.close()
        except BaseException:
            place.leave()
            client.close()
            raise

    async def put_out_idle(self) -> None:
        """Ends connections that take longer than anybody needs, until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(1)
            now = loop.time()
            for place in list(self.places):
                if place.transport is not None and now - place.since > (WHOLE if place.served else FIRST_HEAD):
                    place.transport.abort()

    async def close(self) -> None:
        """Ends all connections; a request that is being answered gets a moment."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.shutdown(2.0), 4)
