# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""What a client spares who reads the list again and again, as the page does every five seconds: what has not changed is
not sent, and what is sent is compressed."""

from __future__ import annotations

import gzip
import hashlib
import json
import secrets

from sqlalchemy import Table, select
from sqlalchemy.orm import Session

from marzban_tunnels.tables import Panel

_PROCESS = secrets.token_hex(8)  # a database that was restored from a backup counts the same numbers again
_WRITES = select(Panel.writes).where(Panel.id == 1)
_SMALL = 1000  # bytes; below that there is nothing to gain


def revision(session: Session, nodes: Table, *page: int) -> str:
    """An entity tag of a page of the list: another one after each write of ours, and when a node is called otherwise.
    ``page`` is what the page is, and the manager's own count of what changes without a write.

    Weak, because the age of a report is not part of it, nor that a run's is stale. Read before the page itself: where
    something changes in between, the page is newer than its tag, and is sent once more. What somebody writes into the
    database past us is seen with the next write of ours.
    """
    called = session.execute(select(nodes.c.id, nodes.c.name, nodes.c.address).order_by(nodes.c.id)).all()
    state = [_PROCESS, session.scalar(_WRITES), [list(node) for node in called], page]
    return f'W/"{hashlib.sha256(json.dumps(state).encode()).hexdigest()[:32]}"'


def has(if_none_match: str | None, tag: str) -> bool:
    """Whether a client has this already. Proxies may write a tag as a weak one, or as a strong one."""
    known = [known.strip().removeprefix("W/") for known in (if_none_match or "").split(",")]
    return "*" in known or tag.removeprefix("W/") in known


def compressed(content: bytes, accept_encoding: str | None) -> tuple[bytes, dict[str, str]]:
    """The content as it is sent, and the headers that say how. The fastest level: a higher one gains little on JSON."""
    headers = {"Vary": "Accept-Encoding"}
    if len(content) < _SMALL or not _takes_gzip(accept_encoding):
        return content, headers
    return gzip.compress(content, 1), {**headers, "Content-Encoding": "gzip"}


def _takes_gzip(accept_encoding: str | None) -> bool:
    for part in (accept_encoding or "").lower().split(","):
        coding, _semicolon, weight = part.partition(";")
        if coding.strip() == "gzip":
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
