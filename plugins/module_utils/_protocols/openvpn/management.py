# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""OpenVPN's management sockets: all are asked at the same time, so that one process that hangs delays no other."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import time
from typing import Iterable

SOCKETS = "/run/openvpn-server"
SLACK = 0.01  # of the patience: more for each that is asked, for all of them share the host
_QUESTIONS = b"state\nlog all\n"
_END = b"\r\nEND\r\n"


def path(interface: str) -> str:
    """The socket that reports on a tunnel; root's alone, and gone after a reboot."""
    return os.path.join(SOCKETS, "marzban-%s.sock" % interface)


def ask(interfaces: Iterable[str], patience: float) -> dict[str, str | None]:
    """``{interface: the state that its process reports, and what it logged}``, after ``patience`` seconds or more.

    Empty where nothing listens; None where something does, and does not answer in time. That is a process that hangs,
    or one that somebody else asks at this moment: it has one at a time.
    """
    said: dict[str, bytes] = {}
    late: set[str] = set()
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
        for name in interfaces:
            said[name] = b""
            asked = stack.enter_context(socket.socket(socket.AF_UNIX))
            asked.setblocking(False)
            try:
                asked.connect(path(name))
                asked.sendall(_QUESTIONS)
            except BlockingIOError:  # others wait there already
                late.add(name)
            except OSError:
                continue
            else:
                selector.register(asked, selectors.EVENT_READ, name)
        end = time.monotonic() + patience * (1 + SLACK * len(said))
        while selector.get_map() and time.monotonic() < end:
            for key, _events in selector.select(max(0.0, end - time.monotonic())):
                asked = key.fileobj  # type: ignore[assignment]
                part = _receive(asked)
                said[key.data] += part
                if not part or said[key.data].count(_END) >= 2:
                    selector.unregister(asked)
                    asked.close()  # a run and the service may ask at once: one that hangs must not keep the others
        late.update(key.data for key in selector.get_map().values())
    texts = {name: text.decode("utf-8", "replace").replace("\r", "") for name, text in said.items()}
    return {name: None if name in late else text for name, text in texts.items()}


def _receive(asked: socket.socket) -> bytes:
    try:
        return asked.recv(65536)
    except OSError:
        return b""
