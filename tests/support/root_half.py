# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""STAND-IN for the node service's root half, where only the front is tested: it knows one key and makes no tunnel.

In a test it is a thread (``StandIn``); on a lab host this file is ``root.py``, and systemd starts it by its socket.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import socketserver
import threading
import time
from typing import Any

KEY = "k" * 43
HASH = hashlib.sha256(KEY.encode()).hexdigest()
PANEL = "0d1f3b52-7c9e-4c8e-9b0f-3a2d5e6f7a81"
UUID = "1b4e28ba-2fa1-41d2-883f-000000000001"
TUNNEL: dict[str, Any] = dict.fromkeys(
    ("revision", "error", "symptom", "note", "waiting_for", "public", "peer_key", "measured", "age")
) | {
    "uuid": UUID,
    "id": 1,
    "name": "t1",
    "type": "wireguard",
    "version": 1,
    "active": True,
    "interface": "mz1",
    "node": "de-1",
    "peer": "fi-1",
    "role": "source",
    "status": "connecting",
    "refused": False,
    "missing": [],
    "doing": False,
    "recoveries": dict.fromkeys(("put_back", "process", "session", "mtu", "peer"), 0),
}
LIST = {
    "api": 1,
    "engine": "0" * 16,
    "panel": PANEL,
    "node": UUID,
    "time": 1.5,
    "counter": 7,
    "types": ["wireguard"],
    "tunnels": [TUNNEL],
}


def answer(call: dict[str, Any], hashes: list[str], certificates: list[str]) -> tuple[int, Any]:
    """What the real one answers to such calls, about a node with one tunnel."""
    known = hashlib.sha256(str(call.get("key")).encode()).hexdigest() in hashes
    if not known and call.get("certificate") not in certificates:
        return 403, {"detail": "This is not the node's access key.", "code": "key_wrong"}
    if call["call"] == "list":
        return 200, LIST
    if call["call"] == "post":
        return 200, TUNNEL
    if call["id"] not in (1, UUID):
        return 404, {"detail": "Tunnel not found", "code": "unknown"}
    return 200, TUNNEL if call["call"] == "status" else {"uuid": UUID, "message": "removed"}


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    answering: Any = None


class Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        call = json.loads(self.rfile.readline())
        with contextlib.suppress(BrokenPipeError):
            self.wfile.write(self.server.answering(call))  # type: ignore[attr-defined]


class StandIn:
    """A thread with the socket ``path``. ``calls`` is what came; ``replies`` what is answered instead, once each."""

    def __init__(self, path: str) -> None:
        self.calls: list[dict[str, Any]] = []
        self.replies: list[bytes] = []
        self.certificates: list[str] = []
        self.delay = threading.Event()  # while it is clear, nothing is answered
        self.delay.set()
        self._server = Server(path, Handler)
        self._server.answering = self._answer
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def _answer(self, call: dict[str, Any]) -> bytes:
        self.calls.append(call)
        self.delay.wait(30)
        if self.replies:
            return self.replies.pop(0)
        status, body = answer(call, [HASH], self.certificates)
        return json.dumps({"status": status, "body": body}).encode() + b"\n"

    def close(self) -> None:
        self.delay.set()
        self._server.shutdown()
        self._server.server_close()


def _panels() -> tuple[list[str], list[str]]:
    folder, hashes, certificates = "/etc/marzban/node_service/panels", [], []
    for name in os.listdir(folder):
        with open(os.path.join(folder, name), encoding="utf-8") as stream:
            panel = json.load(stream)
        hashes += panel["hashes"]
        certificates += [panel["certificate"]] if panel["certificate"] else []
    return hashes, certificates


def _notify(text: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.sendto(text.encode(), os.environ["NOTIFY_SOCKET"])


def main() -> None:
    """As systemd starts it."""

    def reply(call: dict[str, Any]) -> bytes:
        status, body = answer(call, *_panels())
        return json.dumps({"status": status, "body": body}).encode() + b"\n"

    server = Server("unused", Handler, bind_and_activate=False)
    server.socket = socket.socket(fileno=3)
    server.answering = reply
    threading.Thread(target=server.serve_forever, daemon=True).start()
    _notify("READY=1")
    while True:
        _notify("WATCHDOG=1")
        time.sleep(5)


if __name__ == "__main__":
    main()
