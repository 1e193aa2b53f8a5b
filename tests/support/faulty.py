# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real HTTP server that misbehaves on demand: a proxy in front of an embedded panel, or one with nothing behind it.

    with Faulty.before(panel) as faulty:
        faulty.on("GET", "/api/tunnels", answer(500, "Internal Server Error", "text/plain"), times=1)
        ... use faulty.url with panel.ca_path ...
        assert faulty.seen("GET", "/api/tunnels") == 2

What no rule matches is passed on to the panel, or answered with 404 where there is none.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

from tests.support.panel import Panel


@dataclass
class Request:
    method: str
    path: str  # without the query
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    target: str  # path and query as they were sent
    client: tuple[str, int]  # where it came from: another one for each connection


@dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class Drop(Exception):
    """Raised by a rule: the connection is closed without an answer."""


Rule = Callable[[Request], Answer]


def answer(status: int, body: Any = "", kind: str = "application/json", **headers: str) -> Rule:
    """Always the same answer; ``body`` is bytes, a text, or something that becomes JSON."""
    if not isinstance(body, bytes):
        text = body if isinstance(body, str) and kind != "application/json" else json.dumps(body)
        body = text.encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda request: Answer(status, body, {"Content-Type": kind, **named})


def drop(request: Request) -> Answer:
    """The connection breaks off."""
    raise Drop


HTML_404 = answer(404, "<!doctype html><title>404</title>", "text/html; charset=utf-8")
NO_ROUTE = answer(404, {"detail": "Not Found"})


class Faulty:
    """``url`` is where it listens; ``requests`` what came, in order."""

    def __init__(self, panel: Panel | None = None, certificate: tuple[Path, Path] | None = None) -> None:
        self.requests: list[Request] = []
        self._rules: list[list[Any]] = []
        self._lock = threading.Lock()
        self._panel = panel
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.faulty = self  # type: ignore[attr-defined]
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        scheme = "https" if certificate else "http"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    @classmethod
    def before(cls, panel: Panel) -> Faulty:
        """A proxy in front of ``panel``, with the panel's own certificate."""
        certificate = (panel.directory / "server.pem", panel.directory / "server-key.pem") if panel.ca_path else None
        return cls(panel, certificate)

    def on(self, method: str, path: str, rule: Rule, times: int | None = None, skip: int = 0) -> None:
        """From now on ``rule`` answers requests with this method and path (a regular expression that matches it all).

        It lets ``skip`` of them through first, and goes after ``times`` of them. Earlier rules come first.
        """
        with self._lock:
            self._rules.append([method, re.compile(path), rule, times, skip])

    def behave(self) -> None:
        """Forget all rules."""
        with self._lock:
            self._rules.clear()

    # The faults that whole runs are tried with

    def lose_tunnels_api(self) -> None:
        """As a panel whose tunnels API went away with an update."""
        for method in ("GET", "POST", "PUT", "DELETE"):
            self.on(method, "/api/tunnels.*", NO_ROUTE)

    def lists_nothing(self) -> None:
        """The list of tunnels is empty by mistake; each tunnel by itself is still there."""

        def empty(request: Request) -> Answer:
            passed = self.forward(request)
            passed.body = b"[]"
            return passed

        self.on("GET", "/api/tunnels", empty)

    def one_page_then_fails(self) -> None:
        """The first page is full: the panel's tunnels, and numbers for the rest. The next page is a 500."""

        def page(request: Request) -> Answer:
            if request.query.get("skip", "0") != "0":
                return Answer(500, b"Internal Server Error", {"Content-Type": "text/plain"})
            passed = self.forward(request)
            tunnels = json.loads(passed.body)
            last = tunnels[-1]["id"] if tunnels else 0
            wanted = int(request.query.get("limit", 100))
            passed.body = json.dumps(tunnels + [{"id": last + n} for n in range(1, wanted - len(tunnels) + 1)]).encode()
            return passed

        self.on("GET", "/api/tunnels", page)

    # What was asked

    def seen(self, method: str, path: str) -> int:
        """How many requests of this method and path (a regular expression) came."""
        return sum(request.method == method and bool(re.fullmatch(path, request.path)) for request in self.requests)

    def forward(self, request: Request) -> Answer:
        """The panel's own answer."""
        if self._panel is None:
            return NO_ROUTE(request)
        place = urlsplit(self._panel.url)
        assert place.hostname
        connection: http.client.HTTPConnection
        if self._panel.ca_path:
            context = ssl.create_default_context(cafile=self._panel.ca_path)
            connection = http.client.HTTPSConnection(place.hostname, place.port, timeout=30, context=context)
        else:
            connection = http.client.HTTPConnection(place.hostname, place.port, timeout=30)
        left_out = ("host", "connection", "content-length", "transfer-encoding", "date", "server")
        sent = {key: value for key, value in request.headers.items() if key.lower() not in left_out}
        with contextlib.closing(connection):
            connection.request(request.method, request.target, request.body or None, sent)
            response = connection.getresponse()
            headers = {key: value for key, value in response.getheaders() if key.lower() not in left_out}
            return Answer(response.status, response.read(), headers)

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Faulty:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _answer(self, request: Request) -> Answer:
        with self._lock:
            self.requests.append(request)
            rule = self._next_rule(request)
        return rule(request)

    def _next_rule(self, request: Request) -> Rule:
        for entry in self._rules:
            method, path, rule, times, skip = entry
            if method != request.method or not path.fullmatch(request.path):
                continue
            if skip:
                entry[4] -= 1
                return self.forward
            if times is None:
                return cast(Rule, rule)
            if times:
                entry[3] -= 1
                return cast(Rule, rule)
        return self.forward


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that breaks off is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _any(self) -> None:
        faulty: Faulty = self.server.faulty  # type: ignore[attr-defined]
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        request = Request(self.command, parts.path, query, dict(self.headers), body, self.path, self.client_address)
        try:
            found = faulty._answer(request)
        except Drop:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            return
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, ssl.SSLError):
            self.send_response(found.status)
            for name, value in found.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(found.body)))
            self.end_headers()
            self.wfile.write(found.body)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _any

    def log_message(self, format: str, *args: Any) -> None:
        """No noise on stderr: ``requests`` is the record."""
