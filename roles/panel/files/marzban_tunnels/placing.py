# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Writes what the ends of a tunnel have got, and takes it away, within the caller's transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from marzban_tunnels.allocate import Given, Held, address_row
from marzban_tunnels.tables import ADDRESSES, ENDS, Address, End, Tunnel
from marzban_tunnels.tunnel_config import ROLES

_OF_THE_END = ("public", "measured", "reported_at", "gaps", "reported_by", "changed_public")  # stays with it


def release(session: Session, tunnel_id: int) -> tuple[list[End], dict[str, Held]]:
    """Take the ends' rows away, so that two ends can swap what they hold. Returns what was there."""
    ends = list(session.scalars(select(End).where(End.tunnel_id == tunnel_id)))
    addresses: dict[str, list[str]] = defaultdict(list)
    for row in session.scalars(select(Address).where(Address.tunnel_id == tunnel_id).order_by(Address.position)):
        addresses[row.role].append(row.address)
    held = {end.role: Held(end.port, addresses[end.role]) for end in ends}
    for end in ends:
        session.expunge(end)
    session.execute(delete(Address).where(Address.tunnel_id == tunnel_id))
    session.execute(delete(End).where(End.tunnel_id == tunnel_id))
    return ends, held if all(held.get(role) and held[role].addresses for role in ROLES) else {}


def place(
    session: Session, record: Tunnel, nodes: dict[str, Any], given: dict[str, Given], ends: Iterable[End]
) -> None:
    """Write what both ends get; an end of ``ends`` that stays on its node keeps its public half and measurements."""
    old = {end.role: end for end in ends if end.node_id == nodes[end.role].id}
    rows = [
        {
            "tunnel_id": record.id,
            "role": role,
            "node_id": nodes[role].id,
            "node_created_at": nodes[role].created_at,
            "port": given[role].port,
            "interface": given[role].interface,
            **{name: getattr(old.get(role), name, None) for name in _OF_THE_END},
        }
        for role in ROLES
    ]
    session.execute(insert(ENDS), rows)
    session.execute(
        insert(ADDRESSES),
        [
            address_row(record.id, role, position, text)
            for role in ROLES
            for position, text in enumerate(given[role].addresses)
        ],
    )
