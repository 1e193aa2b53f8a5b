# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The MTU of a tunnel whose record leaves it open, where the path turned out to be narrower than its route says. Pure.

The node service finds the size and has it applied; the state remembers it, so that a run leaves it as it is. It holds
for as long as the route has the MTU that it had then: what a new route takes is not known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Mapping

if TYPE_CHECKING:
    from .._model.shapes import NarrowPath

LOWERED = "its path takes packets of {:,} bytes at most, {:,} before: the MTU was lowered"


def narrow_path(applied: Mapping[str, Any]) -> NarrowPath | None:
    """What the state of a tunnel remembers of its path, or None."""
    found = applied.get("narrow")
    if not isinstance(found, dict):
        return None
    sizes = [found.get(name) for name in ("mtu", "before", "way")]
    if not all(isinstance(size, int) and 0 < size <= 65535 for size in sizes):
        return None
    return {"mtu": found["mtu"], "before": found["before"], "way": found["way"]}


def narrower(known: NarrowPath | None, fails: int, passes: int) -> NarrowPath:
    """What is to be remembered of a path that does not take packets of ``fails`` bytes, and takes those of ``passes``.

    ``known``: what is remembered. Its route is found when it is applied.
    """
    return {"mtu": passes, "before": known["before"] if known else fails, "way": known["way"] if known else None}


def holds(narrow: NarrowPath | None, way: int) -> bool:
    """Whether a tunnel gets the lower MTU: ``way`` is the one that its route allows now."""
    return narrow is not None and narrow["mtu"] < way and narrow["way"] in (None, way)
