# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The end of a panel under uvicorn, which waits for all open answers then, without limit unless it was given one, and
only afterwards tells the application: streams have to learn of the signal itself."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import uvicorn

#: Called with the server, in a handler of signals or in the server's event loop.
Ending = Callable[[uvicorn.Server], object]
_called: list[Ending] = []


def watch(ending: Ending) -> None:
    """Have this called when a server that is started from now on gets its signal to end."""
    if not _called:
        uvicorn.Server.handle_exit = _telling(uvicorn.Server.handle_exit)  # type: ignore[method-assign]
    _called.append(ending)


def _telling(handle_exit: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(handle_exit)
    def handle(self: uvicorn.Server, *arguments: Any) -> None:
        handle_exit(self, *arguments)
        for ending in _called:
            ending(self)

    return handle


def hang_up(server: Any, path: str) -> None:
    """End the connections whose clients do not take the rest of the answer to a call of this path."""
    for connection in list(server.server_state.connections):
        scope, transport = getattr(connection, "scope", None) or {}, getattr(connection, "transport", None)
        if scope.get("path", "").endswith(path) and transport is not None:
            transport.abort()
