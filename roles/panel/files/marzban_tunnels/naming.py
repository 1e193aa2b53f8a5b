# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Names of tunnels: none twice, and no new one that people may take for another."""

from __future__ import annotations

import hashlib

from sqlalchemy import bindparam, select, update
from sqlalchemy.orm import Session

from marzban_tunnels import checks
from marzban_tunnels.errors import Refused, say
from marzban_tunnels.tables import TUNNELS, Tunnel

# Made once, and over tables: see allocate.py
_NAMED = select(TUNNELS.c.id).where(TUNNELS.c.name == bindparam("name"), TUNNELS.c.id != bindparam("tunnel"))
_ALIKE = select(TUNNELS.c.id, TUNNELS.c.name).where(
    TUNNELS.c.alike == bindparam("alike"), TUNNELS.c.id != bindparam("tunnel")
)


def digest(name: str | None) -> str | None:
    """The same for names that look alike. A SHA-256, because a folded name may be eighteen times as long."""
    return None if name is None else hashlib.sha256(checks.alike(name).encode()).hexdigest()


def check(session: Session, record: Tunnel, new: bool) -> None:
    """Raises Refused (409) where the name is another tunnel's, or a ``new`` one looks like one. Older versions took
    names that look alike: who has one keeps it."""
    if record.name is None:
        return
    taken = session.scalar(_NAMED, {"name": record.name, "tunnel": record.id})
    if taken is not None:
        said = say(
            "name_taken", '"{name}" is the name of tunnel {owner}; choose another', name=record.name, owner=taken
        )
        raise Refused(409, said, "name")
    similar = session.execute(_ALIKE, {"alike": record.alike, "tunnel": record.id}).first() if new else None
    if similar:
        said = say(
            "name_alike",
            '"{name}" looks like "{other}", the name of tunnel {owner}; choose one that can be told from it',
            name=record.name,
            other=similar.name,
            owner=similar.id,
        )
        raise Refused(409, said, "name")


def refresh(session: Session) -> None:
    """The digests of names that an older version has given, or another Python with other tables of Unicode."""
    for row in session.execute(select(TUNNELS.c.id, TUNNELS.c.name, TUNNELS.c.alike)).all():
        if row.alike != digest(row.name):
            session.execute(update(TUNNELS).where(TUNNELS.c.id == row.id).values(alike=digest(row.name)))
