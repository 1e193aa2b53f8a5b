# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Pings from within this process, all at the same time: a process for each would cost more than all the rest."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import selectors
import socket
import struct
import time
from typing import Any, Dict, Hashable, Mapping

COUNT = 3  # answers that are enough
CLOSE = 0.02  # seconds between the first pings
APART = 0.1  # seconds between those that follow while answers are missing
PATIENCE = 1.0  # seconds in all
AT_ONCE = 256  # sockets that are open at the same time; 1024 is what a process usually may have
SO_TIMESTAMPNS = 35  # include/uapi/asm-generic/socket.h; Python has no name for it
SO_BINDTODEVICE = 25
_HEADER = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence number (RFC 792, RFC 4443)
_STAMP = struct.Struct("@ll")  # struct timespec of the kernel: seconds and nanoseconds
_REQUEST, _REPLY = {4: 8, 6: 128}, {4: 0, 6: 129}

#: ``rtt_ms`` and ``loss_percent``, both None where no ping could be sent
Answered = Dict[str, Any]
UNKNOWN: Answered = {"rtt_ms": None, "loss_percent": None}


def ping_all(targets: Mapping[Any, tuple[str, str]]) -> dict[Any, Answered]:
    """Pings ``{key: (interface or own address, address)}``: ``{key: Answered}``, after ``PATIENCE`` seconds at most."""
    answers: dict[Any, Answered] = {}
    keys = list(targets)
    for start in range(0, len(keys), AT_ONCE):
        some = {key: targets[key] for key in keys[start : start + AT_ONCE]}
        probes = _ping(some)
        # What came up meanwhile lost pings by beginning, not by losing: it is asked again.
        probes.update(_ping({key: some[key] for key, probe in probes.items() if probe.began_late}))
        answers.update({key: probes[key].answer() if key in probes else dict(UNKNOWN) for key in some})
    return answers


def _ping(targets: dict[Hashable, tuple[str, str]]) -> dict[Hashable, Probe]:
    """The probes of those that something can be sent to."""
    probes: dict[Hashable, Probe] = {}
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
        for key, (source, address) in targets.items():
            with contextlib.suppress(OSError):  # no such interface, no route: nothing is known
                probes[key] = stack.enter_context(Probe(source, address))
                selector.register(probes[key].socket, selectors.EVENT_READ, probes[key])
        start, number = time.monotonic(), 0
        while selector.get_map() and time.monotonic() < start + PATIENCE:
            for waiting in list(selector.get_map().values()):
                waiting.data.send(number)
            number += 1
            pause = CLOSE if number < COUNT else APART
            _receive(selector, min(time.monotonic() + pause, start + PATIENCE))
    return probes


def _receive(selector: selectors.BaseSelector, end: float) -> None:
    """Takes in answers until ``end`` (seconds of the monotonic clock), or until all have come."""
    while selector.get_map():
        left = end - time.monotonic()
        if left <= 0:
            return
        for key, _events in selector.select(left):
            key.data.receive()
            if key.data.complete:
                selector.unregister(key.fileobj)


class Probe:
    """The pings to one address."""

    def __init__(self, source: str, address: str) -> None:
        """``source`` is an interface or an own address. Raises OSError where nothing can be sent."""
        self.version = 6 if ":" in address else 4
        self.sent: dict[int, float] = {}  # sequence number: seconds since 1970
        self.rtts: dict[int, float] = {}  # sequence number: seconds
        self._identifier = os.urandom(2)
        self._token = os.urandom(56)  # as many as ping sends
        family, protocol = (
            (socket.AF_INET6, socket.IPPROTO_ICMPV6) if self.version == 6 else (socket.AF_INET, socket.IPPROTO_ICMP)
        )
        self.socket = socket.socket(family, socket.SOCK_RAW, protocol)
        try:
            self.socket.setblocking(False)
            with contextlib.suppress(OSError):  # then the time is taken here
                self.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            if _is_address(source):
                self.socket.bind((source, 0))
            else:
                self.socket.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, source.encode("ascii") + b"\0")
            self.socket.connect((address, 0))
        except OSError:
            self.socket.close()
            raise

    def __enter__(self) -> Probe:
        return self

    def __exit__(self, *_error: object) -> None:
        self.socket.close()

    @property
    def complete(self) -> bool:
        """Whether enough answers came."""
        return len(self.rtts) >= COUNT

    @property
    def began_late(self) -> bool:
        """Whether the first pings were lost, and each one after the first answer was answered."""
        return self.complete and 0 not in self.rtts and len(self.rtts) == max(self.rtts) - min(self.rtts) + 1

    def send(self, number: int) -> None:
        """Sends one ping; one that can't be sent is one that is lost."""
        (identifier,) = struct.unpack("!H", self._identifier)
        head = _HEADER.pack(_REQUEST[self.version], 0, 0, identifier, number)
        if self.version == 4:  # for IPv6 the kernel does it
            head = _HEADER.pack(_REQUEST[4], 0, _checksum(head + self._token), identifier, number)
        self.sent[number] = time.time()
        with contextlib.suppress(OSError):
            self.socket.send(head + self._token)

    def receive(self) -> None:
        """Takes in what came; it may be somebody else's."""
        try:
            packet, about, _flags, _address = self.socket.recvmsg(2048, socket.CMSG_SPACE(_STAMP.size))
        except OSError:  # what a router on the way had to say
            return
        came = time.time()
        for level, kind, value in about:
            if (level, kind, len(value)) == (socket.SOL_SOCKET, SO_TIMESTAMPNS, _STAMP.size):
                seconds, nanoseconds = _STAMP.unpack(value)
                came = seconds + nanoseconds / 1e9
        if self.version == 4 and packet:
            packet = packet[(packet[0] & 15) * 4 :]
        if len(packet) < _HEADER.size or packet[4:6] != self._identifier or packet[_HEADER.size :] != self._token:
            return
        kind, _code, _checked, _identifier, number = _HEADER.unpack(packet[: _HEADER.size])
        if kind == _REPLY[self.version] and number in self.sent:
            self.rtts.setdefault(number, max(0.0, came - self.sent[number]))

    def answer(self) -> Answered:
        """What came back. Pings after the last answered one are still under way, where enough answers came."""
        if not self.sent:
            return dict(UNKNOWN)
        sent = [number for number in self.sent if not self.complete or number <= max(self.rtts)]
        rtt = round(1000 * sum(self.rtts.values()) / len(self.rtts), 3) if self.rtts else None
        return {"rtt_ms": rtt, "loss_percent": round(100.0 * (len(sent) - len(self.rtts)) / len(sent), 1)}


def _is_address(text: str) -> bool:
    try:
        return bool(ipaddress.ip_address(text))
    except ValueError:
        return False


def _checksum(data: bytes) -> int:
    """The one of RFC 1071, of an even number of bytes."""
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    total = (total >> 16) + (total & 0xFFFF)
    return 0xFFFF & ~(total + (total >> 16))
