# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Records: tunnels as the panel (or a hand-written list) has them, checked field by field. Pure.

``shapes.Record`` is their shape.
"""

from __future__ import annotations

import ipaddress
from datetime import datetime
from typing import TYPE_CHECKING, Any, Callable, Iterable, Iterator, Tuple

from .._errors import FieldError, shown
from . import config, validators
from .types import BY_TYPE

if TYPE_CHECKING:
    from .shapes import Broken, End, Raw, Record

MAX_ID = 2**31 - 1  # of the panel's tunnels and nodes

_Key = Tuple[Any, ...]  # what is taken: a word for its kind, the node where it is one of a node, and the value


def _required(raw: Raw, key: str, field: str | None = None) -> Any:
    if key not in raw:
        raise FieldError(field or key, None, "The panel did not give it: update the panel.")
    return raw[key]


def _end(raw: Raw, role: str, kind: str, chosen: Raw) -> End:
    """One END of the wire, canonical. ``chosen``: of this end, in the config."""

    def get(key: str, check: Callable[..., Any], *more: Any) -> Any:
        field = "%s.%s" % (role, key)
        return check(_required(raw, key, field), field, *more)

    def maybe(key: str, check: Callable[..., Any], *more: Any) -> Any:
        return None if raw.get(key) is None else check(raw[key], "%s.%s" % (role, key), *more)

    return {
        "role": role,
        "node": get("node", validators.node_name),
        "node_id": get("node_id", validators.integer, 1, MAX_ID),
        "endpoint": get("endpoint", validators.endpoint),
        "port": get("port", validators.end_port, kind),
        "endpoint_port": _endpoint_port(raw, role, kind, chosen),
        "addresses": get("addresses", validators.unique_list, validators.interface_address, 1),
        "interface": get("interface", validators.interface),
        "routes": get("routes", validators.unique_list, validators.route),
        "public": maybe("public", validators.public_half, kind),
        "status": maybe("status", validators.choice, validators.STATUSES),
        # Free text, which is shown and never used; where it is shown, ``printable`` is called.
        "error": maybe("error", _text),
        "measured": maybe("measured", validators.measured),
        "age": maybe("age", validators.non_negative),
    }


def _endpoint_port(raw: Raw, role: str, kind: str, chosen: Raw) -> int:
    """Where the other end dials. A panel of version 3 of the API keeps what was chosen, and does not give it."""
    found = raw.get("endpoint_port", chosen.get("endpoint_port"))
    return validators.endpoint_port(raw["port"] if found is None else found, role + ".endpoint_port", kind)


def _text(value: object, field: str) -> str:
    if not isinstance(value, str):
        raise FieldError(field, value, "Give a text.")
    return "".join(c if c.isprintable() else " " for c in value[:500])


def _ends(raw: Raw, kind: str, chosen: Raw) -> dict[str, End]:
    """``{"source": END, "target": END}`` of the wire's list. ``chosen`` is the config."""
    listed = _required(raw, "ends")
    if not isinstance(listed, list) or len(listed) != 2:
        raise FieldError("ends", listed, "Give the two ends of the tunnel.")
    by_role: dict[str, End] = {}
    for index, end in enumerate(listed):
        validators.mapping(end, "ends[%d]" % index)
        role = validators.choice(end.get("role"), "ends[%d].role" % index, validators.ROLES)
        if role in by_role:
            raise FieldError(
                "ends[%d].role" % index, role, "Both ends have this role: make one the source, the other the target."
            )
        by_role[role] = _end(end, role, kind, chosen.get(role) or {})
    return by_role


def _check_pair(source: End, target: End) -> None:
    """Refuses ends that don't fit each other."""
    for key, ours, theirs in (
        ("node", source["node"], target["node"]),
        ("node_id", source["node_id"], target["node_id"]),
    ):
        if ours == theirs:
            raise FieldError("target.%s" % key, theirs, "Both ends are the same node: choose two different ones.")
    here = {}
    for address in source["addresses"]:
        found = ipaddress.ip_interface(address)
        here[found.network] = found.ip
    there = {}
    for address in target["addresses"]:
        found = ipaddress.ip_interface(address)
        if here.get(found.network) == found.ip:
            raise FieldError("target.addresses", address, "Both ends have the same address: give each its own.")
        there[found.network] = found.ip
    if set(here) != set(there) or len(here) != len(source["addresses"]) or len(there) != len(target["addresses"]):
        raise FieldError(
            "target.addresses",
            target["addresses"],
            "Each address of the source (%s) needs one of the same network at the target, and the other way round, "
            "such as 10.201.0.24/31 and 10.201.0.25/31." % ", ".join(source["addresses"]),
        )


def parse(value: object) -> Record:
    """The record in one tunnel of the panel's answer. Raises FieldError, and nothing else, whatever ``value`` is."""
    raw = validators.mapping(value, "tunnel")
    kind = validators.tunnel_type(_required(raw, "tunnel_type"), "tunnel_type")
    chosen = config.parse(_required(raw, "config"))
    record: Record = {
        "id": validators.integer(_required(raw, "id"), "id", 1, MAX_ID),
        "uuid": validators.uuid(_required(raw, "uuid")),
        "name": None if raw.get("name") is None else validators.tunnel_name(raw["name"]),
        "type": kind,
        "active": validators.boolean(_required(raw, "is_active"), "is_active"),
        "version": validators.version(_required(raw, "version")),
        "status": validators.choice(_required(raw, "status"), "status", validators.STATUSES),
        "config": chosen,
        "ends": _ends(raw, kind, chosen),
    }
    ends = record["ends"]
    for role, end in ends.items():
        for field, expected in ((role + "_node_id", end["node_id"]), (role + "_node_name", end["node"])):
            if raw.get(field) != expected:
                hint = "Its end has %s: the panel contradicts itself, look at it there." % shown(expected)
                raise FieldError(field, raw.get(field), hint)
    _check_pair(ends["source"], ends["target"])
    return record


def title(record: Record) -> str:
    """How a person calls this record: by its name, or by its id if it has no name. For errors and tables."""
    return record["name"] if record["name"] is not None else "#%s" % record["id"]


def parse_all(raws: Iterable[object]) -> tuple[list[Record], list[Broken]]:
    """The records in order of their ids, and what can't be a record, each with its error.

    A record that takes what an earlier one (by id) has on the same node is broken too: the earlier one keeps it.
    """
    records: list[Record] = []
    broken: list[Broken] = []
    for raw in raws:
        try:
            records.append(parse(raw))
        except FieldError as error:
            broken.append(broken_record(raw, error))
    good: list[Record] = []
    taken: dict[_Key, Record] = {}
    for record in sorted(records, key=lambda record: record["id"]):
        claims = list(_claims(record))
        try:
            for field, value, key in claims:
                if key in taken and not _share(key, record, taken[key]):
                    hint = "The tunnel %s has it already: change one of them." % shown(title(taken[key]))
                    raise FieldError(field, value, hint)
        except FieldError as error:
            broken.append(_describe(record, error))
            continue
        good.append(record)
        taken.update((key, record) for _field, _value, key in claims)
    return good, broken


def _claims(record: Record) -> Iterator[tuple[str, object, _Key]]:
    """``(field, value, key)`` of all that only one record can have; some types share their ports (``_share``)."""
    yield "id", record["id"], ("id", record["id"])
    yield "uuid", record["uuid"], ("uuid", record["uuid"])
    if record["name"] is not None:
        yield "name", record["name"], ("name", record["name"])
    for role, end in record["ends"].items():
        node = end["node"]
        for port in BY_TYPE[record["type"]].shared_ports or (end["port"],):
            yield "%s.port on %s" % (role, node), port, ("port", node, port)
        if end["endpoint_port"] != end["port"] and not BY_TYPE[record["type"]].shared_ports:
            place = (end["endpoint"], record["config"].get("transport") or "udp", end["endpoint_port"])
            yield "%s.endpoint_port on %s" % (role, node), end["endpoint_port"], ("dialed", *place)
        yield "%s.interface on %s" % (role, node), end["interface"], ("interface", node, end["interface"])
        for address in end["addresses"]:
            network = str(ipaddress.ip_interface(address).network)
            yield "%s.addresses on %s" % (role, node), address, ("network", node, network)
        if record["active"]:
            # Two active tunnels with one route would take it from each other at every run.
            for route in record["ends"][validators.OTHER_ROLE[role]]["routes"]:
                yield "routes on %s" % node, route, ("route", node, route)


def _share(key: _Key, record: Record, other: Record) -> bool:
    return key[0] == "port" and record["type"] == other["type"] and bool(BY_TYPE[record["type"]].shared_ports)


def _describe(record: Record, error: FieldError) -> Broken:
    nodes = [record["ends"][role]["node"] for role in validators.ROLES]
    return {"id": record["id"], "uuid": record["uuid"], "name": record["name"], "nodes": nodes, "error": str(error)}


def broken_record(value: object, error: FieldError) -> Broken:
    """What is in order in a tunnel that can't be a record, and why it can't."""
    raw = value if isinstance(value, dict) else {}
    safe = validators.if_valid
    nodes = [safe(validators.node_name, raw.get(role + "_node_name")) for role in validators.ROLES]
    return {
        "id": safe(validators.integer, raw.get("id"), 1, MAX_ID),
        "uuid": safe(validators.uuid, raw.get("uuid")),
        "name": safe(validators.tunnel_name, raw.get("name")),
        "nodes": [node for node in nodes if node is not None],
        "error": str(error),
    }


NO_INFO: dict[str, Any] = dict.fromkeys(
    ("id", "uuid", "name", "type", "active", "version", "status", "since", "source", "target", "config", "error")
)


def info(raw: object) -> dict[str, Any]:
    """A tunnel of the panel for a person to read; if it is broken, what is in order and the reason in ``error``."""
    try:
        record = parse(raw)
    except FieldError as error:
        broken = broken_record(raw, error)
        known: dict[str, Any] = {key: value for key, value in broken.items() if key != "nodes"}
        if len(broken["nodes"]) == 2:
            known.update(zip(validators.ROLES, broken["nodes"]))
        return dict(NO_INFO, ends=[], **known)
    ends = [record["ends"][role] for role in validators.ROLES]
    named = {end["role"]: end["node"] for end in ends}
    return {**NO_INFO, **record, **named, "ends": ends, "since": since(raw)}


def since(raw: object) -> str | None:
    """Since when a tunnel has its status, as the panel says, ``2026-11-22T18:00:00`` in UTC. None where it does not."""
    told = raw.get("since") if isinstance(raw, dict) else None
    return told if isinstance(told, str) and _moment(told) is not None else None


def _moment(text: str) -> datetime | None:
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S")
    except ValueError:
        return None


def status_age(raw: object, moment: datetime) -> float | None:
    """The seconds since a tunnel has its status, at a moment (UTC, without a zone). None where that is not known, and
    where the panel's clock is ahead."""
    told = since(raw)
    began = None if told is None else _moment(told)
    return None if began is None or began > moment else (moment - began).total_seconds()


def mapped_ports(records: Iterable[Record]) -> dict[str, list[dict[str, Any]]]:
    """``{node: [{"endpoint", "endpoint_port", "protocol", "port"}]}``: what a NAT has to map so that active tunnels can
    be dialed, sorted by endpoint and port; without nodes that need nothing."""
    found: dict[str, set[tuple[str, int, str, int]]] = {}
    for record in records:
        dial, transport = (record["config"].get(key) for key in ("dial", "transport"))
        for role, end in record["ends"].items():
            if record["active"] and dial != role and end["endpoint_port"] != end["port"]:
                place = (end["endpoint"], end["endpoint_port"], transport or "udp", end["port"])
                found.setdefault(end["node"], set()).add(place)
    keys = ("endpoint", "endpoint_port", "protocol", "port")
    return {node: [dict(zip(keys, place)) for place in sorted(its)] for node, its in sorted(found.items())}


def ports(records: Iterable[Record]) -> dict[str, list[str]]:
    """``{node: ["20003/udp"]}``: where active tunnels listen to their peers, sorted by number, for nodes' firewalls.

    What is behind a NAT listens there too, whatever port its peer dials (``mapped_ports``).
    """
    found: dict[str, set[tuple[int, str]]] = {}
    for record in records:
        config = record["config"]
        for role, end in record["ends"].items():
            if record["active"] and (config.get("dial") or "both") != role:
                found.setdefault(end["node"], set()).add((end["port"], config.get("transport") or "udp"))
    return {node: ["%d/%s" % port for port in sorted(its)] for node, its in sorted(found.items())}
