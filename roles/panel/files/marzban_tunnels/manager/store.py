# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""What the manager reads from the database and writes into it: in a thread, in few and short transactions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, Table, delete, select, update
from sqlalchemy.orm import Session

from marzban_tunnels import reports, responses
from marzban_tunnels.live import Nothing
from marzban_tunnels.manager.compare import Removal, Wanted, revision_of
from marzban_tunnels.reading import Reader
from marzban_tunnels.schemas import EndKey, Public
from marzban_tunnels.service import Tunnels
from marzban_tunnels.tables import DELETIONS, ENDS, NODE_SERVICES, TUNNELS, Panel

_EPOCHS = 20  # kept of a node
_PAGE = 500  # tunnels in one query
_STORED = select(
    TUNNELS.c.id, TUNNELS.c.uuid, TUNNELS.c.version, ENDS.c.role, ENDS.c.node_id, ENDS.c.public, ENDS.c.status,
    ENDS.c.error, ENDS.c.changed_public,
).join_from(TUNNELS, ENDS, ENDS.c.tunnel_id == TUNNELS.c.id)  # fmt: skip


class LostLease(Exception):
    """Another manager works with this database: nothing was written."""


@dataclass(frozen=True)
class Target:
    """A node that has a service, and all that should be there. ``node_id`` is None where the node was deleted."""

    uuid: str
    node_id: int | None
    name: str
    address: str
    port: int
    pin: str
    generation: int
    counter: int
    epochs: tuple[str, ...] = ()  # those that the node may show; empty where it is not known
    seen: int = 0  # the highest number of a write that the node has taken
    wanted: Mapping[str, Wanted] = field(default_factory=dict)
    removals: Mapping[str, Removal] = field(default_factory=dict)

    def work(self) -> tuple[Any, ...]:
        """Differs where there may be something to do."""
        how = (self.name, self.address, self.port, self.pin, self.generation)
        return how, {uuid: item.revision for uuid, item in self.wanted.items()}, set(self.removals)


@dataclass(frozen=True)
class Snapshot:
    """The database at a moment. ``places`` is where each end is: (uuid, role) → the node's uuid of ours."""

    targets: Mapping[str, Target] = field(default_factory=dict)
    places: Mapping[tuple[str, str], str] = field(default_factory=dict)
    by_node_id: Mapping[int, str] = field(default_factory=dict)

    def different(self, before: Snapshot) -> set[str]:
        """The tunnels of which the database says something else about an end, as far as ``Known.end`` looks at it."""
        one, other = before._ends(), self._ends()
        return {key[0] for key in one.keys() | other.keys() if one.get(key) != other.get(key)}

    def _ends(self) -> dict[tuple[str, str], tuple[Any, ...]]:
        return {
            (uuid, item.role): (node, item.revision, item.public, item.status)
            for node, target in self.targets.items()
            for uuid, item in target.wanted.items()
        }


@dataclass
class Changes:
    """What waits to be written."""

    reserve: dict[str, int] = field(default_factory=dict)  # node → how many numbers of writes
    confirm: dict[str, int] = field(default_factory=dict)  # node → the counter that an admin has accepted
    epochs: dict[str, tuple[str | None, str]] = field(default_factory=dict)  # of those: the node's epoch, and ours
    accepted: dict[str, str] = field(default_factory=dict)  # node → the epoch that an admin has accepted
    seen: dict[str, int] = field(default_factory=dict)  # node → the counter that it has answered
    halves: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)  # (uuid, node's name) → half
    changed: dict[tuple[int, str], dict[str, str] | None] = field(default_factory=dict)
    reports: dict[tuple[int, str], dict[str, Any]] = field(default_factory=dict)
    # Deletion records: (uuid, node, deleted_at); a tunnel that was moved back and away again since has a later one
    done: set[tuple[str, str, datetime]] = field(default_factory=set)
    given_up: set[tuple[str, str, datetime]] = field(default_factory=set)

    def visible(self) -> bool:
        """Whether a reader of the API sees a difference."""
        return bool(self.halves or self.changed or self.reports or self.done or self.given_up)

    def followed_by(self, later: Changes) -> Changes:
        """Both, without numbers that were reserved."""
        return Changes(
            confirm=self.confirm | later.confirm,
            accepted=self.accepted | later.accepted,
            seen=self.seen | later.seen,
            halves=self.halves | later.halves,
            changed=self.changed | later.changed,
            reports=self.reports | later.reports,
            done=self.done | later.done,
            given_up=self.given_up | later.given_up,
        )


@dataclass(frozen=True)
class Written:
    """What came of it."""

    counters: Mapping[str, int]  # of each node with reserved numbers: the last of them
    rejected: Mapping[tuple[str, str], str]  # halves that were not taken: (uuid, node's name) → why


class Store:
    """Everything here blocks."""

    def __init__(self, engine: Engine, nodes: Table, tunnels: Tunnels) -> None:
        self.engine, self._nodes, self._tunnels = engine, nodes, tunnels
        self._reader, self._nothing = Reader(nodes), Nothing()
        self._called: set[tuple[Any, ...]] = set()
        self._records: dict[int, _Record] = {}

    def needed(self, session: Session) -> bool:
        """Whether any node has a service, or has to remove something."""
        service = select(NODE_SERVICES.c.node_id).where(NODE_SERVICES.c.port.is_not(None)).limit(1)
        # A node that exists and has no service any more can't be called, whatever the record has
        gone = DELETIONS.c.node_uuid.not_in(select(NODE_SERVICES.c.uuid))
        open_ones = DELETIONS.c.port.is_not(None) & ~DELETIONS.c.given_up & gone
        found = (
            session.execute(service).first()
            or session.execute(select(DELETIONS.c.uuid).where(open_ones).limit(1)).first()
        )
        session.rollback()
        return found is not None

    def revision(self, session: Session) -> tuple[Any, ...]:
        """Another one after each write of ours, and when a node is called otherwise."""
        nodes = session.execute(select(self._nodes.c.id, self._nodes.c.name, self._nodes.c.address)).all()
        writes = session.scalar(select(Panel.writes).where(Panel.id == 1))
        session.rollback()
        return writes, frozenset(tuple(row) for row in nodes)

    def read(self, session: Session) -> Snapshot:
        """All tunnels, and all nodes that have a service or had one and have to remove something."""
        node, service = self._nodes.c, NODE_SERVICES.c
        rows = session.execute(
            select(NODE_SERVICES, node.name.label("called"), node.address.label("at"))
            .join(self._nodes, node.id == service.node_id)
            .where(node.created_at.is_not_distinct_from(service.node_created_at))
            .where(service.port.is_not(None), service.pin.is_not(None))
        ).all()
        deletions = session.execute(select(DELETIONS)).all()
        known = {row.uuid for row in session.execute(select(service.uuid))}
        stored: dict[int, dict[str, Any]] = {}
        for end in session.execute(_STORED):
            stored.setdefault(end.id, {})[end.role] = end
        called = {tuple(row) for row in session.execute(select(node.id, node.name, node.address))}
        session.rollback()
        removals: dict[str, dict[str, Removal]] = {}
        for row in deletions:
            removals.setdefault(row.node_uuid, {})[row.uuid] = Removal(row.uuid, row.deleted_at, row.given_up)
        found = {row.node_id: row for row in rows}
        wanted: dict[int, dict[str, Wanted]] = {node_id: {} for node_id in found}
        places: dict[tuple[str, str], str] = {}
        self._refresh(session, stored, called)
        for tunnel_id, known_record in self._records.items():
            for end in known_record.record["ends"]:
                told = stored[tunnel_id].get(end["role"])
                if told is not None and end["node_id"] in found:
                    item = _wanted(known_record, end, told)
                    wanted[end["node_id"]][item.uuid] = item
                    places[item.uuid, item.role] = found[end["node_id"]].uuid
        targets = {
            row.uuid: Target(
                row.uuid, row.node_id, row.called, row.at, row.port, row.pin, row.generation, row.counter,
                tuple((row.epochs or "").split()), row.seen_counter, wanted[row.node_id], removals.get(row.uuid, {}),
            )
            for row in rows
        }  # fmt: skip
        for row in sorted(deletions, key=lambda row: int(row.counter)):
            if row.node_uuid not in known and row.port and row.pin and row.address and not row.given_up:
                targets[row.node_uuid] = Target(
                    row.node_uuid, None, row.node_name or row.node_uuid, row.address, row.port, row.pin, row.generation,
                    row.counter, (), 0, {}, removals[row.node_uuid],
                )  # fmt: skip
        return Snapshot(targets, places, {row.node_id: row.uuid for row in rows})

    def _refresh(self, session: Session, stored: Mapping[int, Mapping[str, Any]], called: set[tuple[Any, ...]]) -> None:
        """Read the tunnels that are not known as they are now: of a thousand mostly one."""
        if called != self._called:  # nodes' names and addresses are in the records
            self._called, self._records = called, {}
        self._records = {
            tunnel_id: known
            for tunnel_id, known in self._records.items()
            if tunnel_id in stored and known.state == _state(stored[tunnel_id])
        }
        missing = [tunnel_id for tunnel_id in stored if tunnel_id not in self._records]
        for start in range(0, len(missing), _PAGE):
            some = missing[start : start + _PAGE]
            for record in self._reader.read(session, self._nothing, TUNNELS.c.id.in_(some), limit=len(some)):
                state = _state(stored[record["id"]])
                revisions = {
                    end["role"]: revision_of(record, end["node"], self._tunnels.panel_id) for end in record["ends"]
                }
                self._records[record["id"]] = _Record(state, record, revisions)

    def write(self, session: Session, changes: Changes, me: str) -> Written:
        """All of it in one transaction, or nothing. Raises LostLease."""
        rejected: dict[tuple[str, str], str] = {}
        if changes.visible():
            session.execute(update(Panel).where(Panel.id == 1).values(writes=Panel.writes + 1))
        counters = {uuid: self._counter(session, uuid, number) for uuid, number in changes.reserve.items()}
        for uuid, number in changes.confirm.items():
            self._raise(session, uuid, "counter", number)
            gone = (DELETIONS.c.node_uuid == uuid, DELETIONS.c.counter < number)  # of a node that was deleted
            session.execute(update(DELETIONS).where(*gone).values(counter=number))
        for uuid, (shown, mine) in changes.epochs.items():
            self._used(session, uuid, shown, mine)
        for uuid, epoch in changes.accepted.items():
            session.execute(update(NODE_SERVICES).where(NODE_SERVICES.c.uuid == uuid).values(epochs=epoch))
        for uuid, number in changes.seen.items():
            self._raise(session, uuid, "seen_counter", number)
        if changes.halves:
            keys = [
                EndKey(uuid=uuid, node=node, public=Public(**half)) for (uuid, node), half in changes.halves.items()
            ]
            answer = reports.store_keys(session, self._nodes, keys, first_only=True)
            rejected = {(item["uuid"], item["node"]): item["detail"] for item in answer["rejected"]}
        for (tunnel_id, role), half in changes.changed.items():
            public = None if half is None else json.dumps(half, sort_keys=True)
            session.execute(_end(tunnel_id, role).values(changed_public=public))
        for (tunnel_id, role), report in changes.reports.items():
            measured = None if report["measured"] is None else json.dumps(report["measured"])
            values = {"status": report["status"], "error": report["error"], "measured": measured}
            values["symptom"] = report["symptom"]
            about = select(TUNNELS.c.id).where(TUNNELS.c.id == tunnel_id, TUNNELS.c.version == report["version"])
            one = _end(tunnel_id, role).where(about.exists())  # else it is about an older record
            session.execute(one.values(**values, reported_at=report["reported_at"], reported_by="service"))
        for record in changes.done:
            session.execute(delete(DELETIONS).where(*_deletion(*record)))
        for record in changes.given_up:
            session.execute(update(DELETIONS).where(*_deletion(*record)).values(given_up=True))
        if session.scalar(select(Panel.lease_holder).where(Panel.id == 1)) != me:
            session.rollback()
            raise LostLease
        session.commit()
        return Written(counters, rejected)

    def _counter(self, session: Session, uuid: str, number: int) -> int:
        """Give out so many numbers of writes to a node; answers the last."""
        for table, column in ((NODE_SERVICES, NODE_SERVICES.c.uuid), (DELETIONS, DELETIONS.c.node_uuid)):
            session.execute(update(table).where(column == uuid).values(counter=table.c.counter + number))
            found = session.scalar(select(table.c.counter).where(column == uuid).order_by(table.c.counter.desc()))
            if found is not None:
                return int(found)
        return 0  # both are gone: nothing has to be done there any more

    def _used(self, session: Session, uuid: str, shown: str | None, mine: str) -> None:
        """The node may show ``mine`` from now on, or ``shown`` still, or one that was used since."""
        one = NODE_SERVICES.c.uuid == uuid
        stored = session.scalar(select(NODE_SERVICES.c.epochs).where(one))
        known = (stored or "").split()
        if shown is not None:
            known = known[known.index(shown) :] if shown in known else [shown]
        known = [*known, mine] if mine not in known else known
        if len(known) > _EPOCHS:
            known = [known[0], *known[1 - _EPOCHS :]]
        if (told := " ".join(known)) != stored:
            session.execute(update(NODE_SERVICES).where(one).values(epochs=told))

    def _raise(self, session: Session, uuid: str, column: str, number: int) -> None:
        known = NODE_SERVICES.c[column]
        session.execute(
            update(NODE_SERVICES).where(NODE_SERVICES.c.uuid == uuid, known < number).values({column: number})
        )


def _end(tunnel_id: int, role: str) -> Any:
    return update(ENDS).where(ENDS.c.tunnel_id == tunnel_id, ENDS.c.role == role)


def _deletion(uuid: str, node: str, deleted_at: datetime) -> tuple[Any, ...]:
    return DELETIONS.c.uuid == uuid, DELETIONS.c.node_uuid == node, DELETIONS.c.deleted_at == deleted_at


@dataclass(frozen=True)
class _Record:
    state: Any
    record: dict[str, Any]
    revisions: Mapping[str, str]


def _state(ends: Mapping[str, Any]) -> Any:
    """Another one when the record of these ends is another: each change of it raises its version, but for halves."""
    return sorted((role, end.uuid, end.version, end.node_id, end.public) for role, end in ends.items())


def _wanted(known: _Record, end: dict[str, Any], row: Any) -> Wanted:
    peer = next((other for other in known.record["ends"] if other["role"] != end["role"]), None)
    return Wanted(
        record=known.record,
        role=end["role"],
        revision=known.revisions[end["role"]],
        public=end["public"],
        peer_public=None if peer is None else peer["public"],
        changed_public=responses.object_in(row.changed_public),
        status=row.status,
        error=row.error,
    )
