# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""What the watch of a node needs of the manager, and how often things happen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from marzban_tunnels.manager.answers import Shown
from marzban_tunnels.manager.store import Changes


@dataclass(frozen=True)
class Pace:
    """Seconds. Tests are in more of a hurry."""

    poll: float = 10.0  # between two looks at a node
    tick: float = 1.0  # between two looks at the database
    idle: float = 5.0  # the same while no node has a service
    beat: float = 10.0  # between two signs of life in the lease
    patience: float = 30.0  # until a lease without them is taken over
    soon: float = 0.3  # until the next look where something is going on
    doubtful: float = 2.0  # between looks while a tunnel is active by what its peer answered before the last probe
    settle: float = 1.0  # between looks at tunnels that were just changed
    settling: float = 8.0  # how long that goes on
    flush: float = 0.25  # changes that wait so long are written together
    connect: float = 3.0
    call: float = 5.0
    retry: float = 1.0  # after the first failure; it doubles with each
    away: float = 10.0  # at most, while a node is away
    slow: float = 60.0  # at most, where a person has to do something
    sure: float = 3600.0  # how long a deletion has to be too old: a panel's clock may be wrong for a while
    measured: float = 30.0  # what was measured again is a reason to send the list again


class Hub(Protocol):
    """What a node's watch needs of the manager."""

    pace: Pace
    changes: Changes
    panel_id: str
    epoch: str  # another one each time that the lease is taken; each write has it

    async def reserve(self, uuid: str, number: int, shown: str | None) -> int:
        """So many numbers of writes to this node, stored before they are used; answers the last. ``shown`` is the epoch
        that the node shows; it and the present one are stored too."""

    def dirty(self) -> None:
        """There is something in ``changes``."""

    def changed(self, soon: bool = True) -> None:
        """What the API answers is different now."""

    def touch(self, uuids: Iterable[str] = (), nodes: bool = False) -> None:
        """What a node says of these tunnels is different now or was said again, or (``nodes``) how it is itself."""

    def shown_at(self, uuid: str, role: str) -> Shown | None:
        """What the node at this end says about this tunnel."""


class DatabaseAway(Exception):
    """The database does not take writes at the moment."""
