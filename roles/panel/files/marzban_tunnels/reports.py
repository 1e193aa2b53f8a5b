# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The two bulk calls: public halves and measurements of many ends, within the caller's transaction."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Table, select, update
from sqlalchemy.orm import Session

from marzban_tunnels import history, responses
from marzban_tunnels.errors import shown
from marzban_tunnels.live import Nothing
from marzban_tunnels.schemas import EndKey, Report
from marzban_tunnels.tables import End, Tunnel

_CHUNK = 500  # uuids in one query
_NOTHING = Nothing()
_NEXT = ("next_public_key", "accepts_public_key")
# What an end of a type has to show, what it may show besides, and the characters of its keys
_HALVES: dict[str, tuple[set[str], set[str], int]] = {
    "wireguard": ({"public_key"}, {*_NEXT, "psk_fingerprint"}, 44),
    "openvpn": ({"public_key", "fingerprint"}, {*_NEXT, "next_fingerprint", "accepts"}, 44),
    "ipsec": ({"public_key"}, {*_NEXT}, 60),
}


SAME_KEY = "the other end has the same key, so the nodes are copies of each other; make a new key on one"


def same_key(half: dict[str, Any], others: Sequence[str | None]) -> bool:
    """Whether one of the other ends (their columns) has the key of this public half."""
    return any((responses.object_in(other) or {}).get("public_key") == half["public_key"] for other in others)


@dataclass
class _End:
    tunnel_id: int
    role: str
    version: int
    tunnel_type: str
    public: str | None
    reported_at: datetime | None
    gaps: str | None
    changed_public: str | None
    node_id: int
    status: str | None
    error: str | None
    reported_by: str | None
    is_active: bool
    uuid: str
    last_status: str | None
    # What the tunnel's status is does not depend on these
    measured: str | None = None
    symptom: str | None = None

    @property
    def key(self) -> dict[str, Any]:
        return {"tunnel_id": self.tunnel_id, "role": self.role}


class _Rejected(Exception):
    pass


def store_keys(
    session: Session,
    nodes: Table,
    keys: Sequence[EndKey],
    concerned: set[int] | None = None,
    first_only: bool = False,
) -> dict[str, Any]:
    """Store public halves. One that is there already changes nothing and isn't counted. A half that was waiting to be
    accepted is dropped: a run has seen what the node has now. ``concerned`` gets the numbers of the nodes
    of the tunnels that have changed. ``first_only``: only where none is stored, so that what the manager has seen a
    moment ago does not replace what a run has just stored."""

    def store(found: dict[str, _End], item: EndKey) -> bool:
        end = found[item.node]
        if first_only and end.public is not None:
            return False
        half = item.public.model_dump(exclude_none=True)
        _check_half(end.tunnel_type, half)
        public = json.dumps(half, sort_keys=True)
        if same_key(half, [other.public for other in found.values() if other is not end]):
            raise _Rejected(f"public: {SAME_KEY}")
        differs = end.public != public
        if differs or end.changed_public is not None:
            changes.append({**end.key, "public": public, "changed_public": None})
        if differs and concerned is not None:
            concerned.update(other.node_id for other in found.values())
        end.public = public
        return differs

    changes: list[dict[str, Any]] = []
    answer = _each(session, nodes, keys, store)
    _write(session, changes)
    return answer


def store_reports(
    session: Session, nodes: Table, reports: Sequence[Report]
) -> tuple[dict[str, Any], dict[int, history.Seen]]:
    """Store what was measured. A report about an older version of the record is rejected. Answers also the tunnels that
    have another status by it than the history has, as far as no manager knows more."""
    moment = responses.now()
    seen: dict[int, history.Seen] = {}

    def store(found: dict[str, _End], item: Report) -> bool:
        end = found[item.node]
        if item.version != end.version:
            raise _Rejected(
                f"version: {item.version} isn't the record's, which is at {end.version}; run the playbook again"
            )
        measured = json.dumps(item.measured.model_dump(exclude_unset=True)) if item.measured else None
        end.gaps = responses.gaps(end.gaps, end.reported_at, moment)
        end.status, end.error, end.reported_at, end.reported_by = item.status, item.error, moment, responses.RUN
        told: dict[str, Any] = {"status": item.status, "error": item.error, "symptom": item.symptom}
        told |= {"measured": measured, "reported_at": moment}
        changes.append({**end.key, **told, "reported_by": responses.RUN, "gaps": end.gaps})
        ends = [responses.reported(other, other, moment, _NOTHING) for other in found.values()]
        status = responses.overall(end.is_active, ends)
        seen[end.tunnel_id] = history.Seen(status, history.error_of(status, ends), moment)
        if status == end.last_status:
            del seen[end.tunnel_id]
        return True

    changes: list[dict[str, Any]] = []
    answer = _each(session, nodes, reports, store)
    _write(session, changes)
    return answer, seen


def _check_half(tunnel_type: str, half: dict[str, str]) -> None:
    """Whether it is one of this type. The key's own form was checked, as far as that goes without the type."""
    required, optional, characters = _HALVES.get(tunnel_type, (set(), set(), 0))
    wrong = [f"lacks {name}" for name in sorted(required - half.keys())]
    wrong += [f"has {name}" for name in sorted(half.keys() - required - optional)]
    for name in ("public_key", *_NEXT):
        if not wrong and name in half and len(half[name]) != characters:
            wrong = [f"has a {name} of {len(half[name])} characters instead of {characters}"]
    if wrong:
        raise _Rejected(
            f"public: the tunnel's type is {shown(tunnel_type)}, and what was sent {' and '.join(wrong)};"
            " run the playbook again"
        )


def _each(session: Session, nodes: Table, items: Sequence[Any], store: Any) -> dict[str, Any]:
    tunnels = _find(session, nodes, {item.uuid for item in items})
    updated, rejected, seen = 0, [], set()
    for item in items:
        try:
            found = tunnels.get(item.uuid)
            if found is None:
                raise _Rejected("uuid: there is no such tunnel; it was removed, or belongs to another panel")
            if item.node not in found:
                names = " and ".join(shown(name) for name in found)
                raise _Rejected(f"node: {shown(item.node)} is not an end of this tunnel, which joins {names}")
            if (item.uuid, item.node) in seen:
                raise _Rejected("This end is in the list twice; the first one was taken")
            seen.add((item.uuid, item.node))
            updated += store(found, item)
        except _Rejected as error:
            rejected.append({"uuid": item.uuid, "node": item.node, "detail": str(error)})
    return {"updated": updated, "rejected": rejected}


def _find(session: Session, nodes: Table, uuids: set[str]) -> dict[str, dict[str, _End]]:
    """Ends by uuid and by the name of their node."""
    found: dict[str, dict[str, _End]] = {}
    wanted = sorted(uuids)
    columns: tuple[Any, ...] = (Tunnel.uuid, nodes.c.name, Tunnel.id, End.role, Tunnel.version, Tunnel.tunnel_type)
    columns += (End.public, End.reported_at, End.gaps, End.changed_public, End.node_id)
    columns += (End.status, End.error, End.reported_by, Tunnel.is_active, Tunnel.uuid, Tunnel.last_status)
    query = select(*columns).join_from(Tunnel, End, End.tunnel_id == Tunnel.id).join(nodes, nodes.c.id == End.node_id)
    for start in range(0, len(wanted), _CHUNK):
        for row in session.execute(query.where(Tunnel.uuid.in_(wanted[start : start + _CHUNK]))):
            found.setdefault(row[0], {})[row[1]] = _End(*row[2:])
    return found


def _write(session: Session, changes: list[dict[str, Any]]) -> None:
    """Change many ends by one statement; every dict holds an end's key and the same columns."""
    if changes:
        session.execute(update(End), changes)
