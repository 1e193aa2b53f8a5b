# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""What a reply says about the node as a whole: a listing, or the problem."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from marzban_tunnels.manager import answers, problems, refusals
from marzban_tunnels.manager.answers import Listing, Shown
from marzban_tunnels.manager.problems import Place, Problem


def listing(at: Place, status: int, body: Any, node: str, panel: str, before: Callable[[str], Shown | None]) -> Listing:
    """The reply to ``GET /api/tunnels`` of this node to this panel, by our uuids; ``before``: what the node said before
    about a tunnel. Raises Problem."""
    if status == 404:
        raise problems.version_older("it does not know GET /api/tunnels")(at)
    check_there(at, status, body)
    if status == 503:
        raise _failed(at, status, body)
    try:
        if status != 200:
            raise ValueError(f"status {status}")
        api = answers.api_of(body)
        if api != 1:
            old = problems.version_older(f"node API {api}")
            raise (old if api < 1 else problems.version_newer(api))(at)
        found = answers.listing(body, before)
        if (found.node, found.panel) != (node, panel):
            raise ValueError("it takes itself or this panel for another one")
    except ValueError as error:
        raise problems.bad_answer(str(error))(at) from None
    ahead = found.time - time.time()
    if abs(ahead) > problems.CLOCK:
        raise problems.clock_wrong(ahead)(at)
    return found


def check_there(at: Place, status: int, body: Any) -> None:
    """Raises Problem where the node does nothing at the moment, whatever is asked."""
    if refusals.is_busy(status, body):
        raise problems.busy()(at)
    if refusals.is_unanswered(status, body):
        raise _failed(at, status, body)


def _failed(at: Place, status: int, body: Any) -> Problem:
    return problems.failed(refusals.sentence(status, body) or "it does not say why")(at)
