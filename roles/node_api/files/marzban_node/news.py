# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Calls that wait until there is something new: for each panel a text that is another one after each look and each
change, and never the same again, also not after the service was started again."""

from __future__ import annotations

import secrets
import threading
from collections import Counter
from collections.abc import Iterable

LONGEST = 20.0  # seconds that a call may wait
AT_ONCE = 16  # calls that wait: each has one of the 32 threads of lines.py
OF_ONE_PANEL = 3  # its manager has one; those before it may have been left behind


class News:
    """From any thread. Its lock is held for moments only, and no other is taken meanwhile."""

    def __init__(self) -> None:
        self._start = secrets.token_hex(8)
        self._changed = threading.Condition(threading.Lock())
        self._counts: Counter[str] = Counter()
        self._waiting: Counter[str] = Counter()
        self._ended = False

    def tell(self, panels: Iterable[str]) -> None:
        """There is something new about tunnels of these panels."""
        with self._changed:
            self._counts.update(set(panels))
            self._changed.notify_all()

    def of(self, panel: str) -> str:
        """What a panel's news are called now."""
        with self._changed:
            return self._text(panel)

    def wait(self, panel: str, known: str, seconds: float) -> None:
        """Until the news are others than those that are ``known``. Not where too many wait: then who has asked gets
        what there is."""
        with self._changed:
            if self._waiting.total() >= AT_ONCE or self._waiting[panel] >= OF_ONE_PANEL:
                return
            self._waiting[panel] += 1
            try:
                self._changed.wait_for(lambda: self._ended or self._text(panel) != known, min(seconds, LONGEST))
            finally:
                self._waiting[panel] -= 1

    def end(self) -> None:
        """The service ends: nobody waits any more."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _text(self, panel: str) -> str:
        return f"{self._start}-{self._counts[panel]}"
