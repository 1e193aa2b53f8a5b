# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Reads what a node answers. Pure. A node is a stranger: each field is checked, and what is too much is refused."""

from __future__ import annotations

import hashlib
import marshal
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from pydantic import ValidationError

from marzban_tunnels import checks, live
from marzban_tunnels.errors import shown
from marzban_tunnels.schemas import Measured, Public, Status

_EPOCH = re.compile(r"[0-9a-f]{16}")
_NEWS = re.compile(r"[0-9A-Za-z_-]{1,64}")  # it is sent back as a part of an address
MOST = 10_000  # tunnels of a node
_STATUSES = get_args(Status)
_LARGEST = 2**63 - 1
RECOVERIES = ("put_back", "process", "session", "mtu", "peer")  # what a service does without a person
_MOST_KINDS = 10
_HIGHEST = 2**53 - 2**20  # number of a write: the database and JSON count further without losing any


@dataclass(frozen=True)
class Shown:
    """A tunnel as its node says it is."""

    uuid: str
    tunnel_id: int
    name: str | None
    tunnel_type: str
    version: int  # 0: nothing is applied yet
    revision: str | None
    interface: str | None
    status: str | None
    error: str | None  # also what it only wants to be known
    symptom: str | None
    missing: tuple[str, ...]
    public: dict[str, str] | None
    peer_known: str | None
    peer_seen: str | None
    measured: dict[str, Any] | None
    age: float | None
    doing: bool
    digest: bytes = field(default=b"", compare=False)  # of all that was said, but for what was measured
    recoveries: Mapping[str, int] = field(default_factory=dict)  # since its service began, by kind


@dataclass(frozen=True)
class Listing:
    """The answer of ``GET /api/tunnels``."""

    engine: str
    panel: str
    node: str
    time: float
    counter: int
    tunnels: Mapping[str, Shown] = field(default_factory=dict)
    epoch: str | None = None  # of the last write
    news: str | None = None  # None: an older service, which can't be listened to


def api_of(body: Any) -> int:
    """The version of the node API that a listing is of; 0 where it has none. Raises ValueError."""
    return _integer(_object(body, "the answer").get("api", 0), "api")


def listing(body: Any, before: Callable[[str], Shown | None] = lambda uuid: None) -> Listing:
    """A whole listing. ``before``: what the node said before about a tunnel. Raises ValueError with what is wrong."""
    raw = _object(body, "the answer")
    items = raw.get("tunnels")
    if not isinstance(items, list) or len(items) > MOST:
        raise ValueError(f"tunnels: {shown(items, 20)}; a list of at most {MOST}")
    tunnels = [_again(item, before) for item in items]
    found = {item.uuid: item for item in tunnels}
    if len(found) != len(tunnels):
        raise ValueError("tunnels: one is there twice")
    return Listing(
        engine=_text(raw.get("engine"), "engine", 128),
        panel=_text(raw.get("panel"), "panel", 64),
        node=_text(raw.get("node"), "node", 64),
        time=_number(raw.get("time"), "time"),
        counter=counter(raw.get("counter")),
        tunnels=found,
        epoch=_like(_EPOCH, raw.get("epoch"), "epoch"),
        news=_like(_NEWS, raw.get("news"), "news"),
    )


def counter(value: Any) -> int:
    """The number of a write to a node. Raises ValueError."""
    return _integer(value, "counter", _HIGHEST)


def _like(pattern: re.Pattern[str], value: Any, name: str) -> str | None:
    if value is not None and (not isinstance(value, str) or not pattern.fullmatch(value)):
        raise ValueError(f"{name}: {shown(value, 40)} is not like {pattern.pattern}")
    return value


def _again(body: Any, before: Callable[[str], Shown | None]) -> Shown:
    """A node says every few seconds about all its tunnels what it said before; only the measurements are others."""
    raw = _object(body, "a tunnel")
    uuid = raw.get("uuid")
    known = before(uuid) if isinstance(uuid, str) else None
    try:
        text = marshal.dumps({name: value for name, value in raw.items() if name not in ("measured", "age")}, 2)
    except ValueError:  # too deep
        return tunnel(raw)
    digest = hashlib.sha256(text).digest()
    if known is None or known.digest != digest:
        return replace(tunnel(raw), digest=digest)
    return replace(known, measured=_measured(raw.get("measured")), age=_age(raw.get("age")))


def tunnel(body: Any) -> Shown:
    """One NODE_TUNNEL. Raises ValueError with what is wrong."""
    raw = _object(body, "a tunnel")
    status = _maybe_text(raw.get("status"), "status", 16)
    if status is not None and status not in _STATUSES:
        raise ValueError(f"status: {shown(status)} is not one of {', '.join(_STATUSES)}")
    error, note = (_words(raw.get(name), name, 4096, 1000) for name in ("error", "note"))
    waiting = _words(raw.get("waiting_for"), "waiting_for", 512, 512)
    said = error or note or (waiting and f"It waits for the public key of {waiting}")
    missing = raw.get("missing") or []
    if not isinstance(missing, list) or len(missing) > 20:
        raise ValueError(f"missing: {shown(missing, 40)} is not a short list")
    peer = _object(raw.get("peer_key") or {}, "peer_key")
    return Shown(
        uuid=_text(raw.get("uuid"), "uuid", 64),
        tunnel_id=_integer(raw.get("id"), "id"),
        name=_words(raw.get("name"), "name", 512, 512),
        tunnel_type=_text(raw.get("type"), "type", 32),
        version=_integer(raw.get("version") or 0, "version"),
        revision=_maybe_text(raw.get("revision"), "revision", 128),
        interface=_maybe_text(raw.get("interface"), "interface", 64),
        status=status,
        error=said or None,
        symptom=live.symptom(raw.get("symptom")),
        missing=tuple(_text(item, "missing", 64) for item in missing),
        public=_public(raw.get("public")),
        peer_known=_maybe_text(peer.get("known"), "peer_key.known", 128),
        peer_seen=_maybe_text(peer.get("seen"), "peer_key.seen", 128),
        measured=_measured(raw.get("measured")),
        age=_age(raw.get("age")),
        doing=raw.get("doing") is True,
        recoveries=_recoveries(raw.get("recoveries")),
    )


def _age(value: Any) -> float | None:
    return None if value is None else _number(value, "age")


def _public(value: Any) -> dict[str, str] | None:
    if value is None:
        return None
    try:
        return Public.model_validate(value).model_dump(exclude_none=True)
    except ValidationError as error:
        raise ValueError(f"public: {_first(error)}") from None


def _measured(value: Any) -> dict[str, Any] | None:
    if value is None:
        return None
    try:
        return Measured.model_validate(value).model_dump(exclude_unset=True)
    except ValidationError as error:
        raise ValueError(f"measured: {_first(error)}") from None


def _recoveries(value: Any) -> dict[str, int]:
    """A kind that this panel does not know is left out: the node may be newer."""
    raw = _object(value or {}, "recoveries")
    if len(raw) > _MOST_KINDS:
        raise ValueError(f"recoveries: {len(raw)} kinds; at most {_MOST_KINDS}")
    return {kind: _integer(raw[kind], f"recoveries.{kind}") for kind in RECOVERIES if kind in raw}


def _first(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return shown(f"{'.'.join(str(part) for part in found['loc'])}: {found['msg']}", 160)


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name}: {shown(value, 40)} is not an object")
    return value


def _text(value: Any, name: str, longest: int) -> str:
    if not isinstance(value, str) or not value or len(value) > longest:
        raise ValueError(f"{name}: {shown(value, 40)} is not a text of 1 to {longest} characters")
    if not value.isprintable():
        raise ValueError(f"{name}: {shown(value, 40)} has characters that are not printable")
    return value


def _maybe_text(value: Any, name: str, longest: int) -> str | None:
    return None if value is None or value == "" else _text(value, name, longest)


def _words(value: Any, name: str, longest: int, kept: int) -> str | None:
    """What people read: on one line, cut to ``kept`` characters."""
    if value is not None and (not isinstance(value, str) or len(value) > longest):
        raise ValueError(f"{name}: {shown(value, 40)} is not a text of at most {longest} characters")
    return checks.one_line(value or "", kept) or None


def _integer(value: Any, name: str, most: int = _LARGEST) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise ValueError(f"{name}: {shown(value, 40)} is not a whole number from 0 to {most}")
    return value


def _number(value: Any, name: str) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= _LARGEST:
        raise ValueError(f"{name}: {shown(value, 40)} is not a number from 0")
    return float(value) if math.isfinite(value) else 0.0
