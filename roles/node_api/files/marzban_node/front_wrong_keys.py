# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Who has come with wrong keys lately: those are answered late, and the log has a line for each, up to a limit."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable

MANY = 10  # wrong keys of one client within PERIOD
PERIOD = 60.0  # seconds
CLIENTS = 1024  # that are remembered: the others have been quiet for longer
LINES = 20  # in the log within PERIOD


class WrongKeys:
    """What is remembered. Times are seconds of ``clock``."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._of: OrderedDict[str, deque[float]] = OrderedDict()
        self._logged: deque[float] = deque(maxlen=LINES)
        self._unsaid = 0

    def note(self, client: str) -> list[str]:
        """Remembers a wrong key; the sentences for the log, without the key."""
        now = self._clock()
        self._of.setdefault(client, deque(maxlen=MANY)).append(now)
        self._of.move_to_end(client)
        if len(self._of) > CLIENTS:
            self._of.popitem(last=False)
        if len(self._logged) == LINES and now - self._logged[0] < PERIOD:
            self._unsaid += 1
            return []
        said = ["%d more wrong keys are not in this log." % self._unsaid] if self._unsaid else []
        self._unsaid = 0
        self._logged.append(now)
        return [*said, "A wrong access key came from %s." % client]

    def many(self, client: str) -> bool:
        """Whether this client has come with many of them lately."""
        times = self._of.get(client, deque())
        return len(times) == MANY and self._clock() - times[0] < PERIOD
