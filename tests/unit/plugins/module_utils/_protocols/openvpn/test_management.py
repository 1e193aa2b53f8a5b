# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""OpenVPN's management sockets are asked at the same time, over real sockets."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from pathlib import Path

import pytest

from ansible_collections.marzban.tunnels.plugins.module_utils._protocols.openvpn import management

SAID = b">INFO:OpenVPN\r\n1,CONNECTED,SUCCESS\r\nEND\r\n2,I,log\r\nEND\r\n"


def test_one_that_hangs_delays_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(management, "SOCKETS", str(tmp_path))
    with contextlib.ExitStack() as stack:
        servers = {}
        for name in ("mz1", "mz2", "mz3", "mz4"):
            servers[name] = stack.enter_context(socket.socket(socket.AF_UNIX))
            servers[name].bind(management.path(name))
            servers[name].listen(0)
        for _others in range(2):  # one is served, one waits, and there is no place for a third
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(management.path("mz3"))

        free_after: list[float] = []

        def answer() -> None:
            asked, _address = servers["mz1"].accept()
            with asked:
                assert asked.recv(100) == b"state\nlog all\n"
                for part in (SAID[:20], SAID[20:]):
                    asked.sendall(part)
                asked.settimeout(5)
                begun = time.monotonic()
                assert asked.recv(1) == b"", "the next one may ask"
                free_after.append(time.monotonic() - begun)
            servers["mz4"].accept()[0].close()

        answering = threading.Thread(target=answer)
        answering.start()
        begun = time.monotonic()
        found = management.ask(["mz1", "mz2", "mz3", "mz4", "mz9"], 0.5)
        took = time.monotonic() - begun
        answering.join()
    assert found == {"mz1": SAID.decode().replace("\r", ""), "mz2": None, "mz3": None, "mz4": "", "mz9": ""}
    assert took < 1.5
    assert free_after[0] < 0.4, "what hangs has half a second"
