# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""From rows to answers. Pure: the time comes in, nothing is looked up.

A row may have been written by someone else: what can't be read is left out, and never raises.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from marzban_tunnels import tunnel_config
from marzban_tunnels.errors import Refused
from marzban_tunnels.halves import fingerprint
from marzban_tunnels.live import STALE_BY_SERVICE, Live, symptom

STALE_AFTER = 300  # seconds; the least after which a run's report is stale
RUN, SERVICE = "run", "service"  # who has reported an end
_GAPS = 5  # how many gaps between reports are kept
# Seconds. Reports that follow each other sooner come from somebody who works on the nodes, and say nothing about how
# often they usually come; nor does an outage, which is longer than any schedule.
_SOONEST, _LATEST = 60, 86400


def now() -> datetime:
    """This moment, naive UTC, in whole seconds: what every database keeps."""
    return datetime.now(UTC).replace(tzinfo=None, microsecond=0)


def tunnel(
    row: Any, ends: Sequence[Any], addresses: dict[str, list[str]], moment: datetime, live: Live
) -> dict[str, Any]:
    """A tunnel as the API shows it; ``row`` holds its columns and the nodes' names and addresses, and ``live`` has what
    its nodes' services have measured since."""
    chosen = tunnel_config.lenient(row.config)
    shown = [_end(row, end, addresses.get(end.role, []), chosen, moment, live) for end in ends]
    status_now = overall(row.is_active, shown)
    return {
        "id": row.id,
        "uuid": row.uuid,
        "version": row.version,
        "source_node_id": row.source_node_id,
        "target_node_id": row.target_node_id,
        "source_node_name": row.source_name,
        "target_node_name": row.target_name,
        "tunnel_type": row.tunnel_type,
        "name": row.name,
        "config": row.config,
        "is_active": bool(row.is_active),
        "status": status_now,
        "since": row.status_since.isoformat() if row.status_since and row.last_status == status_now else None,
        "stale": all(end["stale"] for end in shown),
        "created_at": row.created_at.isoformat(),
        "updated_at": row.updated_at.isoformat(),
        "ends": shown,
    }


def created(made: Sequence[dict[str, Any] | Refused]) -> dict[str, Any]:
    """The answer of a bulk create: each tunnel in its place, and beside them why a place has none."""
    tunnels = [None if isinstance(answer, Refused) else answer for answer in made]
    rejected = [
        {"index": index, "status": answer.status, "detail": answer.detail}
        for index, answer in enumerate(made)
        if isinstance(answer, Refused)
    ]
    return {"created": len(made) - len(rejected), "tunnels": tunnels, "rejected": rejected}


def status(record: dict[str, Any], moment: datetime) -> dict[str, Any]:
    """A tunnel's status, out of its answer."""
    names = ("role", "node", "status", "error", "symptom", "measured", "age", "stale", "by")
    ends = [{name: end[name] for name in names} for end in record["ends"]]
    ages = [end["age"] for end in ends if end["age"] is not None]
    age = min(ages, default=None)
    updated = datetime.fromisoformat(record["updated_at"])
    if age is not None:
        updated = max(
            updated, datetime.fromtimestamp(moment.replace(tzinfo=UTC).timestamp() - age, UTC).replace(tzinfo=None)
        )
    return {
        "tunnel_id": record["id"],
        "status": record["status"],
        "is_active": record["is_active"],
        "last_updated": updated.isoformat(),
        "stale": record["stale"],
        "age": age,
        "ends": ends,
    }


def _end(
    row: Any, end: Any, addresses: list[str], chosen: dict[str, Any], moment: datetime, live: Live
) -> dict[str, Any]:
    endpoint = tunnel_config.end_of(chosen, end.role).get("endpoint")
    source = end.role == "source"
    port = tunnel_config.IPSEC_PORT if row.tunnel_type == "ipsec" else end.port
    told, changed = reported(row, end, moment, live), changed_key(end.public, end.changed_public)
    if changed is not None and told["status"] in ("error", "connecting"):
        told["symptom"] = "reinstalled"  # it explains whatever else is seen of this end
    return {
        "role": end.role,
        "node": row.source_name if source else row.target_name,
        "node_id": end.node_id,
        "endpoint": endpoint if isinstance(endpoint, str) else (row.source_address if source else row.target_address),
        "endpoint_port": tunnel_config.endpoint_port_of(chosen, end.role) or port,
        "port": port,
        "addresses": addresses,
        "interface": end.interface,
        "routes": tunnel_config.routes_of(chosen, end.role),
        "public": object_in(end.public),
        **told,
        "changed_key": changed,
    }


def reported(row: Any, end: Any, moment: datetime, live: Live) -> dict[str, Any]:
    """What was reported of an end: by its node's service where that is the newer one, else what is in the database."""
    age = None if end.reported_at is None else max(0, int((moment - end.reported_at).total_seconds()))
    told = {"status": end.status, "error": end.error, "symptom": symptom(end.symptom)}
    told |= {"measured": object_in(end.measured), "age": age}
    by = None if age is None else SERVICE if end.reported_by == SERVICE else RUN
    now = live.end(row.uuid, end.role)
    # The manager knows better than what it has stored itself; and a run's report of a later time than now has none
    if now is not None and (by != RUN or age is None or end.reported_at > moment or int(now["age"]) <= age):
        # What was measured with an earlier record says nothing of how this one works
        same = now.get("version", row.version) == row.version
        told = {name: now.get(name) if same else None for name in ("status", "error", "symptom")}
        told |= {"measured": now["measured"], "age": int(now["age"])}
        by = SERVICE
    limit = STALE_BY_SERVICE if by == SERVICE else stale_after(end.gaps)
    if now is not None:  # where a service reports too, nobody waits for the next run
        limit = min(limit, STALE_AFTER)
    age = told["age"]
    # Only what a service's status becomes is stored, not each report: so a stored one says nothing about now
    silent = by == SERVICE and now is None
    return {**told, "by": by, "stale_after": limit, "stale": silent or age is None or age > limit}


def changed_key(public: str | None, changed: str | None) -> dict[str, Any] | None:
    """The half that a node shows since it has another one, and the known one: nobody has accepted it yet."""
    known, seen = (object_in(half) or {} for half in (public, changed))
    prints = {"known_fingerprint": fingerprint(known), "seen_fingerprint": fingerprint(seen)}
    if prints["seen_fingerprint"] in (None, prints["known_fingerprint"]):
        return None
    return {"known": known.get("public_key"), "seen": seen["public_key"], **prints}


def gaps(known: str | None, before: datetime | None, moment: datetime) -> str | None:
    """The column of an end that reports at this moment, and has reported ``before``."""
    gap = 0 if before is None else min(int((moment - before).total_seconds()), 9_999_999)
    return known if gap < _SOONEST else " ".join([str(gap), *(known or "").split()][:_GAPS])


def stale_after(known: str | None) -> int:
    """The seconds after which a report is stale: twice the usual time between two. The usual time is the median of the
    last gaps, so that neither an outage nor a run by hand changes it."""
    seconds = sorted(int(text) for text in (known or "").split() if text.isdecimal())
    usual = seconds[(len(seconds) - 1) // 2] if seconds else 0
    return max(STALE_AFTER, 2 * min(usual, _LATEST))


def overall(active: bool, ends: list[dict[str, Any]]) -> str:
    """What the ends say that have reported lately; where none has, what they said last. With a service at either end,
    ``active`` is not taken from what is too old for a service's, a run's report neither."""
    if not active:
        return "inactive"
    lately = [end for end in ends if not end["stale"]] or ends
    if any(end["status"] == "error" for end in lately):
        return "error"
    served = any(end["by"] == SERVICE for end in ends)
    holds = any(end["status"] == "active" and not (served and _is_old(end["age"])) for end in lately)
    return "active" if holds else "connecting"


def failed_end(status: str, ends: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The end whose sentence says why a tunnel of this status is in error: one that was heard lately, rather than
    another."""
    if status != "error":
        return None
    lately = sorted(ends, key=lambda end: bool(end["stale"]))
    return next((end for end in lately if end["status"] == "error" and end["error"]), None)


def _is_old(age: int | None) -> bool:
    return age is None or age > STALE_BY_SERVICE


def object_in(text: str | None) -> dict[str, Any] | None:
    """The JSON object in a column, None where there is none."""
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
