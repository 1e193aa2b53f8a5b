# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Removes tunnels, and writes down with it what their nodes have to remove.

A node removes nothing without such a record: a database that was copied, or restored from a backup, lacks tunnels that
nobody has deleted.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

from sqlalchemy import Table, and_, delete, insert, or_, select, update

from marzban_tunnels import node_rows, responses
from marzban_tunnels.node_rows import Execute
from marzban_tunnels.tables import ADDRESSES, CHANGES, DELETIONS, ENDS, NODE_SERVICES, TUNNELS

KEPT = timedelta(days=30)  # after which the record of a deleted node is given up
_SHOWN = timedelta(days=30)  # for which it is shown after that
_CHUNK = 500  # tunnels in one statement
_ENDS = select(
    TUNNELS.c.uuid, TUNNELS.c.id, TUNNELS.c.name, TUNNELS.c.tunnel_type, ENDS.c.node_id, ENDS.c.node_created_at
)


def remove(execute: Execute, nodes: Table, tunnel_ids: list[int]) -> set[int]:
    """Delete tunnels with all that hangs on them, in the caller's transaction; SQLite doesn't always enforce the
    foreign keys. Answers the numbers of their nodes."""
    concerned: set[int] = set()
    for start in range(0, len(tunnel_ids), _CHUNK):
        some = tunnel_ids[start : start + _CHUNK]
        query = _ENDS.join_from(TUNNELS, ENDS, ENDS.c.tunnel_id == TUNNELS.c.id).where(TUNNELS.c.id.in_(some))
        concerned |= _record(execute, nodes, execute(node_rows.latest(query)).all())
        execute(delete(CHANGES).where(CHANGES.c.tunnel_id.in_(some)))  # its sums go later: see recorder.py
        execute(delete(ADDRESSES).where(ADDRESSES.c.tunnel_id.in_(some)))
        execute(delete(ENDS).where(ENDS.c.tunnel_id.in_(some)))
        execute(delete(TUNNELS).where(TUNNELS.c.id.in_(some)))
    return concerned


def moved(execute: Execute, nodes: Table, tunnel: Any, left: Iterable[Any], now_on: Collection[int]) -> None:
    """A tunnel's ends were on the nodes of ``left`` (rows with ``node_id`` and ``node_created_at``), and are on the
    nodes ``now_on``: it has to go from the others, and not from these any more."""
    called = {"uuid": tunnel.uuid, "id": tunnel.id, "name": tunnel.name, "tunnel_type": tunnel.tunnel_type}
    gone = [end for end in left if end.node_id not in now_on]
    places = [{"node_id": end.node_id, "node_created_at": end.node_created_at} for end in gone]
    _record(execute, nodes, [SimpleNamespace(**called, **place) for place in places])
    here = [row.uuid for row in node_rows.current(execute, nodes, now_on).values()]
    execute(delete(DELETIONS).where(DELETIONS.c.uuid == tunnel.uuid, DELETIONS.c.node_uuid.in_(here)))


def orphans(execute: Execute, nodes: Table) -> list[int]:
    """The tunnels whose node is gone, or whose node's number belongs to a later node."""
    there = {row.id: row.created_at for row in execute(select(nodes.c.id, nodes.c.created_at))}
    found = {
        end.tunnel_id
        for end in execute(select(ENDS.c.tunnel_id, ENDS.c.node_id, ENDS.c.node_created_at))
        if end.node_id not in there or there[end.node_id] != end.node_created_at
    }
    found |= {
        row.id
        for row in execute(select(TUNNELS.c.id, TUNNELS.c.source_node_id, TUNNELS.c.target_node_id))
        if row.source_node_id not in there or row.target_node_id not in there
    }
    return sorted(found)


def take_over(execute: Execute, node: Any, port: int, pin: str) -> None:
    """A node that was deleted was added again, so its row (``node``) and its key are new, and its service shows the
    certificate that it had: what waits to be removed there is that row's from now on. Its address has to be the same:
    the pin is public, and any node may say that it is its own."""
    rows = select(NODE_SERVICES.c.uuid)
    same = (DELETIONS.c.pin == pin, DELETIONS.c.address == node.address)
    open_ones = (*same, ~DELETIONS.c.given_up, DELETIONS.c.node_uuid.not_in(rows))
    waiting = {row.uuid: row for row in execute(select(DELETIONS).where(*open_ones).order_by(DELETIONS.c.deleted_at))}
    if not waiting:
        return
    told = {"node_id": node.node_id, "node_uuid": node.uuid, "node_name": node.name, "address": node.address}
    told |= {"port": port, "pin": pin, "generation": node.generation, "given_up": False}
    execute(delete(DELETIONS).where(*open_ones))
    _replace(execute, {(uuid, node.uuid): {**row._mapping, **told} for uuid, row in waiting.items()})
    counter = max(row.counter for row in waiting.values())  # the node has seen writes up to this one
    raised = update(NODE_SERVICES).where(NODE_SERVICES.c.node_id == node.node_id, NODE_SERVICES.c.counter < counter)
    execute(raised.values(counter=counter))


def purge(execute: Execute) -> None:
    """Take away records that were shown as given up for long, and those that are old and of a node without a service:
    without the node services nobody else does."""
    too_old = responses.now() - KEPT - _SHOWN
    rows, service = select(NODE_SERVICES.c.uuid), NODE_SERVICES.c.port
    none = and_(DELETIONS.c.port.is_(None), DELETIONS.c.node_uuid.not_in(rows))
    unserved = or_(none, DELETIONS.c.node_uuid.in_(rows.where(service.is_(None))))
    execute(delete(DELETIONS).where(DELETIONS.c.deleted_at < too_old, or_(DELETIONS.c.given_up, unserved)))


def _record(execute: Execute, nodes: Table, ends: Collection[Any]) -> set[int]:
    """Write down that each of these ends has to be removed. Answers the numbers of their nodes."""
    concerned = {end.node_id for end in ends}
    known: dict[tuple[int, Any], dict[str, Any]] = {}
    # A node that was deleted while we were not there, or whose number a later node got, may have left its row
    wanted = sorted(concerned)
    for start in range(0, len(wanted), _CHUNK):
        for row in execute(node_rows.of_nodes(wanted[start : start + _CHUNK])):
            known[row.node_id, row.node_created_at] = {**_of_node(row), "given_up": row.port is None}
    for row in node_rows.current(execute, nodes, concerned).values():
        known[row.node_id, row.node_created_at] = {**_of_node(row), "given_up": False}
    moment = responses.now()
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for end in ends:
        place = (end.node_id, end.node_created_at)
        if place not in known:
            known[place] = _unknown(end.node_id)
        what = {"uuid": end.uuid, "tunnel_id": end.id, "name": end.name, "tunnel_type": end.tunnel_type}
        rows[end.uuid, known[place]["node_uuid"]] = {**known[place], **what, "deleted_at": moment}
    if rows:
        _replace(execute, rows)
    return concerned


def _replace(execute: Execute, rows: dict[tuple[str, str], dict[str, Any]]) -> None:
    """Insert records, by uuid and the node's uuid. One that is there already is older, and goes."""
    key = (DELETIONS.c.uuid, DELETIONS.c.node_uuid)
    query = select(*key).where(key[0].in_({end for end, _node in rows}))
    for row in execute(node_rows.latest(query)).all():
        if (row.uuid, row.node_uuid) in rows:
            execute(delete(DELETIONS).where(key[0] == row.uuid, key[1] == row.node_uuid))
    execute(insert(DELETIONS), list(rows.values()))


def _of_node(row: Any) -> dict[str, Any]:
    kept = {name: getattr(row, name) for name in ("node_id", "address", "port", "pin", "generation", "counter")}
    return {**kept, "node_uuid": row.uuid, "node_name": row.name}


def _unknown(node_id: int) -> dict[str, Any]:
    """A node of which nothing is known but its number: nobody can call it, so that is given up. It is shown."""
    nothing = dict.fromkeys(("node_name", "address", "port", "pin"))
    counted = {"node_id": node_id, "generation": 1, "counter": 0}
    return {**nothing, **counted, "node_uuid": str(uuid.uuid4()), "given_up": True}
