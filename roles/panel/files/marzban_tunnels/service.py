# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""What the tunnels API does, over a session and the table of nodes that a door hands in."""

from __future__ import annotations

import logging
import random
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Table, delete, func, or_, select, update
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session

from marzban_tunnels import reports, responses, tunnel_config
from marzban_tunnels.allocate import Allocator, Held, Node, address_row, called
from marzban_tunnels.errors import Refused
from marzban_tunnels.schemas import Keys, Reports, TunnelCreate, TunnelUpdate
from marzban_tunnels.settings import Settings
from marzban_tunnels.tables import Address, End, Panel, Tunnel
from marzban_tunnels.tunnel_config import PEER, ROLES, TunnelConfig

_log = logging.getLogger(__name__)
LARGEST_ID = 2**31 - 1
_ATTEMPTS = 6
T = TypeVar("T")


class Tunnels:
    """The records, for one panel. ``nodes`` is a table with ``id``, ``name``, ``address`` and ``created_at``."""

    def __init__(self, nodes: Table, settings: Settings) -> None:
        self._nodes = nodes
        self._settings = settings
        self.panel_id = ""  # until it has started

    def start(self, session: Session) -> None:
        """Once, after the migrations: give the panel its id, and purge what nodes left while we weren't there."""
        if session.get(Panel, 1) is None:
            session.add(Panel(id=1, uuid=str(uuid.uuid4())))
            try:
                session.commit()
            except IntegrityError:  # another process has started at the same moment
                session.rollback()
        self._write(session, lambda panel: self._purge_orphans(session))
        self.panel_id = session.scalars(select(Panel.uuid)).one()

    # reading

    def page(self, session: Session, skip: int, limit: int) -> list[dict[str, Any]]:
        """A page of tunnels, ordered by id."""
        return self._read(session, skip=skip, limit=limit)

    def get(self, session: Session, tunnel_id: int) -> dict[str, Any]:
        """One tunnel."""
        found = self._read(session, Tunnel.id == tunnel_id) if 1 <= tunnel_id <= LARGEST_ID else []
        if not found:
            raise Refused(404, "Tunnel not found")
        return found[0]

    def status(self, session: Session, tunnel_id: int) -> dict[str, Any]:
        """One tunnel's status, with the measurements of both ends and their age."""
        return responses.status(self.get(session, tunnel_id), responses.now())

    # writing

    def create(self, session: Session, body: TunnelCreate) -> dict[str, Any]:
        """A new tunnel; the ends get what the operator didn't choose."""
        chosen = tunnel_config.parse(body.config, body.tunnel_type)

        def work(panel: Panel) -> int:
            moment = responses.now()
            number = max(panel.next_id, (session.scalar(select(func.max(Tunnel.id))) or 0) + 1)
            panel.next_id = number + 1
            record = Tunnel(
                id=number, uuid=str(uuid.uuid4()), version=1, created_at=moment, updated_at=moment, **body.model_dump()
            )  # fmt: skip
            nodes = self._check(session, record)
            session.add(record)
            session.flush()
            self._check_routes(session, record)
            self._place(session, panel, record, nodes, chosen, [], {}, TunnelConfig())
            return record.id

        return self.get(session, self._write(session, work))

    def update(self, session: Session, tunnel_id: int, body: TunnelUpdate, if_match: str | None) -> dict[str, Any]:
        """Change what ``body`` holds. Nothing grows, and nothing is written, where nothing differs."""
        given = {field: getattr(body, field) for field in body.model_fields_set}

        def work(panel: Panel) -> None:
            record = self._locked(session, tunnel_id, if_match)
            changed = {field for field, value in given.items() if getattr(record, field) != value}
            before = tunnel_config.stored(record.config)
            for field in changed:
                setattr(record, field, given[field])
            chosen = (
                tunnel_config.parse(record.config, record.tunnel_type)
                if changed & {"config", "tunnel_type"}
                else before
            )
            if not changed:
                return
            nodes = self._check(session, record)
            if changed - {"name"}:
                self._check_routes(session, record)
            if changed - {"name", "is_active"}:
                ends, held = self._release(session, tunnel_id)
                self._place(session, panel, record, nodes, chosen, ends, held, before, "tunnel_type" in changed)
            self._touch(session, record)

        self._write(session, work)
        return self.get(session, tunnel_id)

    def switch(self, session: Session, tunnel_id: int, active: bool, if_match: str | None) -> None:
        """Activate or deactivate; a tunnel that is so already stays as it is."""

        def work(panel: Panel) -> None:
            record = self._locked(session, tunnel_id, if_match)
            if record.is_active != active:
                record.is_active = active
                self._check_routes(session, record)
                self._touch(session, record)

        self._write(session, work)

    def delete(self, session: Session, tunnel_id: int, if_match: str | None) -> None:
        """Remove a tunnel; its id is never used again."""

        def work(panel: Panel) -> None:
            self._locked(session, tunnel_id, if_match)
            remove(session.execute, [tunnel_id])

        self._write(session, work)

    def store_keys(self, session: Session, body: Keys) -> dict[str, Any]:
        """Merge the public halves of many ends, all in one transaction."""
        return self._write(session, lambda panel: reports.store_keys(session, self._nodes, body.keys))

    def store_reports(self, session: Session, body: Reports) -> dict[str, Any]:
        """Take in what a run measured at many ends, all in one transaction."""
        return self._write(session, lambda panel: reports.store_reports(session, self._nodes, body.reports))

    # within

    def _read(
        self, session: Session, *where: ColumnElement[bool], skip: int = 0, limit: int = 1
    ) -> list[dict[str, Any]]:
        source, target = self._nodes.alias("source"), self._nodes.alias("target")
        query = (
            select(
                *Tunnel.__table__.c,
                source.c.name.label("source_name"),
                source.c.address.label("source_address"),
                target.c.name.label("target_name"),
                target.c.address.label("target_address"),
            )
            .join_from(Tunnel.__table__, source, source.c.id == Tunnel.source_node_id)
            .join(target, target.c.id == Tunnel.target_node_id)
        )
        _one_moment(session)
        rows = session.execute(query.where(*where).order_by(Tunnel.id).offset(skip).limit(limit)).all()
        wanted = [row.id for row in rows]
        ends: dict[int, list[Any]] = defaultdict(list)
        addresses: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for end in session.execute(
            select(*End.__table__.c).where(End.tunnel_id.in_(wanted)).order_by(End.tunnel_id, End.role)
        ):
            ends[end.tunnel_id].append(end)
        for row in session.execute(
            select(Address.tunnel_id, Address.role, Address.address)
            .where(Address.tunnel_id.in_(wanted))
            .order_by(Address.position)
        ):
            addresses[row.tunnel_id][row.role].append(row.address)
        session.rollback()
        moment = responses.now()
        return [responses.tunnel(row, ends[row.id], addresses[row.id], moment) for row in rows]

    def _write(self, session: Session, work: Callable[[Panel], T]) -> T:
        """Run ``work`` in a transaction that no other write of ours overlaps.

        The first statement locks the panel's row (on SQLite: the database), after whatever the session has read for the
        login was let go: what ``work`` reads is then the newest. What still collides is a node that goes away at the
        same moment, or a database that is busy: tried again.
        """
        for attempt in range(_ATTEMPTS):
            session.rollback()
            try:
                session.execute(update(Panel).where(Panel.id == 1).values(writes=Panel.writes + 1))
                panel = session.scalars(select(Panel).where(Panel.id == 1)).one()
                result = work(panel)
                session.flush()
                session.commit()
                return result
            except (IntegrityError, OperationalError) as error:
                session.rollback()
                _log.warning("a write collided, attempt %d: %s", attempt + 1, type(error.orig).__name__)
                time.sleep(random.uniform(0, 0.02 * 2**attempt))
            except BaseException:
                session.rollback()
                raise
        raise Refused(503, "The database is busy: try again in a few seconds")

    def _locked(self, session: Session, tunnel_id: int, if_match: str | None) -> Tunnel:
        record = session.get(Tunnel, tunnel_id) if 1 <= tunnel_id <= LARGEST_ID else None
        if record is None:
            raise Refused(404, "Tunnel not found")
        if if_match is not None and not _matches(if_match, record.version):
            raise Refused(
                412,
                f"If-Match: {if_match[:40]} is old, the tunnel is at version {record.version}; read it again",
            )
        return record

    def _check(self, session: Session, record: Tunnel) -> dict[str, Any]:
        """Both nodes exist and differ, the name is free. Answers the nodes by role."""
        wanted = {role: getattr(record, f"{role}_node_id") for role in ROLES}
        columns = (self._nodes.c.id, self._nodes.c.name, self._nodes.c.created_at)
        with session.no_autoflush:  # an error here is clearer than the database's
            found = {row.id: row for row in session.execute(select(*columns).where(columns[0].in_(wanted.values())))}
            for role, node_id in wanted.items():
                if node_id not in found:
                    raise Refused(404, f"{role}_node_id: there is no node {node_id}; GET /api/nodes lists them")
            if record.source_node_id == record.target_node_id:
                raise Refused(
                    400,
                    f"target_node_id: {record.target_node_id} is the source node as well; give two different nodes",
                )
            if record.name is not None:
                query = select(Tunnel.id).where(Tunnel.name == record.name, Tunnel.id != record.id)
                other = session.scalar(query)
                if other is not None:
                    raise Refused(409, f'name: "{record.name}" is the name of tunnel {other}; choose another')
        return {role: found[node_id] for role, node_id in wanted.items()}

    def _check_routes(self, session: Session, record: Tunnel) -> None:
        """No other active tunnel has one of these routes on the same node: they would take it from each other at
        every run. Compared here and not by the database: routes are in ``config`` only."""
        wanted = {(node, network): role for node, network, role in _sent(record)}
        if not wanted or not record.is_active:
            return
        places = {node for node, _network in wanted}
        columns = (Tunnel.id, Tunnel.name, Tunnel.source_node_id, Tunnel.target_node_id, Tunnel.config)
        query = (
            select(*columns)
            .where(or_(Tunnel.source_node_id.in_(places), Tunnel.target_node_id.in_(places)))
            .where(Tunnel.is_active, Tunnel.id != record.id, Tunnel.config != "{}")
            .order_by(Tunnel.id)
        )
        for other in session.execute(query):
            for node, network, _role in _sent(other):
                role = wanted.get((node, network))
                if role:
                    name = session.scalar(select(self._nodes.c.name).where(self._nodes.c.id == node))
                    raise Refused(
                        409,
                        f'config.{role}.routes: {network} goes from node "{name}" into {called(other.id, other.name)}'
                        " already; take it out of one of the two, or deactivate one",
                    )

    def _release(self, session: Session, tunnel_id: int) -> tuple[list[End], dict[str, Held]]:
        """Take the ends' rows away, so that two ends can swap what they hold. Answers what stood there."""
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

    def _place(
        self,
        session: Session,
        panel: Panel,
        record: Tunnel,
        nodes: dict[str, Any],
        chosen: TunnelConfig,
        ends: Iterable[End],
        held: dict[str, Held],
        chosen_before: TunnelConfig,
        new_type: bool = False,
    ) -> None:
        """Allocate, and write both ends; an end that stays what it was keeps its public half and measurements."""
        allocator = Allocator(session, self._settings, panel, record)
        plain = {role: Node(node.id, node.name) for role, node in nodes.items()}
        given = allocator.ends(plain, chosen, held, chosen_before)
        old = {end.role: end for end in ends}
        for role in ROLES:
            end = End(
                tunnel_id=record.id,
                role=role,
                node_id=nodes[role].id,
                node_created_at=nodes[role].created_at,
                port=given[role].port,
                interface=given[role].interface,
            )
            if role in old and old[role].node_id == end.node_id and not new_type:
                end.public, end.measured, end.reported_at = old[role].public, old[role].measured, old[role].reported_at
            session.add(end)
            for position, text in enumerate(given[role].addresses):
                session.add(address_row(record.id, role, position, text))
        session.flush()

    def _touch(self, session: Session, record: Tunnel) -> None:
        """The record has changed: what the ends reported was about another one."""
        record.version += 1
        record.updated_at = responses.now()
        session.flush()
        session.execute(update(End).where(End.tunnel_id == record.id).values(status=None, error=None))

    def _purge_orphans(self, session: Session) -> None:
        """Remove tunnels whose node is gone, or whose node's id belongs to a later node."""
        nodes = {row.id: row.created_at for row in session.execute(select(self._nodes.c.id, self._nodes.c.created_at))}
        orphans = {
            end.tunnel_id
            for end in session.execute(select(End.tunnel_id, End.node_id, End.node_created_at))
            if end.node_id not in nodes or nodes[end.node_id] != end.node_created_at
        }
        orphans |= {
            row.id
            for row in session.execute(select(Tunnel.id, Tunnel.source_node_id, Tunnel.target_node_id))
            if row.source_node_id not in nodes or row.target_node_id not in nodes
        }
        remove(session.execute, sorted(orphans))


def _one_moment(session: Session) -> None:
    """Begin a transaction where the driver would not: Python's for SQLite leaves reads outside of any, and a tunnel
    that is deleted between two of them would be shown without its ends."""
    connection = session.connection()
    if connection.dialect.name == "sqlite" and not connection.connection.dbapi_connection.in_transaction:  # type: ignore[union-attr]
        connection.exec_driver_sql("BEGIN")


def remove(execute: Callable[[Any], Any], tunnel_ids: list[int]) -> None:
    """Delete tunnels with all that hangs on them; SQLite doesn't always enforce the foreign keys."""
    for start in range(0, len(tunnel_ids), 500):
        some = tunnel_ids[start : start + 500]
        execute(delete(Address).where(Address.tunnel_id.in_(some)))
        execute(delete(End).where(End.tunnel_id.in_(some)))
        execute(delete(Tunnel).where(Tunnel.id.in_(some)))


def _sent(record: Any) -> Iterator[tuple[int, str, str]]:
    """``(node, network, role)`` of all that a node sends into this tunnel: the networks behind the end ``role``."""
    chosen = tunnel_config.lenient(record.config)  # a thousand of them shouldn't be checked for one create
    for role, peer in PEER.items():
        for network in tunnel_config.routes_of(chosen, role):
            yield getattr(record, f"{peer}_node_id"), network, role


def _matches(if_match: str, version: int) -> bool:
    tags = [tag.strip() for tag in if_match.split(",")]
    return "*" in tags or f'"{version}"' in tags
