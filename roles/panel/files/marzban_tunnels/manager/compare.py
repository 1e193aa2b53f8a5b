# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""What differs between what a node should have and what it says it has. Pure: nothing is sent or stored here."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from marzban_tunnels.halves import differ
from marzban_tunnels.manager.answers import Listing, Shown

GIVE_UP = timedelta(days=30)
# What a reader needs and a node does not, or what changes by itself
_END = ("node", "role", "endpoint", "endpoint_port", "port", "addresses", "interface", "routes", "public")
_TUNNEL = ("id", "uuid", "version", "name", "tunnel_type", "config", "is_active")
_TIME = re.compile(r"[0-9]+(\.[0-9]+)? ?(s|min|h|days?)\b")


@dataclass(frozen=True)
class Wanted:
    """A tunnel that ends at a node: what it has to be there, and what the database has about this end."""

    record: Mapping[str, Any]  # as GET /api/tunnels/{id} answers it
    role: str
    revision: str
    public: Mapping[str, str] | None = None
    peer_public: Mapping[str, str] | None = None
    changed_public: Mapping[str, str] | None = None  # stored as shown, and not accepted
    status: str | None = None  # as stored
    error: str | None = None

    @property
    def uuid(self) -> str:
        return str(self.record["uuid"])

    @property
    def version(self) -> int:
        return int(self.record["version"])

    @property
    def key(self) -> tuple[int, str]:
        """The end in the database."""
        return int(self.record["id"]), self.role


@dataclass(frozen=True)
class Removal:
    """A deletion record for this node."""

    uuid: str
    deleted_at: datetime
    given_up: bool = False


@dataclass(frozen=True)
class Post:
    """The node has to be told what this tunnel is. ``accept_key``: its peer was made again, and this is its key."""

    wanted: Wanted
    accept_key: str | None = None


@dataclass(frozen=True)
class Plan:
    """What has to be done at a node, and what its answer says."""

    posts: list[Post] = field(default_factory=list)
    removals: list[str] = field(default_factory=list)  # uuids
    void: list[str] = field(default_factory=list)  # deletion records of tunnels that end here: nothing to delete
    orphans: list[Shown] = field(default_factory=list)
    halves: list[tuple[Wanted, dict[str, str]]] = field(default_factory=list)  # first public halves
    changed: list[tuple[Wanted, dict[str, str] | None]] = field(default_factory=list)  # to store as shown; None: over


def revision_of(record: Mapping[str, Any], node: str, panel: str) -> str:
    """A digest over all that a node is told about a tunnel."""
    ends = sorted(({name: end.get(name) for name in _END} for end in record["ends"]), key=lambda end: str(end["role"]))
    told = [panel, node, {name: record.get(name) for name in _TUNNEL}, ends]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]


def compare(
    wanted: Mapping[str, Wanted],
    removals: Mapping[str, Removal],
    answer: Listing,
    peer_shows: Callable[[Wanted], Mapping[str, str] | None],
) -> Plan:
    """Compare one node. ``peer_shows`` answers the half that the node at a tunnel's other end itself shows now."""
    plan = Plan()
    for uuid, item in wanted.items():
        seen = answer.tunnels.get(uuid)
        if seen is None:
            plan.posts.append(Post(item))
            continue
        learn(plan, item, seen)
        accept = accepted(item, seen, peer_shows)
        if not seen.doing and (seen.revision != item.revision or accept):
            plan.posts.append(Post(item, accept))
    for uuid in removals:
        if uuid in wanted:
            plan.void.append(uuid)  # it was moved away and back: the record says that it ends here
        elif not (uuid in answer.tunnels and answer.tunnels[uuid].doing):
            plan.removals.append(uuid)
    for uuid, seen in answer.tunnels.items():
        if uuid not in wanted and uuid not in removals:
            plan.orphans.append(seen)
    return plan


def learn(plan: Plan, item: Wanted, seen: Shown) -> None:
    """A first public half is taken; another one than the known is only shown, until somebody says that it is right.

    What a half has besides its keys (a next one) is passed on by runs only.
    """
    if seen.public is None or seen.tunnel_type != item.record["tunnel_type"]:
        return
    if item.public is None:
        plan.halves.append((item, seen.public))
    elif differ(item.public, seen.public):
        if dict(item.changed_public or {}) != seen.public:
            plan.changed.append((item, seen.public))
    elif item.changed_public is not None:
        plan.changed.append((item, None))


def accepted(item: Wanted, seen: Shown, peer_shows: Callable[[Wanted], Mapping[str, str] | None]) -> str | None:
    """The key of the peer's half that this node saw and did not take, where it may take it: the record has this half (a
    run or an admin said so), and the peer itself shows it. After a restore the record's may be an old one, which no
    node shows. Where only the certificate is another one, the key that the node saw is the one that it knows."""
    key = (item.peer_public or {}).get("public_key")
    if key is None or seen.peer_seen != key:
        return None
    return None if differ(item.peer_public, peer_shows(item)) else key


def overdue(removals: Mapping[str, Removal], moment: datetime) -> list[str]:
    """Deletion records that are given up now."""
    return [uuid for uuid, item in removals.items() if not item.given_up and moment - item.deleted_at > GIVE_UP]


def facts(item: Shown) -> tuple[Any, ...]:
    """What a reader waits for."""
    return item.status, lasting(item.error), item.version, item.missing


def lasting(text: str | None) -> str:
    """A sentence without the times in it, which go on by themselves."""
    return _TIME.sub("", text or "")
