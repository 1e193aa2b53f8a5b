# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Keeps tunnels and nodes in step, with any model of the node."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, event, or_, select, update

from marzban_tunnels.service import remove
from marzban_tunnels.tables import Panel, Tunnel


def follow(node: type[Any]) -> None:
    """Watch a mapped class of nodes: a node that is deleted takes its tunnels along, and so does one that is inserted
    (what its id points to was left behind by an earlier node: SQLite uses ids again)."""
    event.listen(node, "before_delete", _remove_tunnels)
    event.listen(node, "after_insert", _remove_tunnels)


def _remove_tunnels(mapper: Any, connection: Connection, node: Any) -> None:
    # Our writes lock this row first: taken in the same order, none waits for the other in a circle.
    connection.execute(update(Panel).where(Panel.id == 1).values(writes=Panel.writes + 1))
    query = select(Tunnel.id).where(or_(Tunnel.source_node_id == node.id, Tunnel.target_node_id == node.id))
    remove(connection.execute, list(connection.scalars(query)))
