# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A STAND-IN for Marzban, of Python's own library only: it answers the calls that the role panel looks at, at the place
and by TLS as its settings say, and shows what it was given of them at /settings."""

from __future__ import annotations

import importlib
import json
import socket
import ssl
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

settings = importlib.import_module("config").settings
routes = importlib.import_module("app").routes


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        mine = {name: value for name, value in settings.items() if name.startswith("TUNNEL_")}
        answers = {**routes, "/settings": (200, {}, mine)}
        status, headers, answer = answers.get(self.path, (404, {}, {"detail": "Not Found"}))
        body = json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Type": "application/json", "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "somebody"


class OnSocket(ThreadingHTTPServer):
    address_family = socket.AF_UNIX

    def server_bind(self) -> None:
        Path(str(self.server_address)).unlink(missing_ok=True)
        self.socket.bind(self.server_address)


def main() -> None:
    place = settings.get("UVICORN_UDS") or ("127.0.0.1", int(settings.get("UVICORN_PORT", "8000")))
    kind: Any = OnSocket if isinstance(place, str) else ThreadingHTTPServer
    server = kind(place, Handler)
    if settings.get("UVICORN_SSL_CERTFILE"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(settings["UVICORN_SSL_CERTFILE"], settings["UVICORN_SSL_KEYFILE"])
        server.socket = context.wrap_socket(server.socket, server_side=True)
    print("serving, with the database", settings.get("SQLALCHEMY_DATABASE_URL"), flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
