# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The Unix socket of the root half: a connection per call, a line of JSON there and one back."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

_log = logging.getLogger(__name__)
LARGEST = 262144  # bytes of a request
AT_ONCE = 32  # connections
PATIENCE = 5.0  # seconds for the line, and for its answer to be taken
PAUSE = 0.1  # seconds before the next try, where a connection could not be taken
FIRST = 3  # the first descriptor that systemd hands over (sd_listen_fds(3))


def listening(path: str) -> socket.socket:
    """The socket that systemd has made, or one of our own at ``path``."""
    if os.environ.get("LISTEN_PID") == str(os.getpid()) and os.environ.get("LISTEN_FDS") == "1":
        return socket.socket(fileno=FIRST)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.bind(path)
    os.chmod(path, 0o600)
    made.listen(AT_ONCE)
    return made


def serve(server: socket.socket, answer: Callable[[object], tuple[int, dict[str, Any]]]) -> None:
    """Answers until the process ends."""
    places = threading.BoundedSemaphore(AT_ONCE)
    while True:
        places.acquire()
        try:
            connection, _address = server.accept()
        except OSError as error:  # too many files are open, or who has called is gone
            _log.warning("a call could not be taken: %s", error.strerror)
            places.release()
            time.sleep(PAUSE)
            continue

        def handle(its: socket.socket = connection) -> None:
            try:
                with its:
                    _one(its, answer)
            finally:
                places.release()

        try:
            threading.Thread(target=handle, name="call", daemon=True).start()
        except RuntimeError:  # no more threads at this moment
            connection.close()
            places.release()


def _one(connection: socket.socket, answer: Callable[[object], tuple[int, dict[str, Any]]]) -> None:
    connection.settimeout(PATIENCE)
    try:
        line = b""
        while not line.endswith(b"\n"):
            part = connection.recv(65536)
            if not part:
                return
            line += part
            if len(line) > LARGEST:
                _send(connection, 413, {"detail": "The request is too large.", "code": "too_large"})
                return
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            request = None
        _send(connection, *answer(request))
    except OSError:  # who has asked is gone, or too slow
        return


def _send(connection: socket.socket, status: int, body: dict[str, Any]) -> None:
    connection.sendall(json.dumps({"status": status, "body": body}).encode() + b"\n")
