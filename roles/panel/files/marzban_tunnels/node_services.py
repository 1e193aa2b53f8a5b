# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""What the calls under ``/api/tunnels/nodes`` do: how each node is reached, who may change it, what is open there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from marzban_tunnels import deletions, node_rows, reports, responses
from marzban_tunnels.errors import Refused, shown
from marzban_tunnels.halves import fingerprint
from marzban_tunnels.live import Live, Nothing
from marzban_tunnels.schemas_nodes import AccessWanted, Confirmation, Services
from marzban_tunnels.service import LARGEST_ID, Tunnels
from marzban_tunnels.tables import DELETIONS, ENDS, NODE_SERVICES, TUNNELS, End

_CHUNK = 500  # names in one query
_NONE: dict[str, Any] = {**Nothing().node(0), "state": "none"}  # without a service
_MOST_ORPHANS = 100  # that are shown of a node
_NO_KEY = (
    "There is no access key to revoke: without NODE_API_KEY the nodes know this panel by its certificate, and would go "
    "on to take it. Set NODE_API_KEY and run the playbook marzban.tunnels.node_api: then each node has a key. To keep "
    "this panel out of a node at once, stop marzban-node-front there"
)
_RUN = "run the playbook marzban.tunnels.node_api again"
_CHANGED = (
    select(ENDS.c.node_id, ENDS.c.public, ENDS.c.changed_public, TUNNELS.c.id, TUNNELS.c.name)
    .join_from(ENDS, TUNNELS, TUNNELS.c.id == ENDS.c.tunnel_id)
    .where(ENDS.c.changed_public.is_not(None))
    .order_by(TUNNELS.c.id)
)


class NodeServices:
    """The nodes' services, for one panel."""

    def __init__(self, tunnels: Tunnels) -> None:
        self._tunnels = tunnels

    def all(self, session: Session) -> dict[str, Any]:
        """All nodes of the panel, and the deleted ones on which something waits to be removed."""
        nodes = session.execute(node_rows.reading(self._tunnels.nodes)).all()
        waiting, changed = _waiting(session), _changed(session)
        session.rollback()
        moment = responses.now()
        answers = [self._node(row, waiting.pop(row.uuid, []), changed.get(row.node_id, []), moment) for row in nodes]
        answers += [_deleted(found, self._tunnels.live, moment) for found in waiting.values()]
        return {"manager": self._manager(), "nodes": answers}

    def one(self, session: Session, node_id: int) -> dict[str, Any]:
        """One node of the panel."""
        query = node_rows.reading(self._tunnels.nodes).where(self._tunnels.nodes.c.id == node_id)
        row = session.execute(query).one_or_none()
        if row is None:
            raise Refused(404, "Node not found")
        waiting, changed = _waiting(session, DELETIONS.c.node_uuid == row.uuid), _changed(session)
        session.rollback()
        return self._node(row, waiting.get(row.uuid, []), changed.get(node_id, []), responses.now())

    def access(self, session: Session, body: AccessWanted) -> dict[str, Any]:
        """What these nodes need to let this panel in. It is the same at each call, until one is revoked."""

        def work(panel: Any) -> dict[int, Any]:
            numbers = self._numbers(session, body.nodes)
            return node_rows.current(session.execute, self._tunnels.nodes, numbers.values())

        rows = self._tunnels.write(session, work, keep=not body.check)
        certificate = None
        if self._tunnels.access.state == "unset" and self._tunnels.certificate:
            certificate = self._tunnels.certificate(session)
            session.rollback()
        by_name = {row.name: row for row in rows.values()}
        wanted = dict.fromkeys(body.nodes)
        return {
            "panel": self._tunnels.panel_id,
            "manager": self._manager(),
            "nodes": [self._access(by_name[name], certificate) for name in wanted if name in by_name],
            "rejected": [{"node": name, "detail": _no_node(name)} for name in wanted if name not in by_name],
        }

    def publish(self, session: Session, body: Services) -> dict[str, Any]:
        """Store how the nodes' services are reached. This is the only way for a pin to change.

        The manager looks at all of them at once, also where nothing is new: something may have been set right there.
        """
        touched: set[int] = set()

        def work(panel: Any) -> dict[str, Any]:
            numbers = self._numbers(session, [item.node for item in body.nodes])
            rows = node_rows.current(session.execute, self._tunnels.nodes, numbers.values())
            rejected: list[dict[str, str]] = []
            seen: set[str] = set()
            updated = 0
            for item in body.nodes:
                row = rows.get(numbers.get(item.node, 0))
                wrong = _wrong(item, row, seen)
                seen.add(item.node)
                if row is None or wrong:
                    rejected.append({"node": item.node, "detail": wrong})
                    continue
                touched.add(row.node_id)
                if (row.port, row.pin) != (item.port, item.pin):
                    told = {"port": item.port, "pin": item.pin}
                    session.execute(update(NODE_SERVICES).where(NODE_SERVICES.c.node_id == row.node_id).values(told))
                    if item.port is not None and item.pin is not None:
                        deletions.take_over(session.execute, row, item.port, item.pin)
                    updated += 1
            return {"updated": updated, "rejected": rejected}

        answer = self._tunnels.write(session, work)
        self._tunnels.live.wake(touched)
        return answer

    def revoke(self, session: Session, node_id: int) -> dict[str, Any]:
        """The node's access key is another one from now on. The node takes the next one already."""

        def work(panel: Any) -> None:
            self._existing(session, node_id)
            certificate = self._tunnels.certificate
            if self._tunnels.access.state == "unset" and certificate and certificate(session):
                raise Refused(409, _NO_KEY)
            told = {"generation": NODE_SERVICES.c.generation + 1}
            session.execute(update(NODE_SERVICES).where(NODE_SERVICES.c.node_id == node_id).values(told))

        self._tunnels.write(session, work)
        self._tunnels.live.wake([node_id])
        return self.one(session, node_id)

    def confirm(self, session: Session, node_id: int, body: Confirmation) -> dict[str, Any]:
        """An admin says that this database is the right one, or that a node was set up again and shows another half."""
        if body.database:
            return self._confirm_database(session, node_id, body.uuid)
        else:
            self._tunnels.live.wake(self._tunnels.write(session, lambda panel: self._accept(session, node_id, body)))
        return self.one(session, node_id)

    # within

    def _confirm_database(self, session: Session, node_id: int, deleted: str | None) -> dict[str, Any]:
        live = self._tunnels.live
        if deleted is None:
            self._tunnels.write(session, lambda panel: self._existing(session, node_id))
        else:
            self._gone(session, node_id, deleted)
        manager = self._manager()
        if manager["state"] != "on":
            why = f": {manager['detail']}" if manager["detail"] else ""
            raise Refused(409, f"The manager is {manager['state']}, so nothing waits for this{why}")
        problem = (live.node(node_id) if deleted is None else live.deleted(deleted))["problem"]
        if problem is None or problem["code"] != "older_database":
            now = problem["detail"] if problem else "it has no problem at the moment"
            raise Refused(409, f"The node does not wait for this any more: {now}")
        live.confirm_database(node_id, deleted)
        if deleted is not None:
            return self._gone(session, node_id, deleted)
        live.wake([node_id])
        return self.one(session, node_id)

    def _gone(self, session: Session, node_id: int, deleted: str) -> dict[str, Any]:
        """A deleted node on which something waits to be removed."""
        waiting = _waiting(session, DELETIONS.c.node_uuid == deleted, DELETIONS.c.node_id == node_id).get(deleted)
        there = session.scalar(select(NODE_SERVICES.c.uuid).where(NODE_SERVICES.c.uuid == deleted))
        session.rollback()
        if there is not None or not waiting:
            raise Refused(404, "Node not found")
        return _deleted(waiting, self._tunnels.live, responses.now())

    def _accept(self, session: Session, node_id: int, body: Confirmation) -> set[int]:
        """Take the public half that the node shows for the known one. Answers the nodes of the tunnel."""
        self._existing(session, node_id)
        ends = list(session.scalars(select(End).where(End.tunnel_id == body.tunnel_id)))
        mine = next((end for end in ends if end.node_id == node_id), None)
        if mine is None:
            raise Refused(404, f"{body.tunnel_id}: no such tunnel ends at this node", "tunnel_id")
        half = responses.object_in(mine.changed_public) or {}
        gone = "the node does not show this {} any more; look at what it shows now"
        if body.public_key is not None and half.get("public_key") != body.public_key:
            raise Refused(409, gone.format("key"), "public_key")
        if body.fingerprint is None and half.get("fingerprint"):
            raise Refused(409, "this end has a certificate too; give the seen_fingerprint of its half", "fingerprint")
        if body.fingerprint is not None and fingerprint(half) != body.fingerprint:
            raise Refused(409, gone.format("half"), "fingerprint")
        if reports.same_key(half, [end.public for end in ends if end is not mine]):
            raise Refused(409, reports.SAME_KEY, "public_key")
        mine.public, mine.changed_public = mine.changed_public, None
        return {end.node_id for end in ends}

    def _existing(self, session: Session, node_id: int) -> Any:
        wanted = [node_id] if 1 <= node_id <= LARGEST_ID else []
        found = node_rows.current(session.execute, self._tunnels.nodes, wanted)
        if not found:
            raise Refused(404, "Node not found")
        return found[node_id]

    def _numbers(self, session: Session, names: Sequence[str]) -> dict[str, int]:
        """The numbers of the nodes that are called so. Databases may compare without case; we do not."""
        nodes, found = self._tunnels.nodes, {}
        wanted = sorted({name for name in names if "\x00" not in name})  # PostgreSQL takes none in a text
        for start in range(0, len(wanted), _CHUNK):
            query = select(nodes.c.name, nodes.c.id).where(nodes.c.name.in_(wanted[start : start + _CHUNK]))
            found.update({row.name: row.id for row in session.execute(query)})
        return {name: found[name] for name in set(names) if name in found}

    def _manager(self) -> dict[str, Any]:
        state = self._tunnels.live.manager_state()
        return {"state": state["state"], "detail": state.get("detail")}

    def _access(self, row: Any, certificate: str | None) -> dict[str, Any]:
        hashes = self._tunnels.access.hashes(self._tunnels.panel_id, row.uuid, row.generation)
        answer = {"node": row.name, "node_id": row.node_id, "uuid": row.uuid, "generation": row.generation}
        metrics_hash = self._tunnels.metrics.hash
        return {**answer, "hashes": hashes, "certificate": certificate, "metrics_hash": metrics_hash}

    def _node(
        self, row: Any, waiting: Collection[Any], changed: list[dict[str, Any]], moment: datetime
    ) -> dict[str, Any]:
        known = {name: getattr(row, name) for name in ("uuid", "generation", "port", "pin")}
        live = _NONE if row.port is None else self._tunnels.live.node(row.node_id)
        return {
            "node_id": row.node_id,
            "node": row.name,
            "deleted": False,
            **known,
            **_shown(live),
            "deletions": [_deletion(found, moment) for found in waiting],
            "changed_keys": changed,
        }


def _waiting(session: Session, *where: ColumnElement[bool]) -> dict[str, list[Any]]:
    """Deletion records by their node's uuid."""
    found: dict[str, list[Any]] = defaultdict(list)
    query = select(DELETIONS).where(*where).order_by(DELETIONS.c.deleted_at, DELETIONS.c.uuid)
    for row in session.execute(query):
        found[row.node_uuid].append(row)
    return found


def _changed(session: Session) -> dict[int, list[dict[str, Any]]]:
    """Halves that nobody has accepted yet, by the node that shows them."""
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in session.execute(_CHANGED):
        if keys := responses.changed_key(row.public, row.changed_public):
            found[row.node_id].append({"tunnel_id": row.id, "name": row.name, **keys})
    return found


def _deleted(waiting: Sequence[Any], live: Live, moment: datetime) -> dict[str, Any]:
    """A node that is deleted on the panel, out of what waits to be removed there."""
    last = waiting[-1]
    asked = last.port is not None and not all(row.given_up for row in waiting)
    told = live.deleted(last.node_uuid) if asked else _NONE
    return {
        "node_id": last.node_id,
        "node": last.node_name,
        "deleted": True,
        "uuid": last.node_uuid,
        **{name: getattr(last, name) for name in ("generation", "port", "pin")},
        **_shown(told),
        "deletions": [_deletion(found, moment) for found in waiting],
        "changed_keys": [],
    }


def _shown(live: Mapping[str, Any]) -> dict[str, Any]:
    """What the manager says, not longer than somebody can read."""
    more = max(0, len(live["orphans"]) - _MOST_ORPHANS)
    return {name: live[name] for name in _NONE} | {"orphans": live["orphans"][:_MOST_ORPHANS], "more_orphans": more}


def _deletion(row: Any, moment: datetime) -> dict[str, Any]:
    return {
        "uuid": row.uuid,
        "tunnel_id": row.tunnel_id,
        "name": row.name,
        "type": row.tunnel_type,
        "age": max(0, int((moment - row.deleted_at).total_seconds())),
        "given_up": bool(row.given_up),
    }


def _no_node(name: str) -> str:
    return f"node: there is no node {shown(name)} on this panel; GET /api/nodes lists them"


def _wrong(item: Any, row: Any, seen: Collection[str]) -> str:
    """Why an item of ``publish`` can't be taken; empty where it can."""
    if row is None:
        return _no_node(item.node)
    if item.node in seen:
        return "node: it is in the list twice; the first one was taken"
    if item.uuid != row.uuid:
        return f"uuid: {shown(item.uuid)} is not this node's, which may have been deleted and added again; {_RUN}"
    return ""
