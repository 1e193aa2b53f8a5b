# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""``GET /api/tunnels/events``, for either door. An open stream has no thread, and no session of the database."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Header, Request, Response
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from marzban_tunnels.answers import Start, errors, route_class
from marzban_tunnels.events import Events, Reader
from marzban_tunnels.service import Tunnels

_AGAIN = 10.0  # seconds until that is tried again, where it could not be seen
_READY = 5.0  # seconds that a stream waits until the feed has looked at the database
_QUIET = 20.0  # seconds without an event after which a comment shows a proxy, and us, that the other side is there
_KEPT = ("type", "asgi", "http_version", "scheme", "server", "client", "headers", "state")  # of a request
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_FULL = "As many streams of events are open as this panel serves: read the list again and again instead"
_BUSY = "The database is busy: try again in a few seconds"
_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {"description": "Server-sent events, without an end", "content": {"text/event-stream": {}}}
}


class Admission:
    """Asks the door's ``require_sudo`` outside of the streaming call: a session that it depends on would stay open for
    as long as the stream does, in one version of FastAPI or another."""

    def __init__(self, require_sudo: Callable[..., Any]) -> None:
        self.turn = asyncio.Semaphore(1)  # of streams that look again: together they use one thread at a time
        self._app = FastAPI(openapi_url=None)
        self._app.add_api_route("/", lambda: None, dependencies=[Depends(require_sudo)], response_model=None)

    async def check(self, scope: Scope) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and headers of the answer that this request would get. Raises what the door raises."""
        inner = {name: scope[name] for name in _KEPT if name in scope}
        inner |= {"method": "GET", "path": "/", "raw_path": b"/", "root_path": "", "query_string": b""}
        status, body, headers = 500, b"", {}

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            nonlocal status, body, headers
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = {name.decode("latin-1"): text.decode("latin-1") for name, text in message["headers"]}
            else:
                body += message.get("body", b"")

        await self._app(inner, receive, send)
        return status, body, headers


def events_router(
    events: Events,
    tunnels: Tunnels,
    require_sudo: Callable[..., Any],
    start: Start | None = None,
) -> APIRouter:
    """To be added before the router of the tunnels API, whose paths begin with a number."""
    admission = Admission(require_sudo)
    router = APIRouter(prefix="/api/tunnels", tags=["Tunnel"], route_class=route_class(tunnels, start))

    async def tunnel_events(request: Request, last_event_id: str | None = Header(None)) -> Response:
        """What changes, as server-sent events: tunnels, what was measured, nodes."""
        request.scope.setdefault("state", {})  # the door may leave there who asks
        status, body, headers = await admission.check(request.scope)
        if status != 200:
            told = {name: headers[name] for name in ("www-authenticate",) if name in headers}
            raise HTTPException(status, _detail(body), told)
        if events.ending or events.is_full():
            raise HTTPException(503, _FULL, {"Retry-After": "30"})
        with events.reading() as reader:
            if not await events.ready(reader, _READY):
                raise HTTPException(503, _BUSY, {"Retry-After": "5"})
        return Stream(events, admission, last_event_id)

    router.add_api_route(
        "/events", tunnel_events, methods=["GET"], response_class=Response, response_model=None,
        responses={**_EVENTS, **errors()},
        name=tunnel_events.__name__,
    )  # fmt: skip
    return router


class Stream(Response):
    """An answer that goes on until the client leaves, its token ends, or the panel does."""

    media_type = "text/event-stream"

    def __init__(self, events: Events, admission: Admission, last_event_id: str | None) -> None:
        super().__init__(headers=_HEADERS)
        del self.headers["content-length"]
        self._events, self._admission, self._last_event_id = events, admission, last_event_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._events.reading() as reader:
            leaving = asyncio.create_task(_leave(receive, reader))
            try:
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                await self._serve(scope, reader, send)
                if not reader.gone:
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
            except asyncio.CancelledError:
                if not self._events.ending or reader.task is None:
                    raise
                reader.task.uncancel()
            finally:
                leaving.cancel()

    async def _serve(self, scope: Scope, reader: Reader, send: Send) -> None:
        events, clock = self._events, self._events.clock
        data, position = events.hello(self._last_event_id)
        look_at = clock() + events.recheck * random.uniform(0.5, 1)  # not that of all streams at the same moment
        said_at, looking = clock(), None
        try:
            while not (events.ending or reader.gone):
                if looking is None and clock() >= look_at:
                    looking = asyncio.create_task(self._is_allowed(scope, reader))
                if looking is not None and looking.done():
                    if (allowed := looking.result()) is False:
                        return
                    look_at = clock() + (events.recheck if allowed else min(_AGAIN, events.recheck))
                    looking = None
                if not data:
                    found = events.after(position)
                    data, position = events.hello(None) if found is None else found
                if not data and clock() >= said_at + _QUIET:
                    data = b":\n\n"
                if data:
                    await send({"type": "http.response.body", "body": data, "more_body": True})
                    data, said_at = b"", clock()
                    continue
                reader.wake.clear()
                until = said_at + _QUIET if looking else min(look_at, said_at + _QUIET)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(until - clock()):
                        await reader.wake.wait()
        finally:
            if looking is not None:
                looking.cancel()

    async def _is_allowed(self, scope: Scope, reader: Reader) -> bool | None:
        """Whether the token still opens this; None where that can't be seen now, such as while the database is away."""
        try:
            async with self._admission.turn:
                status, _body, _headers = await self._admission.check(scope)
        except Exception:
            return None
        finally:
            reader.wake.set()
        return None if status >= 500 else status == 200


async def _leave(receive: Receive, reader: Reader) -> None:
    """Until the client has gone."""
    try:
        while (await receive())["type"] != "http.disconnect":
            continue
    except Exception:  # it has sent something that can't be read
        return
    finally:
        reader.gone = True
        reader.wake.set()


def _detail(body: bytes) -> Any:
    try:
        return json.loads(body)["detail"]
    except (ValueError, KeyError, TypeError):
        return "No access"
