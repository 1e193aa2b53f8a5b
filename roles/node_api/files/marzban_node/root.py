# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The root half: the engine, what measures and repairs, and a Unix socket. It never speaks to the network."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from types import FrameType

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import Error
from ansible_collections.marzban.tunnels.plugins.module_utils._node import kept
from marzban_node import lines
from marzban_node.board import Board
from marzban_node.calls import Calls
from marzban_node.engine import Engine, Settings
from marzban_node.panels import Panels
from marzban_node.watch import Watch
from marzban_node.work import Worker

SOCKET = "/run/marzban-node/root.sock"
ALIVE = 10.0  # seconds between two messages to systemd's watchdog
STUCK = 300.0  # seconds after which a call of the engine, or a look, does not end any more


def main() -> int:
    """Serves until systemd ends it; the exit code."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    try:
        engine = Engine(Settings.load(), kept.Kept())
    except Error as error:
        logging.error("%s", error)
        return 1
    looked, ended = threading.Event(), threading.Event()
    board = Board()
    panels = Panels(os.path.join(engine.settings.folder, "panels"), os.path.join(engine.kept.place, "counters.json"))
    worker = Worker(engine, board, looked)
    watch = Watch(engine, board, panels, worker, looked)
    calls = Calls(engine, board, panels, worker)
    server = lines.listening(SOCKET)

    def end(_number: int, _frame: FrameType | None) -> None:
        ended.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    worker.start()
    watch.start()
    serving = threading.Thread(target=lines.serve, args=(server, calls.answer), name="server", daemon=True)
    serving.start()
    tell("READY=1")
    while not ended.wait(ALIVE):
        dead = [thread.name for thread in (worker, watch, serving) if not thread.is_alive()]
        if dead:
            logging.error("the thread %s has ended: systemd starts the root half again", dead[0])
            return 1
        now = time.monotonic()
        stuck = now - watch.last > STUCK or (worker.since is not None and now - worker.since > STUCK)
        if not stuck:
            tell("WATCHDOG=1")
    tell("STOPPING=1")
    board.latest.end()
    worker.end()  # what it is doing is done to its end
    worker.join()
    return 0


def tell(state: str) -> None:
    """Tells systemd (sd_notify(3)), where it has started this process."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
            told.connect("\0" + address[1:] if address.startswith("@") else address)
            told.sendall(state.encode())


if __name__ == "__main__":
    sys.exit(main())
