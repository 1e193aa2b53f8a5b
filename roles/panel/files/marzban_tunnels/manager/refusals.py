# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Why a node did not take one tunnel, in a sentence. Pure. The others are not concerned."""

from __future__ import annotations

from typing import Any

from marzban_tunnels import checks
from marzban_tunnels.errors import shown


def is_busy(status: int, answer: Any) -> bool:
    """Whether the node does nothing at the moment, for any tunnel."""
    return status == 503 and (not isinstance(answer, dict) or answer.get("code") in (None, "busy"))


def is_unanswered(status: int, answer: Any) -> bool:
    """Whether the node's front has got nothing from its root half: that is about no tunnel, and may last."""
    return status == 503 and isinstance(answer, dict) and answer.get("code") == "unanswered"


def is_older(status: int, answer: Any) -> bool:
    """Whether the number of the write was not higher than the node's."""
    return status == 409 and isinstance(answer, dict) and answer.get("code") == "older_database"


def sentence(status: int, answer: Any) -> str | None:
    """None where the answer says nothing about a tunnel."""
    body = answer if isinstance(answer, dict) else {}
    code, detail = body.get("code"), body.get("detail")
    if status == 409 and code == "older_record":
        have, got = (shown(body.get(name), 20) for name in ("have", "got"))
        return (
            f"The node has version {have} of this tunnel, and this panel's record is version {got}: the database "
            "was restored from a backup. If its record is right, run the playbook with tunnels_accept_older"
        )
    if status == 409 and code == "removed":
        return "The node removed this tunnel a short while ago, and does not make it again: create a new one"
    if status == 413:
        return "The tunnel's config is too large for the node service: make it shorter"
    if isinstance(detail, dict) and detail:
        field, said = next(iter(detail.items()))
        return f"The node refuses it: {shown(field, 80)}: {shown(said, 400)}"
    if status in (409, 422, 503) and isinstance(detail, str) and (said := checks.one_line(detail, 600)):
        return f"The node can't do it: {said}"
    return None
