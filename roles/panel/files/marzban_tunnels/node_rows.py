# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Who a node is for us: its row in ``tunnel_nodes``, made when it is first needed.

The panel may give a node's number to a later node (SQLite does). The number and the time at which the node was created
are the node; a row with another time belongs to one that is no longer there.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection
from typing import Any

from sqlalchemy import Select, Table, and_, delete, insert, select, update

from marzban_tunnels.tables import DELETIONS, NODE_SERVICES

Execute = Callable[..., Any]  # a session's, or a connection's
_CHUNK = 500  # numbers in one query
_NODE = ("id", "name", "address", "created_at")


def latest(query: Select[Any]) -> Select[Any]:
    """The same, and what is committed by now is seen. Marzban deletes a node in a transaction that has read before it
    waits for the panel's row: on MariaDB its plain reads show what was there then. SQLite ignores this."""
    return query.with_for_update(read=True)


def current(execute: Execute, nodes: Table, node_ids: Collection[int]) -> dict[int, Any]:
    """The rows of those nodes that exist, by number: the columns of ``tunnel_nodes``, ``name`` and ``address`` as they
    are now. What is missing is made, so this is for a write transaction."""
    found: dict[int, Any] = {}
    wanted = sorted(set(node_ids))
    for start in range(0, len(wanted), _CHUNK):
        some = wanted[start : start + _CHUNK]
        there = execute(latest(select(*(nodes.c[name] for name in _NODE)).where(nodes.c.id.in_(some)))).all()
        known = {row.node_id: row for row in execute(of_nodes(some))}
        for node in there:
            row = known.get(node.id)
            if row is None or row.node_created_at != node.created_at:
                row = _made(execute, node, row)
            elif (row.name, row.address) != (node.name, node.address):
                told = {"name": node.name, "address": node.address}
                execute(update(NODE_SERVICES).where(NODE_SERVICES.c.node_id == node.id).values(told))
                row = execute(of_nodes([node.id])).one()
            found[node.id] = row
    return found


def of_nodes(node_ids: Collection[int]) -> Select[Any]:
    """The rows with these numbers, those of earlier nodes too."""
    return latest(select(NODE_SERVICES).where(NODE_SERVICES.c.node_id.in_(node_ids)))


def reading(nodes: Table) -> Select[Any]:
    """All nodes of the panel, with the columns of their rows (``None`` where there is no row), by number. ``node_id``,
    ``name`` and ``address`` are the node's own."""
    service = NODE_SERVICES.c
    mine = and_(service.node_id == nodes.c.id, service.node_created_at.is_not_distinct_from(nodes.c.created_at))
    columns = [service[name] for name in ("uuid", "generation", "port", "pin", "counter", "seen_counter")]
    called = (nodes.c.id.label("node_id"), nodes.c.name, nodes.c.address)
    return select(*called, *columns).select_from(nodes.outerjoin(NODE_SERVICES, mine)).order_by(nodes.c.id)


def forget(execute: Execute, rows: Collection[Any]) -> None:
    """These nodes are deleted: their rows go. What is to be removed there stays, with the last that is known of how to
    reach the node; without a service nobody can be called, and that is given up at once."""
    for row in rows:
        told: dict[str, Any] = {"port": row.port, "pin": row.pin, "generation": row.generation, "counter": row.counter}
        told |= {"node_name": row.name, "address": row.address}
        if row.port is None:
            told["given_up"] = True
        execute(update(DELETIONS).where(DELETIONS.c.node_uuid == row.uuid).values(told))
        execute(delete(NODE_SERVICES).where(NODE_SERVICES.c.uuid == row.uuid))


def purge(execute: Execute, nodes: Table) -> None:
    """Forget the nodes that were deleted while we were not there, and keep what the others are called now."""
    there = {node.id: node for node in execute(select(*(nodes.c[name] for name in _NODE)))}
    rows = execute(select(NODE_SERVICES)).all()
    gone = [row for row in rows if row.node_id not in there or there[row.node_id].created_at != row.node_created_at]
    forget(execute, gone)
    current(execute, nodes, [row.node_id for row in rows])


def _made(execute: Execute, node: Any, stale: Any) -> Any:
    if stale is not None:
        forget(execute, [stale])
    row = {"node_id": node.id, "node_created_at": node.created_at, "uuid": str(uuid.uuid4())}
    row |= {"name": node.name, "address": node.address}
    execute(insert(NODE_SERVICES), row)
    return execute(of_nodes([node.id])).one()
