# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Something that a webhook tells: an HTTP server that answers as a test wants, and keeps what came."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

Headers = dict[str, str]
TOKEN = "t0ken-that-nobody-may-read"


class Receiver:
    """``answers`` are used one after the other, then 200: a status; with headers; or what is called instead."""

    def __init__(self, folder: Path | None = None, tls: str | None = None) -> None:
        """``tls``: the name of ``NAME.crt`` and ``NAME.key`` in ``folder``."""
        self.answers: list[int | tuple[int, Headers] | Callable[[], object]] = []
        self.bodies: list[bytes] = []
        self.headers: list[Headers] = []
        self.at: list[float] = []
        self.paths: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        if tls is not None:
            assert folder is not None
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(folder / f"{tls}.crt", folder / f"{tls}.key")
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._server.server_port}/hook/{TOKEN}?key={TOKEN}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def messages(self) -> list[Any]:
        """What came, in its order."""
        return [json.loads(body) for body in self.bodies]

    @property
    def changes(self) -> list[Any]:
        """All changes of all messages."""
        return [change for message in self.messages for change in message["changes"]]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.at.append(time.monotonic())
                receiver.paths.append(self.path)
                receiver.headers.append(dict(self.headers))
                receiver.bodies.append(body)
                answer = receiver.answers.pop(0) if receiver.answers else 200
                if callable(answer):
                    answer()
                    self.close_connection = True
                    return
                status, headers = answer if isinstance(answer, tuple) else (answer, {})
                self.send_response(status)
                for name, value in ({"Content-Length": "0"} | headers).items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *_what: object) -> None:
                return None

        return Handler
