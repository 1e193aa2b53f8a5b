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
from typing import Any, Dict, Hashable, Iterable, Mapping, NamedTuple

COUNT = 3  # answers that are enough
CLOSE = 0.02  # seconds between the first pings
APART = 0.1  # seconds between those that follow while answers are missing
PATIENCE = 1.0  # seconds in all
AT_ONCE = 256  # sockets that are open at the same time; 1024 is what a process usually may have
LEAST = 1280  # bytes of the smallest MTU that a tunnel may have
SIZES = 8  # that are tried at once where large packets do not pass
CLOSE_ENOUGH = 4  # bytes between the largest size that passes and the one that is found
SO_TIMESTAMPNS = 35  # include/uapi/asm-generic/socket.h; Python has no name for it
SO_BINDTODEVICE = 25
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33
BUFFER = 1 << 20  # bytes, for many large packets at once
# Never fragmented here, and sent whatever the kernel has learned of the way: linux/in.h and in6.h.
MTU_DISCOVER, IPV6_MTU_DISCOVER, PMTUDISC_PROBE = 10, 23, 3
_HEADER = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence number (RFC 792, RFC 4443)
_STAMP = struct.Struct("@ll")  # struct timespec of the kernel: seconds and nanoseconds
_REQUEST, _REPLY = {4: 8, 6: 128}, {4: 0, 6: 129}
_OUTER = {4: 20 + _HEADER.size, 6: 40 + _HEADER.size}  # bytes of a packet before what it carries
_ROUNDS = 256  # sequence numbers of one size

#: ``rtt_ms`` and ``loss_percent``, both None where no ping could be sent
Answered = Dict[str, Any]
UNKNOWN: Answered = {"rtt_ms": None, "loss_percent": None}


class Pinged(NamedTuple):
    """``answers``: ``{key: Answered}``. ``narrow``: where small packets pass and large ones do not.

    ``{key: (the size that does not pass, the largest that does, or None where not even LEAST does)}``, in bytes.
    ``passed``: ``{key: bytes of the largest packet that passed}``, of those of which that is known.
    """

    answers: Dict[Any, Answered]
    narrow: Dict[Any, "tuple[int, int | None]"]
    passed: Dict[Any, int] = {}


def ping_all(targets: Mapping[Any, tuple[str, str]], sizes: Mapping[Any, int] | None = None) -> Pinged:
    """Pings ``{key: (interface or own address, address)}``, after ``PATIENCE`` seconds at most.

    ``sizes``: ``{key: bytes of a packet that has to pass too}``. Such packets go along with the small ones, so that
    they take no time where all is well.
    """
    answers: dict[Any, Answered] = {}
    failing: dict[Any, Probe] = {}
    passed: dict[Any, int] = {}
    keys = list(targets)
    large = {key: (size,) for key, size in (sizes or {}).items()}
    for start in range(0, len(keys), AT_ONCE):
        some = {key: targets[key] for key in keys[start : start + AT_ONCE]}
        probes = _ping(some, large)
        # What came up meanwhile lost pings by beginning, not by losing: it is asked again.
        probes.update(_ping({key: some[key] for key, probe in probes.items() if probe.began_late}, large))
        answers.update({key: probes[key].answer() if key in probes else dict(UNKNOWN) for key in some})
        passed.update({key: max(probe.passed) for key, probe in probes.items() if probe.passed})
        failing.update({key: probe for key, probe in probes.items() if probe.is_narrow})
    found = {key: (large[key][0], size) for key, size in _largest(targets, failing).items()}
    passed.update({key: size for key, (_fails, size) in found.items() if size is not None})
    return Pinged(answers, found, passed)


def takes(targets: Mapping[Any, tuple[str, str]], sizes: Mapping[Any, int], patience: float) -> set[Any]:
    """The keys of which packets of that size pass as small ones do, as in ``ping_all``. After ``patience`` seconds."""
    probes = _ping(targets, {key: (size,) for key, size in sizes.items()}, patience)
    return {key for key, probe in probes.items() if probe.rtts and probe.passed}


def _largest(targets: Mapping[Any, tuple[str, str]], failing: Mapping[Any, Probe]) -> dict[Any, int | None]:
    """``{key: bytes of the largest packet that passes}``, None where not even LEAST does. All at the same time."""
    passes: dict[Any, int | None] = dict.fromkeys(failing)
    fails = {key: probe.sizes[0] for key, probe in failing.items()}
    patience = min(PATIENCE, max([0.2, *(4 * max(probe.rtts.values()) for probe in failing.values())]))
    open_keys = set(failing)
    while open_keys:
        sizes = {key: between(passes[key], fails[key]) for key in open_keys}
        open_keys = {key for key in open_keys if sizes[key]}
        probes = _ping({key: targets[key] for key in open_keys}, sizes, patience)
        open_keys &= set(probes)  # the others have lost their interface meanwhile
        for key, probe in probes.items():
            answered = probe.passed
            passes[key] = max(answered, default=passes[key])
            above = [size for size in sizes[key] if size > (passes[key] or 0)]
            fails[key] = min([fails[key], *above])
            if not answered and passes[key] is None:
                open_keys.discard(key)  # LEAST was among them
    return passes


def between(passes: int | None, fails: int) -> tuple[int, ...]:
    """The sizes to try next; LEAST among them as long as none is known to pass. Empty where it is close enough."""
    first = LEAST if passes is None else passes
    if fails - first <= (0 if passes is None else CLOSE_ENOUGH):
        return ()
    step = -(-(fails - first) // (SIZES + 1))
    return tuple(range(first if passes is None else first + step, fails, step))


def _ping(
    targets: Mapping[Hashable, tuple[str, str]],
    sizes: Mapping[Hashable, Iterable[int]],
    patience: float = PATIENCE,
) -> dict[Hashable, Probe]:
    """The probes of those that something can be sent to."""
    probes: dict[Hashable, Probe] = {}
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
        for key, (source, address) in targets.items():
            with contextlib.suppress(OSError):  # no such interface, no route: nothing is known
                probes[key] = stack.enter_context(Probe(source, address, sizes.get(key, ())))
                selector.register(probes[key].socket, selectors.EVENT_READ, probes[key])
        start, number = time.monotonic(), 0
        while selector.get_map() and time.monotonic() < start + patience:
            for waiting in list(selector.get_map().values()):
                waiting.data.send(number)
            number += 1
            pause = CLOSE if number < COUNT else APART
            _receive(selector, min(time.monotonic() + pause, start + patience))
        for probe in probes.values():
            probe.seconds = time.monotonic() - start
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
    """The pings to one address: small ones, and one of each of the ``sizes`` (bytes of a packet) beside each."""

    def __init__(self, source: str, address: str, sizes: Iterable[int] = ()) -> None:
        """``source`` is an interface or an own address. Raises OSError where nothing can be sent."""
        self.version = 6 if ":" in address else 4
        self.sizes = tuple(sizes)
        self.passed: set[int] = set()  # of the sizes
        self.seconds = 0.0  # that it lasted
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
            for buffer in (SO_SNDBUFFORCE, SO_RCVBUFFORCE) if len(self.sizes) > 1 else ():
                with contextlib.suppress(OSError):  # a container may not; usual packets have room without
                    self.socket.setsockopt(socket.SOL_SOCKET, buffer, BUFFER)
            if self.sizes and self.version == 4:
                self.socket.setsockopt(socket.IPPROTO_IP, MTU_DISCOVER, PMTUDISC_PROBE)
            elif self.sizes:
                self.socket.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_PROBE)
            if is_address(source):
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
    def enough(self) -> bool:
        """Whether enough answers to small pings came."""
        return len(self.rtts) >= COUNT

    @property
    def complete(self) -> bool:
        """Whether nothing has to be waited for."""
        return self.enough and len(self.passed) == len(self.sizes)

    @property
    def began_late(self) -> bool:
        """Whether the first pings were lost, and each one after the first answer was answered."""
        return self.enough and 0 not in self.rtts and len(self.rtts) == max(self.rtts) - min(self.rtts) + 1

    @property
    def is_narrow(self) -> bool:
        """Whether large pings stay without an answer that had the time for it, and small ones don't."""
        return self.enough and len(self.passed) < len(self.sizes) and self.seconds > 2 * max(self.rtts.values())

    def send(self, number: int) -> None:
        """Sends one ping, and large ones; one that can't be sent is one that is lost."""
        if not self.enough:
            self.sent[number] = time.time()
            self._send(number, b"")
        for index, size in enumerate(self.sizes, 1):
            # Many sizes are sent a few times: where the way is slow, more would only be in each other's way.
            if size not in self.passed and (len(self.sizes) == 1 or number < COUNT):
                fill = size - _OUTER[self.version] - len(self._token)
                self._send(index * _ROUNDS + number, b"\0" * fill)

    def _send(self, number: int, fill: bytes) -> None:
        (identifier,) = struct.unpack("!H", self._identifier)
        head = _HEADER.pack(_REQUEST[self.version], 0, 0, identifier, number)
        if self.version == 4:  # for IPv6 the kernel does it; zeros add nothing
            head = _HEADER.pack(_REQUEST[4], 0, _checksum(head + self._token), identifier, number)
        with contextlib.suppress(OSError):
            self.socket.send(head + self._token + fill)

    def receive(self) -> None:
        """Takes in what came; it may be somebody else's."""
        try:
            packet, about, _flags, _address = self.socket.recvmsg(
                max((2048, *self.sizes)), socket.CMSG_SPACE(_STAMP.size)
            )
        except OSError:  # what a router on the way had to say
            return
        came = time.time()
        for level, kind, value in about:
            if (level, kind, len(value)) == (socket.SOL_SOCKET, SO_TIMESTAMPNS, _STAMP.size):
                seconds, nanoseconds = _STAMP.unpack(value)
                came = seconds + nanoseconds / 1e9
        if self.version == 4 and packet:
            packet = packet[(packet[0] & 15) * 4 :]
        if len(packet) < _HEADER.size or packet[4:6] != self._identifier:
            return
        if not packet.startswith(self._token, _HEADER.size):
            return
        kind, _code, _checked, _identifier, number = _HEADER.unpack(packet[: _HEADER.size])
        if kind != _REPLY[self.version]:
            return
        index, number = divmod(number, _ROUNDS)
        if 0 < index <= len(self.sizes):
            if len(packet) == self.sizes[index - 1] - _OUTER[self.version] + _HEADER.size:
                self.passed.add(self.sizes[index - 1])
        elif number in self.sent:
            self.rtts.setdefault(number, max(0.0, came - self.sent[number]))

    def answer(self) -> Answered:
        """What came back. Pings after the last answered one are still under way, where enough answers came."""
        if not self.sent:
            return dict(UNKNOWN)
        sent = [number for number in self.sent if not self.enough or number <= max(self.rtts)]
        rtt = round(1000 * sum(self.rtts.values()) / len(self.rtts), 3) if self.rtts else None
        return {"rtt_ms": rtt, "loss_percent": round(100.0 * (len(sent) - len(self.rtts)) / len(sent), 1)}


def is_address(text: str) -> bool:
    """Whether it is an IP address, and not a name."""
    try:
        return bool(ipaddress.ip_address(text))
    except ValueError:
        return False


def _checksum(data: bytes) -> int:
    """The one of RFC 1071, of an even number of bytes."""
    total: int = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    total = (total >> 16) + (total & 0xFFFF)
    return 0xFFFF & ~(total + (total >> 16))
