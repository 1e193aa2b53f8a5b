# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the controller takes from a node. Pure.

A node may be compromised: it may spoil its own part of a run, and no other.
"""

from __future__ import annotations

from typing import Any

from .._errors import FieldError, printable, shown
from . import validators


def entries(answer: object, key: str) -> list[Any]:
    """The list under ``key`` of a host's answer, empty where it is missing. Its items can be anything.

    Raises FieldError where the answer is not a dict, or what is under ``key`` not a list.
    """
    listed = None if answer is None else validators.mapping(answer, "answer").get(key)
    if listed is None:
        return []
    if not isinstance(listed, list):
        raise FieldError(key, listed, "It is not a list: look at that host, it may be compromised.")
    return listed


def words(value: object, limit: int = 500) -> str | None:
    """Foreign text (or whatever is in its place) as one bounded harmless line; None stays None."""
    if value is None:
        return None
    return printable(value, limit) if isinstance(value, str) else shown(value)
