# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The way of what one node has sealed for its peer, over the controller.

A node's answer carries it under ``sealed``; the action plugin takes it out before anybody else sees the answer, and
keeps it in Ansible's own temporary folder (0600) until the run ends. The peer gets it with the next module call. So
not even the ciphertext is in a result, a log, a callback or an event, at any verbosity.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from typing import Any, Iterator

from ansible import constants

LONGEST = 4096  # characters of what is sealed


@contextlib.contextmanager
def unseen(action: Any) -> Iterator[None]:
    """While this lasts, a connection shows nothing of what it carries (at -vvv it shows what a module printed)."""
    contexts = (action._play_context, action._connection._play_context)
    shown = [context.no_log for context in contexts]
    for context in contexts:
        context.no_log = True
    try:
        yield
    finally:
        for context, no_log in zip(contexts, shown):
            context.no_log = no_log


def keep(answer: dict[str, Any], views: list[Any]) -> None:
    """Takes ``sealed`` out of a node's answer, and keeps what is about one of its ``views``."""
    sealed = answer.pop("sealed", None)
    if not isinstance(sealed, dict):
        return
    for view in views:
        text = sealed.get(view["uuid"])
        if isinstance(text, str) and text.isascii() and len(text) <= LONGEST:
            path = _path(view, "local")
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as stream:
                stream.write(text)


def for_node(views: list[Any]) -> dict[str, str]:
    """``{uuid: what the peer has sealed for this node}``, for the ``views`` whose peer has."""
    found = {}
    for view in views:
        with contextlib.suppress(FileNotFoundError), open(_path(view, "peer"), encoding="ascii") as stream:
            found[view["uuid"]] = stream.read()
    return found


def _path(view: Any, side: str) -> str:
    """The file for what the node at one side of a view has sealed for the other."""
    about = "\0".join((view["panel"], view["uuid"], view[side]["node"]))
    name = "marzban-tunnels-" + hashlib.sha256(about.encode("utf-8")).hexdigest()
    return os.path.join(constants.DEFAULT_LOCAL_TMP, name)
