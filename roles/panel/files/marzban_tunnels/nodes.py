# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Keeps tunnels and nodes in step, with any model of the node."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, event, or_, select, update

from marzban_tunnels import deletions, node_rows
from marzban_tunnels.tables import Panel, Tunnel


def follow(node: type[Any]) -> None:
    """Watch a mapped class of nodes: a node that is deleted takes its tunnels along, and so does one that is inserted
    (what its id points to was left behind by an earlier node: SQLite uses ids again). What the nodes have to remove is
    written down."""
    event.listen(node, "before_delete", _remove_tunnels)
    event.listen(node, "after_insert", _remove_tunnels)
    event.listen(node, "before_delete", _forget)
    event.listen(node, "after_insert", _forget_earlier)


def _remove_tunnels(mapper: Any, connection: Connection, node: Any) -> None:
    # Our writes lock this row first: taken in the same order, none waits for the other in a circle.
    connection.execute(update(Panel).where(Panel.id == 1).values(writes=Panel.writes + 1))
    query = select(Tunnel.id).where(or_(Tunnel.source_node_id == node.id, Tunnel.target_node_id == node.id))
    deletions.remove(connection.execute, mapper.local_table, list(connection.scalars(node_rows.latest(query))))


def _forget(mapper: Any, connection: Connection, node: Any) -> None:
    if _rows(connection, node):
        node_rows.current(connection.execute, mapper.local_table, [node.id])  # its address may be another one by now
        node_rows.forget(connection.execute, _rows(connection, node))


def _forget_earlier(mapper: Any, connection: Connection, node: Any) -> None:
    nodes = mapper.local_table
    created_at = connection.scalar(select(nodes.c.created_at).where(nodes.c.id == node.id))
    earlier = [row for row in _rows(connection, node) if row.node_created_at != created_at]
    node_rows.forget(connection.execute, earlier)


def _rows(connection: Connection, node: Any) -> list[Any]:
    return list(connection.execute(node_rows.of_nodes([node.id])))
