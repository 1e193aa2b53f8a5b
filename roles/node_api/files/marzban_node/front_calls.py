# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The calls of panels, checked as far as that needs no rights, and handed to the root half: one line of JSON each."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import re
from typing import Any, NamedTuple

from aiohttp.web import BaseRequest, Response, StreamResponse

from . import front_metrics
from .front_answers import SERVER, answered, refusal
from .front_connections import Connection, source
from .front_wrong_keys import WrongKeys

BODY = 256 * 1024  # bytes, also of the line to the root half
ANSWER = 16 * 1024 * 1024  # bytes of a line from it
ROOT_TIME = 4.0  # seconds that it may take: it answers slow work by 202 after one
BODY_TIME = 10.0  # seconds that a client may take for a body
LATE = 1.0  # seconds by which a wrong key is answered late
LONGEST_WAIT = 20.0  # seconds that a call may wait for news, before ROOT_TIME
MAX_ID = 2**31 - 1
MAX_COUNTER = 2**53

ACCESS_KEY = "The node's access key is required, as Authorization: Bearer KEY."
METRICS_KEY = "The panel's TUNNEL_METRICS_KEY is required, as Authorization: Bearer KEY."
_KEY = re.compile(r"Bearer +([!-~]{1,256}) *\Z", re.IGNORECASE)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z", re.IGNORECASE)
_NUMBER = re.compile(r"(0|[1-9][0-9]{0,18})\Z")
_NEWS = re.compile(r"[0-9A-Za-z_-]{1,64}\Z")
_SECONDS = re.compile(r"[0-9]{1,2}(\.[0-9]{1,3})?\Z")
_STATUSES = {200, 202, 401, 403, 404, 409, 413, 422, 503}

log = logging.getLogger("marzban_node")


class Route(NamedTuple):
    """A path and, by method, the call of the root half (None: the front answers by itself)."""

    path: str  # as the OpenAPI document has it
    calls: dict[str, str | None]

    @property
    def pattern(self) -> re.Pattern[str]:
        return re.compile(self.path.replace("{id}", "([^/]*)") + r"\Z")


ROUTES = (
    Route("/health", {"GET": None}),
    Route("/metrics", {"GET": "metrics"}),
    Route("/api/tunnels", {"GET": "list"}),
    Route("/api/tunnel", {"POST": "post"}),
    Route("/api/tunnel/{id}", {"DELETE": "delete"}),
    Route("/api/tunnel/{id}/status", {"GET": "status"}),
)
_PATTERNS = [(route.pattern, route.calls) for route in ROUTES]


class Refused(Exception):
    """A request that gets ``answer``."""

    def __init__(self, answer: Response) -> None:
        super().__init__(answer.status)
        self.answer = answer


class Calls:
    """Answers requests; ``root_half`` is the path of the root half's socket."""

    def __init__(self, root_half: str) -> None:
        self._root_half = root_half
        self._wrong = WrongKeys()
        self._silent = False  # whether the root half did not answer the last time: that is logged once
        self._ending = asyncio.Event()

    def end(self) -> None:
        """The front ends: calls that wait for news are over."""
        self._ending.set()

    async def answer(self, request: BaseRequest) -> StreamResponse:
        """The answer, whatever was sent."""
        connection = request.protocol
        assert isinstance(connection, Connection)
        try:
            answer = await self._answer(request, connection)
        except Refused as refused:
            answer = refused.answer
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception as error:  # a mistake of ours; what was sent stays out of the log
            log.error("A request could not be answered: %s.", type(error).__name__)
            sentence = "This request could not be answered: see journalctl -u marzban-node-front."
            answer = refusal(503, "failed", sentence)
        if _has_body(request) and not request.content.is_eof():
            connection.drop_body()
            answer.force_close()
        connection.next_request()
        return answer

    async def _answer(self, request: BaseRequest, connection: Connection) -> Response:
        path, _mark, query = request.raw_path.partition("?")
        found = [(match, calls) for pattern, calls in _PATTERNS for match in [pattern.match(path)] if match]
        if not found:
            raise Refused(refusal(404, "no_such_path", "There is no such path: docs/node-api.openapi.json has all."))
        match, calls = found[0]
        if request.method not in calls:
            allowed = ", ".join(calls)
            sentence = "This path takes %s only." % allowed
            raise Refused(refusal(405, "no_such_method", sentence, Allow=allowed))
        call = calls[request.method]
        if call is None:
            return Response(text="ok", headers={"Server": SERVER})
        given = _access(request, METRICS_KEY if call == "metrics" else ACCESS_KEY)
        if match.groups():
            given["id"] = _tunnel_id(match[1])
        if call == "list":
            given |= _waiting(query)
        if call == "delete":
            given["counter"] = _counter(request.headers.get("Marzban-Counter", ""))
            given["epoch"] = request.headers.get("Marzban-Epoch")
        content = await _content(request, connection)
        if call == "post":
            given["body"] = _object(content)
        return await self._ask(request, {"call": call, **given}, given.get("wait", 0.0))

    async def _ask(self, request: BaseRequest, call: dict[str, Any], wait: float) -> Response:
        line = json.dumps(call, separators=(",", ":")).encode("ascii") + b"\n"
        if len(line) > BODY:
            raise Refused(_too_large())
        try:
            status, body = await (self._wait(line, wait) if wait else asyncio.wait_for(self._exchange(line), ROOT_TIME))
        except (TimeoutError, OSError, EOFError, ValueError, RecursionError) as error:
            if not self._silent:
                log.warning("The root half did not answer (%s): see marzban-node-root.service.", type(error).__name__)
            self._silent = True
            if isinstance(error, TimeoutError):
                return refusal(503, "busy", "The node is busy: marzban-node-root.service did not answer yet.")
            sentence = "The root half did not answer: see systemctl status marzban-node-root.service on the node."
            return refusal(503, "unanswered", sentence)
        self._silent = False
        if status in (401, 403):
            await self._was_wrong(request)
        if status == 200 and call["call"] == "metrics":
            return front_metrics.answered(body)
        headers = {"WWW_Authenticate": "Bearer"} if status == 401 else {}
        return answered(status, body, **headers)

    async def _wait(self, line: bytes, seconds: float) -> tuple[int, dict[str, Any]]:
        """The same for a call that may wait so long before it is answered. Raises Refused where the front ends."""
        exchange, ending = asyncio.create_task(self._exchange(line)), asyncio.create_task(self._ending.wait())
        try:
            await asyncio.wait({exchange, ending}, timeout=seconds + ROOT_TIME, return_when=asyncio.FIRST_COMPLETED)
            if exchange.done():
                return exchange.result()
            if ending.done():
                raise Refused(refusal(503, "unanswered", "The node service ends at this moment. Ask again."))
            raise TimeoutError
        finally:
            exchange.cancel()
            ending.cancel()

    async def _exchange(self, line: bytes) -> tuple[int, dict[str, Any]]:
        """What the root half answers to a line. Raises OSError, EOFError or ValueError."""
        reader, writer = await asyncio.open_unix_connection(self._root_half, limit=ANSWER)
        try:
            writer.write(line)
            await writer.drain()
            answer = json.loads(await reader.readuntil(b"\n"))
        except asyncio.LimitOverrunError as error:
            raise ValueError("the answer is too long") from error
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        status, body = (answer.get(name) for name in ("status", "body")) if isinstance(answer, dict) else (None, None)
        if not isinstance(status, int) or status not in _STATUSES or not isinstance(body, dict):
            raise ValueError("the answer is of another shape")
        return status, body

    async def _was_wrong(self, request: BaseRequest) -> None:
        """Notes a wrong key, and waits where there have been many. A right one never gets here, so never waits."""
        client = source(request.remote or "")
        for sentence in self._wrong.note(client):
            log.warning("%s", sentence)
        if self._wrong.many(client):
            await asyncio.sleep(LATE)


def _access(request: BaseRequest, wanted: str) -> dict[str, Any]:
    """The key and the SHA-256 of the client's certificate, as far as there are any. Raises Refused without both."""
    given = {}
    headers = request.headers.getall("Authorization", [])
    key = _KEY.match(headers[0]) if len(headers) == 1 else None
    if key:
        given["key"] = key[1]
    tls = request.get_extra_info("ssl_object")
    certificate = tls.getpeercert(binary_form=True) if tls is not None else None
    if certificate:
        given["certificate"] = hashlib.sha256(certificate).hexdigest()
    if not given:
        raise Refused(refusal(401, "no_key", wanted, WWW_Authenticate="Bearer"))
    return given


def _has_body(request: BaseRequest) -> bool:
    return bool("Transfer-Encoding" in request.headers or request.content_length)


async def _content(request: BaseRequest, connection: Connection) -> bytes:
    """The body. Raises Refused."""
    length = request.content_length or 0
    if "Transfer-Encoding" in request.headers:
        raise Refused(refusal(411, "no_length", "Give the length of the body in Content-Length."))
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Refused(refusal(415, "encoded", "Send the body as it is, without Content-Encoding."))
    if length > BODY:
        raise Refused(_too_large())
    if not length:
        return b""
    connection.body(length)
    try:
        return await asyncio.wait_for(request.content.read(), BODY_TIME)
    except TimeoutError:
        raise Refused(refusal(408, "too_slow", "The body did not come within %d s." % BODY_TIME)) from None


def _too_large() -> Response:
    return refusal(413, "too_large", "The body has more than %d bytes: a tunnel has less." % BODY)


def _object(content: bytes) -> dict[str, Any]:
    """The object of JSON that a body is. Raises Refused."""
    try:
        body = json.loads(content.decode("utf-8"), parse_constant=_no_number)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        sentence = "Expected an object of JSON in UTF-8: send what docs/node-api.openapi.json has for this call."
        raise Refused(refusal(422, "invalid", {"body": sentence}))
    return body


def _no_number(text: str) -> None:
    raise ValueError(text)


def _tunnel_id(text: str) -> str | int:
    """A tunnel's uuid, or its number. Raises Refused."""
    if _UUID.match(text):
        return text.lower()
    if _NUMBER.match(text) and 1 <= int(text) <= MAX_ID:
        return int(text)
    raise Refused(refusal(422, "invalid", {"id": "Give the tunnel's uuid, or its number from 1 to %d." % MAX_ID}))


def _waiting(query: str) -> dict[str, Any]:
    """``after`` and ``wait`` of a query, as far as they are there; what else is in it is left alone. Raises Refused."""
    given: dict[str, Any] = {}
    for part in query.split("&"):
        name, _equals, text = part.partition("=")
        if name not in ("after", "wait"):
            continue
        sentence = None
        if name in given:
            sentence = "%s: give it once." % name
        elif name == "after" and not _NEWS.match(text):
            sentence = "after: give what the last answer has as news."
        elif name == "wait" and not (_SECONDS.match(text) and float(text) <= LONGEST_WAIT):
            sentence = "wait: give a number of seconds from 0 to %d." % LONGEST_WAIT
        if sentence:
            raise Refused(refusal(422, "invalid", {name: sentence}))
        given[name] = float(text) if name == "wait" else text
    return given


def _counter(text: str) -> int:
    if _NUMBER.match(text) and int(text) <= MAX_COUNTER:
        return int(text)
    sentence = "The header Marzban-Counter is required: the number of this write, from 0 to %d." % MAX_COUNTER
    raise Refused(refusal(422, "invalid", {"counter": sentence}))
