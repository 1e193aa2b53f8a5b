# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Runs the standalone panel under uvicorn."""

from __future__ import annotations

import logging
import signal
import socket
import sys
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from marzban_tunnels.exits import Ending
from marzban_tunnels.standalone.access_log import Lines, LogHandler


class _Server(uvicorn.Server):
    """Says in a file on which port it listens, once it does."""

    def __init__(self, config: uvicorn.Config, port: int, port_file: Path | None, ending: Ending) -> None:
        super().__init__(config)
        self._ending = ending
        self._port = port
        self._port_file = port_file

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self._ending(self)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self._port_file and not self.should_exit:
            fresh = self._port_file.with_name(self._port_file.name + ".new")
            fresh.write_text(f"{self._port}\n")
            fresh.replace(self._port_file)


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes a free one. Raises OSError."""
    family, kind, protocol, _name, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def log_to(lines: Lines) -> None:
    """What anything here logs, to be called before anything does."""
    logging.basicConfig(level=logging.WARNING, handlers=[LogHandler(lines)], force=True)


def serve(
    app: ASGIApp,
    ending: Ending,
    bound: socket.socket,
    port_file: Path | None = None,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
    trusted_proxy: str | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, of which ``ending`` is told. The port file is there from the moment requests are
    taken until the end."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        proxy_headers=trusted_proxy is not None,
        forwarded_allow_ips=trusted_proxy,
        ssl_certfile=str(tls_cert) if tls_cert else None,
        ssl_keyfile=str(tls_key) if tls_key else None,
        timeout_graceful_shutdown=2,  # a client that keeps its TLS connection would hold us up
    )
    if port_file:
        port_file.unlink(missing_ok=True)
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises the signal again when it has shut down: leave in order then, with code 0
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        _Server(config, bound.getsockname()[1], port_file, ending).run(sockets=[bound])
    finally:
        if port_file:
            port_file.unlink(missing_ok=True)
