# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Reads tunnels as the API shows them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sqlalchemy import ColumnElement, Select, Table, bindparam, select
from sqlalchemy.orm import Session

from marzban_tunnels import responses
from marzban_tunnels.live import Live
from marzban_tunnels.tables import ADDRESSES, ENDS, TUNNELS

# Made once, and over tables: see allocate.py
_ENDS_OF = (
    select(ENDS)
    .where(ENDS.c.tunnel_id.in_(bindparam("tunnels", expanding=True)))
    .order_by(ENDS.c.tunnel_id, ENDS.c.role)
)
_ADDRESSES_OF = (
    select(ADDRESSES.c.tunnel_id, ADDRESSES.c.role, ADDRESSES.c.address)
    .where(ADDRESSES.c.tunnel_id.in_(bindparam("tunnels", expanding=True)))
    .order_by(ADDRESSES.c.position)
)


@dataclass(frozen=True)
class Rows:
    """A tunnel's row with its nodes' names and addresses, those of its ends, and their addresses by role."""

    row: Any
    ends: list[Any]
    addresses: dict[str, list[str]]


class Reader:
    """Of the tunnels between the nodes of one table."""

    def __init__(self, nodes: Table) -> None:
        self._nodes = nodes

    @cached_property
    def _rows(self) -> Select[Any]:
        source, target = self._nodes.alias("source"), self._nodes.alias("target")
        return (
            select(
                *TUNNELS.c,
                source.c.name.label("source_name"),
                source.c.address.label("source_address"),
                target.c.name.label("target_name"),
                target.c.address.label("target_address"),
            )
            .join_from(TUNNELS, source, source.c.id == TUNNELS.c.source_node_id)
            .join(target, target.c.id == TUNNELS.c.target_node_id)
        )

    def read(
        self, session: Session, live: Live, *where: ColumnElement[bool], skip: int = 0, limit: int = 1
    ) -> list[dict[str, Any]]:
        """Those that meet the conditions, ordered by id. The session has no transaction after it."""
        found = self.rows(session, *where, skip=skip, limit=limit)
        moment = responses.now()
        return [responses.tunnel(rows.row, rows.ends, rows.addresses, moment, live) for rows in found]

    def rows(self, session: Session, *where: ColumnElement[bool], skip: int = 0, limit: int = 1) -> list[Rows]:
        """The same as they are in the database."""
        one_moment(session)
        query = self._rows.where(*where).order_by(TUNNELS.c.id).offset(skip).limit(limit)
        rows = session.execute(query).all()
        wanted = {"tunnels": [row.id for row in rows]}
        ends: dict[int, list[Any]] = defaultdict(list)
        addresses: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for end in session.execute(_ENDS_OF, wanted):
            ends[end.tunnel_id].append(end)
        for row in session.execute(_ADDRESSES_OF, wanted):
            addresses[row.tunnel_id][row.role].append(row.address)
        session.rollback()
        return [Rows(row, ends[row.id], addresses[row.id]) for row in rows]


def one_moment(session: Session) -> None:
    """Begin a transaction where the driver would not: Python's for SQLite leaves reads outside of any, and a tunnel
    that is deleted between two of them would be shown without its ends."""
    connection = session.connection()
    if connection.dialect.name == "sqlite" and not connection.connection.dbapi_connection.in_transaction:  # type: ignore[union-attr]
        connection.exec_driver_sql("BEGIN")
