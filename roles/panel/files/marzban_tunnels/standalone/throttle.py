# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Slows down who guesses passwords."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import ip_address, ip_network

FREE = 5  # failures without a delay
LONGEST = 300.0  # seconds
_KEPT = 10_000  # pairs that are remembered


class Throttle:
    """Back-off per client address and user name: 1, 2, 4 … 300 seconds from the sixth failure on.

    The address is part of the key, so that nobody can lock an admin out from elsewhere. IPv6 counts by /64.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: OrderedDict[tuple[str, str], tuple[int, float]] = OrderedDict()

    def wait(self, address: str, username: str) -> float:
        """Seconds until the next try is looked at; 0 for now."""
        with self._lock:
            _count, until = self._failures.get(_key(address, username), (0, 0.0))
        return max(0.0, until - self._clock())

    def failed(self, address: str, username: str) -> None:
        """A wrong password."""
        key = _key(address, username)
        with self._lock:
            count, until = self._failures.pop(key, (0, 0.0))
            if self._clock() - until > 2 * LONGEST:
                count = 0  # long ago
            count += 1
            delay = min(LONGEST, 2.0 ** min(count - FREE - 1, 16)) if count > FREE else 0.0
            self._failures[key] = (count, self._clock() + delay)
            if len(self._failures) > _KEPT:
                self._failures.popitem(last=False)

    def passed(self, address: str, username: str) -> None:
        """A right password: forget the failures."""
        with self._lock:
            self._failures.pop(_key(address, username), None)


def _key(address: str, username: str) -> tuple[str, str]:
    try:
        value = ip_address(address)
    except ValueError:
        return address, username
    return (str(ip_network((value, 64), strict=False)) if value.version == 6 else address), username
