# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The engine: those of the collection's files that change a node, which a run and the node service share."""

from __future__ import annotations

import functools
import os

from ansible_collections.marzban.tunnels.plugins.module_utils._installer import package

_UTILS = os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "module_utils")
PARTS = ("_errors.py", "_model", "_node", "_protocols")


@functools.lru_cache(maxsize=1)
def files() -> package.Files:
    """The engine's files, by their paths below module_utils. Raises OSError."""
    found = {}
    for part in PARTS:
        top = os.path.join(_UTILS, part)
        walked = os.walk(top) if os.path.isdir(top) else [(_UTILS, [], [part])]
        for place, _folders, names in walked:
            for name in names:
                if name.endswith(".py"):
                    path = os.path.join(place, name)
                    with open(path, "rb") as stream:
                        found[os.path.relpath(path, _UTILS)] = stream.read()
    return found


@functools.lru_cache(maxsize=1)
def digest() -> str:
    """A short text that is the same for the same files. Raises OSError."""
    return package.digest(files())
