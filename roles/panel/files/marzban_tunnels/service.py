# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""What the tunnels API does, over a session and the table of nodes that a door hands in."""

from __future__ import annotations

import logging
import random
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from typing import Any, TypeVar

from pydantic import ValidationError
from sqlalchemy import ColumnElement, Select, Table, bindparam, func, insert, select, update
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session

from marzban_tunnels import (
    deletions,
    history,
    metrics_access,
    naming,
    node_rows,
    placing,
    polling,
    reports,
    responses,
    tunnel_config,
)
from marzban_tunnels.allocate import Allocator
from marzban_tunnels.dialed import check_dialed
from marzban_tunnels.errors import Refused, by_field, say
from marzban_tunnels.feed import Feed, NoFeed
from marzban_tunnels.live import Live, Nothing
from marzban_tunnels.node_access import Access, check_key
from marzban_tunnels.reading import Reader
from marzban_tunnels.routes import Routes
from marzban_tunnels.schemas import Keys, Reports, TunnelCreate, TunnelUpdate
from marzban_tunnels.settings import Settings
from marzban_tunnels.tables import NODE_SERVICES, TUNNELS, End, Panel, Tunnel
from marzban_tunnels.tunnel_config import ROLES, TunnelConfig

_log = logging.getLogger(__name__)
LARGEST_ID = 2**31 - 1
# Seconds that creates go on in one transaction, and seconds between two of them. Marzban is one process, often on
# SQLite, where its own writes (such as traffic of users, every few seconds) wait at most 5 seconds for ours, and then
# fail. They are not served in turn: each tries again after at most 0.1 seconds, and has to meet a pause. So half of the
# time is theirs, as with creates that come one by one.
LONGEST, PAUSE = 0.05, 0.05
_ATTEMPTS = 6
LONGEST_ASKING = 2.0  # seconds that a call for one tunnel's status waits for its nodes
NO_MANAGER = "This panel does not run a manager"
BUSY = say("busy", "The database is busy: try again in a few seconds")
T = TypeVar("T")
Record = dict[str, Any]
_New = tuple[TunnelCreate, TunnelConfig]
# Made once, and over tables: see allocate.py
_HIGHEST = select(func.max(TUNNELS.c.id))
_SERVED = select(NODE_SERVICES.c.node_id).where(NODE_SERVICES.c.port.is_not(None)).limit(1)


class Tunnels:
    """The records, for one panel. ``nodes`` is a table with ``id``, ``name``, ``address`` and ``created_at``;
    ``certificate`` gives the PEM that this panel shows to nodes, where it has one. Put a manager into ``live``,
    and a feed into ``feed``."""

    def __init__(
        self,
        nodes: Table,
        settings: Settings,
        access: Access | None = None,
        certificate: Callable[[Session], str | None] | None = None,
        metrics: metrics_access.MetricsAccess | None = None,
    ) -> None:
        self.nodes = nodes
        self._settings = settings
        self._reader = Reader(nodes)
        self.access = access or check_key(None)
        self.certificate = certificate
        self.metrics = metrics or metrics_access.check_key(None)
        self.live: Live = Nothing(self.access.detail or NO_MANAGER)
        self.feed: Feed | NoFeed = NoFeed()
        self.panel_id = ""  # until it has started

    def start(self, session: Session) -> None:
        """Once, after the migrations: give the panel its id, and purge what nodes left while we weren't there."""
        if session.get(Panel, 1) is None:
            session.add(Panel(id=1, uuid=str(uuid.uuid4())))
            try:
                session.commit()
            except IntegrityError:  # another process has started at the same moment
                session.rollback()
        self.write(session, lambda panel: self._clean_up(session))
        self.panel_id = session.scalars(select(Panel.uuid)).one()

    # reading

    def page(self, session: Session, skip: int, limit: int) -> list[dict[str, Any]]:
        """A page of tunnels, ordered by id."""
        return self._read(session, skip=skip, limit=limit)

    def revision(self, session: Session, skip: int, limit: int) -> str:
        """The entity tag of this page, to be asked for before the page."""
        return polling.revision(session, self.nodes, self.live.revision(), skip, limit)

    def get(self, session: Session, tunnel_id: int) -> dict[str, Any]:
        """One tunnel."""
        found = self._read(session, TUNNELS.c.id == tunnel_id) if 1 <= tunnel_id <= LARGEST_ID else []
        if not found:
            raise Refused(404, "Tunnel not found")
        return found[0]

    def status(self, session: Session, tunnel_id: int) -> dict[str, Any]:
        """One tunnel's status, with the measurements of both ends and their age; nodes with a service are asked."""
        record = self.get(session, tunnel_id)
        self.live.refresh({record[f"{role}_node_id"] for role in ROLES}, LONGEST_ASKING)
        return responses.status(self.get(session, tunnel_id), responses.now())

    def history(self, session: Session, tunnel_id: int) -> dict[str, Any]:
        """When one tunnel's status has changed, and how it was."""
        return history.read(session, self.get(session, tunnel_id), responses.now())

    # writing

    def create(self, session: Session, body: TunnelCreate) -> dict[str, Any]:
        """A new tunnel; the ends get what the operator didn't choose."""
        chosen = tunnel_config.parse(body.config, body.tunnel_type)
        (made,) = self._create(session, [(body, chosen)])
        if isinstance(made, Refused):
            raise made
        return made

    def create_many(self, session: Session, items: Sequence[Any]) -> dict[str, Any]:
        """New tunnels, each as by ``create``: one that is refused stops no other. ``items`` are bodies as they came."""
        checked = [_checked(item) for item in items]
        good = [item for item in checked if not isinstance(item, Refused)]
        made: list[Record | Refused] = []
        while len(made) < len(good):
            if made:
                time.sleep(PAUSE)
            try:
                made += self._create(session, good[len(made) :])
            except Refused as busy:
                if not made:
                    raise
                made += [busy] * (len(good) - len(made))
        answers = iter(made)
        return responses.created([item if isinstance(item, Refused) else next(answers) for item in checked])

    def update(self, session: Session, tunnel_id: int, body: TunnelUpdate, if_match: str | None) -> dict[str, Any]:
        """Change what ``body`` holds. Nothing grows, and nothing is written, where nothing differs."""
        given = {field: getattr(body, field) for field in body.model_fields_set}
        concerned: set[int] = set()  # an attempt that collided may have added to it: one that is woken looks, no more

        def work(panel: Panel) -> None:
            record = self._locked(session, tunnel_id, if_match)
            changed = {field for field, value in given.items() if getattr(record, field) != value}
            before = tunnel_config.stored(record.config)
            for field in changed:
                setattr(record, field, given[field])
            record.alike = naming.digest(record.name)
            chosen = (
                tunnel_config.parse(record.config, record.tunnel_type)
                if changed & {"config", "tunnel_type"}
                else before
            )
            if not changed:
                return
            nodes = self._check(session, record, "name" in changed)
            if changed - {"name"}:
                Routes(session, self.nodes).check(record)
            if changed - {"name", "is_active"}:
                tunnel_config.check_endpoints(chosen, nodes)
                check_dialed(session, self.nodes, record, chosen, nodes)
                ends, held = placing.release(session, tunnel_id)
                places = Allocator(session, self._settings, panel, record).ends(nodes, chosen, held, before)
                placing.place(session, record, nodes, places, [] if "tunnel_type" in changed else ends)
                here = {node.id for node in nodes.values()}
                deletions.moved(session.execute, self.nodes, record, ends, here)
                concerned.update(end.node_id for end in ends)
            concerned.update((record.source_node_id, record.target_node_id))
            self._touch(session, record)

        self.write(session, work)
        self._wake(concerned)
        return self.get(session, tunnel_id)

    def switch(self, session: Session, tunnel_id: int, active: bool, if_match: str | None) -> None:
        """Activate or deactivate; a tunnel that is so already stays as it is."""

        def work(panel: Panel) -> set[int]:
            record = self._locked(session, tunnel_id, if_match)
            if record.is_active == active:
                return set()
            record.is_active = active
            Routes(session, self.nodes).check(record)
            self._touch(session, record)
            return {record.source_node_id, record.target_node_id}

        self._wake(self.write(session, work))

    def delete(self, session: Session, tunnel_id: int, if_match: str | None) -> None:
        """Remove a tunnel; its id is never used again."""

        def work(panel: Panel) -> set[int]:
            self._locked(session, tunnel_id, if_match)
            return deletions.remove(session.execute, self.nodes, [tunnel_id])

        self._wake(self.write(session, work))

    def store_keys(self, session: Session, body: Keys) -> dict[str, Any]:
        """Merge the public halves of many ends, all in one transaction."""
        concerned: set[int] = set()
        answer = self.write(session, lambda panel: reports.store_keys(session, self.nodes, body.keys, concerned))
        self._wake(concerned)
        return answer

    def store_reports(self, session: Session, body: Reports) -> dict[str, Any]:
        """Take in what a run measured at many ends, all in one transaction."""

        def work(panel: Panel) -> dict[str, Any]:
            answer, statuses = reports.store_reports(session, self.nodes, body.reports)
            if not self._is_managed(session):  # else the manager knows more, and its process writes the history
                history.write(session.execute, statuses)
            return answer

        return self.write(session, work)

    # within

    def _is_managed(self, session: Session) -> bool:
        """Whether a manager works with this database, here or in another process."""
        if self.live.manager_state()["state"] == "off":
            return False
        return session.execute(_SERVED).first() is not None

    def _wake(self, node_ids: Collection[int]) -> None:
        if node_ids:
            self.live.wake(node_ids)

    @cached_property
    def _two_nodes(self) -> Select[Any]:
        columns = (self.nodes.c.id, self.nodes.c.name, self.nodes.c.created_at, self.nodes.c.address)
        return select(*columns).where(columns[0].in_(bindparam("nodes", expanding=True)))

    def _read(
        self, session: Session, *where: ColumnElement[bool], skip: int = 0, limit: int = 1
    ) -> list[dict[str, Any]]:
        return self._reader.read(session, self.live, *where, skip=skip, limit=limit)

    def write(self, session: Session, work: Callable[[Panel], T], keep: bool = True) -> T:
        """Run ``work`` in a transaction that no other write of ours overlaps.

        The first statement locks the panel's row (on SQLite: the database), after whatever the session has read for the
        login was let go: what ``work`` reads is then the newest. What still collides is a node that goes away at the
        same moment, or a database that is busy: tried again. Without ``keep`` nothing of it stays: what it would do.
        """
        for attempt in range(_ATTEMPTS):
            session.rollback()
            try:
                session.execute(update(Panel).where(Panel.id == 1).values(writes=Panel.writes + 1))
                panel = session.scalars(select(Panel).where(Panel.id == 1)).one()
                with session.no_autoflush:  # else each allocation writes the panel's row, for its cursors
                    result = work(panel)
                session.flush()
                if keep:
                    session.commit()
                    self.feed.touch()
                else:
                    session.rollback()
                return result
            except (IntegrityError, OperationalError) as error:
                session.rollback()
                _log.warning("a write collided, attempt %d: %s", attempt + 1, type(error.orig).__name__)
                time.sleep(random.uniform(0, 0.02 * 2**attempt))
            except BaseException:
                session.rollback()
                raise
        raise Refused(503, BUSY)

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

    def _create(self, session: Session, bodies: Sequence[_New]) -> list[Record | Refused]:
        """As many of these as LONGEST allows, and at least one, in one transaction: each new tunnel, or why not."""

        def work(panel: Panel) -> list[int | Refused]:
            end = time.monotonic() + LONGEST
            panel.next_id = max(panel.next_id, (session.scalar(_HIGHEST) or 0) + 1)
            sent = Routes(session, self.nodes)
            made: list[int | Refused] = []
            for body, chosen in bodies:
                try:
                    made.append(self._add(session, panel, body, chosen, sent))
                except Refused as refused:
                    made.append(refused)
                if time.monotonic() > end:
                    break
            if all(isinstance(answer, Refused) for answer in made):
                session.rollback()
            return made

        made = self.write(session, work)
        numbers = [number for number in made if isinstance(number, int)]
        found = {record["id"]: record for record in self._read(session, TUNNELS.c.id.in_(numbers), limit=len(numbers))}
        self._wake({record[f"{role}_node_id"] for record in found.values() for role in ROLES})
        deleted = Refused(404, "Tunnel not found")  # by somebody, in between
        return [answer if isinstance(answer, Refused) else found.get(answer, deleted) for answer in made]

    def _add(self, session: Session, panel: Panel, body: TunnelCreate, chosen: TunnelConfig, sent: Routes) -> int:
        """Write a new tunnel; answers its id. What is refused is refused before the first row is written."""
        moment = responses.now()
        row = {"id": panel.next_id, "uuid": str(uuid.uuid4()), "version": 1, **body.model_dump()}
        row["alike"] = naming.digest(body.name)
        row |= {"created_at": moment, "updated_at": moment}
        record = Tunnel(**row)
        status = responses.overall(record.is_active, [])
        nodes = self._check(session, record, True)
        tunnel_config.check_endpoints(chosen, nodes)
        check_dialed(session, self.nodes, record, chosen, nodes)
        sent.check(record)
        places = Allocator(session, self._settings, panel, record).ends(nodes, chosen, {}, TunnelConfig())
        row |= history.begun(session.execute, record.id, history.Seen(status, None, moment))
        session.execute(insert(TUNNELS), row)
        placing.place(session, record, nodes, places, [])
        sent.add(record)
        panel.next_id += 1
        return record.id

    def _check(self, session: Session, record: Tunnel, named: bool) -> dict[str, Any]:
        """Both nodes exist and differ, the name (``named``: a new one) is free. Answers the nodes by role."""
        wanted = {role: getattr(record, f"{role}_node_id") for role in ROLES}
        found = {row.id: row for row in session.execute(self._two_nodes, {"nodes": list(wanted.values())})}
        for role, node_id in wanted.items():
            if node_id not in found:
                raise Refused(
                    404,
                    say("no_node", "there is no node {node}; GET /api/nodes lists them", node=node_id),
                    f"{role}_node_id",
                )
        if record.source_node_id == record.target_node_id:
            raise Refused(
                400,
                say(
                    "same_node",
                    "{node} is the source node as well; give two different nodes",
                    node=record.target_node_id,
                ),
                "target_node_id",
            )
        naming.check(session, record, named)
        return {role: found[node_id] for role, node_id in wanted.items()}

    def _touch(self, session: Session, record: Tunnel) -> None:
        """The record has changed: what the ends reported was about another one."""
        record.version += 1
        record.updated_at = responses.now()
        session.flush()
        session.execute(update(End).where(End.tunnel_id == record.id).values(status=None, error=None, symptom=None))
        status = responses.overall(record.is_active, [])
        seen = {record.id: history.Seen(status, None, record.updated_at)}
        history.write(session.execute, seen, decided=True)

    def _clean_up(self, session: Session) -> None:
        """What happened while this version was not there: nodes went away, an older version gave names."""
        deletions.remove(session.execute, self.nodes, deletions.orphans(session.execute, self.nodes))
        node_rows.purge(session.execute, self.nodes)
        deletions.purge(session.execute)
        naming.refresh(session)


def _checked(item: Any) -> _New | Refused:
    """A body of a bulk call, or the 422 that a call of its own would get."""
    try:
        body = TunnelCreate.model_validate(item)
        return body, tunnel_config.parse(body.config, body.tunnel_type)
    except ValidationError as error:
        return Refused(422, by_field(error.errors()))
    except Refused as refused:
        return refused


def _matches(if_match: str, version: int) -> bool:
    tags = [tag.strip() for tag in if_match.split(",")]
    return "*" in tags or f'"{version}"' in tags
