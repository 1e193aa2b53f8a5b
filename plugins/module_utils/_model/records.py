# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Records: tunnels as the panel (or a hand-written list) has them, checked field by field.

A record is ``{"id", "uuid", "name"?, "type", "active", "version", "status", "config", "ends": {"source": END,
"target": END}}`` as docs/contract.md describes it. Pure: nothing here asks anybody anything.
"""

from __future__ import annotations

import ipaddress

from .._errors import FieldError, shown
from . import config, validators

MAX_ID = 2**31 - 1


def _required(raw, key, field=None):
    if key not in raw:
        raise FieldError(field or key, None, "It is missing: update the panel, or write it down.")
    return raw[key]


def _end(raw, role, kind):
    """One END of the wire, canonical."""

    def get(key, check, *more):
        field = "%s.%s" % (role, key)
        return check(_required(raw, key, field), field, *more)

    def maybe(key, check, *more):
        return None if raw.get(key) is None else check(raw[key], "%s.%s" % (role, key), *more)

    return {
        "role": role,
        "node": get("node", validators.node_name),
        "node_id": get("node_id", validators.integer, 1, MAX_ID),
        "endpoint": get("endpoint", validators.endpoint),
        "port": get("port", validators.end_port, kind),
        "addresses": get("addresses", validators.unique_list, validators.interface_address, 1),
        "interface": get("interface", validators.interface),
        "routes": get("routes", validators.unique_list, validators.route),
        "public": maybe("public", validators.public_half, kind),
        "status": maybe("status", validators.choice, validators.STATUSES),
        # Free text: it is shown, never used. ``printable`` is the display's business.
        "error": maybe("error", _text),
        "measured": maybe("measured", validators.measured),
        "age": maybe("age", validators.non_negative),
    }


def _text(value, field):
    if not isinstance(value, str):
        raise FieldError(field, value, "Give a text.")
    return "".join(c if c.isprintable() else " " for c in value[:500])


def _ends(raw, kind):
    """``{"source": END, "target": END}`` of the wire's list."""
    listed = _required(raw, "ends")
    if not isinstance(listed, list) or len(listed) != 2:
        raise FieldError("ends", listed, "Give the two ends of the tunnel.")
    by_role = {}
    for index, end in enumerate(listed):
        validators.mapping(end, "ends[%d]" % index)
        role = validators.choice(end.get("role"), "ends[%d].role" % index, validators.ROLES)
        if role in by_role:
            raise FieldError(
                "ends[%d].role" % index, role, "Both ends claim this role: one is the source, one the target."
            )
        by_role[role] = _end(end, role, kind)
    return by_role


def _check_pair(ends):
    """What the two ends have to be for each other."""
    source, target = ends["source"], ends["target"]
    for key in ("node", "node_id"):
        if source[key] == target[key]:
            raise FieldError("target.%s" % key, target[key], "Both ends are the same node: choose two different ones.")
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


def parse(raw):
    """The record in one tunnel of the panel's answer. Raises FieldError, and nothing else, whatever ``raw`` is."""
    validators.mapping(raw, "tunnel")
    kind = validators.tunnel_type(_required(raw, "tunnel_type"), "tunnel_type")
    record = {
        "id": validators.integer(_required(raw, "id"), "id", 1, MAX_ID),
        "uuid": validators.uuid(_required(raw, "uuid")),
        "name": None if raw.get("name") is None else validators.tunnel_name(raw["name"]),
        "type": kind,
        "active": validators.boolean(_required(raw, "is_active"), "is_active"),
        "version": validators.integer(_required(raw, "version"), "version", 0, 2**63 - 1),
        "status": validators.choice(_required(raw, "status"), "status", validators.STATUSES),
        "config": config.parse(_required(raw, "config")),
        "ends": _ends(raw, kind),
    }
    for role, end in record["ends"].items():
        for key, mine in (("node_id", "node_id"), ("node_name", "node")):
            field = "%s_%s" % (role, key)
            if raw.get(field) != end[mine]:
                raise FieldError(
                    field,
                    raw.get(field),
                    "Its end says %s: the panel contradicts itself, look at it there." % shown(end[mine]),
                )
    _check_pair(record["ends"])
    return record


def title(record):
    """How a person calls this record: its name, or its id where it has none. For errors and tables."""
    return record["name"] if record.get("name") is not None else "#%s" % record["id"]


def parse_all(raws):
    """``(records, broken)``: the records in order of their ids, and what can't be one, each with its error.

    A record that takes what an earlier one (by id) has on the same node is broken too: the earlier one keeps it.
    """
    records, broken = [], []
    for raw in raws:
        try:
            records.append(parse(raw))
        except FieldError as error:
            broken.append(broken_record(raw, error))
    good, taken = [], {}
    for record in sorted(records, key=lambda one: one["id"]):
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


def _claims(record):
    """``(field, value, key)`` of all that this record has for itself alone; IPsec's ports it shares with its like."""
    yield "id", record["id"], ("id", record["id"])
    yield "uuid", record["uuid"], ("uuid", record["uuid"])
    if record["name"] is not None:
        yield "name", record["name"], ("name", record["name"])
    for role, end in record["ends"].items():
        node = end["node"]
        for port in (500, validators.IPSEC_PORT) if record["type"] == "ipsec" else (end["port"],):
            yield "%s.port on %s" % (role, node), port, ("port", node, port)
        yield "%s.interface on %s" % (role, node), end["interface"], ("interface", node, end["interface"])
        for address in end["addresses"]:
            place = str(ipaddress.ip_interface(address).network)
            yield "%s.addresses on %s" % (role, node), address, ("network", node, place)
        if record["active"]:
            # Two active tunnels with one route would take it from each other at every run.
            peer = record["ends"]["target" if role == "source" else "source"]
            for route in peer["routes"]:
                yield "routes on %s" % node, route, ("route", node, route)


def _share(key, one, other):
    return key[0] == "port" and one["type"] == other["type"] == "ipsec"


def _describe(record, error):
    nodes = [record["ends"][role]["node"] for role in validators.ROLES]
    return {"id": record["id"], "uuid": record["uuid"], "name": record["name"], "nodes": nodes, "error": str(error)}


def broken_record(raw, error):
    """What can be told about a tunnel that is no record."""

    def safe(check, value, *more):
        try:
            return check(value, "", *more)
        except FieldError:
            return None

    raw = raw if isinstance(raw, dict) else {}
    nodes = [safe(validators.node_name, raw.get(role + "_node_name")) for role in validators.ROLES]
    return {
        "id": safe(validators.integer, raw.get("id"), 1, MAX_ID),
        "uuid": safe(validators.uuid, raw.get("uuid")),
        "name": safe(validators.tunnel_name, raw.get("name")),
        "nodes": [node for node in nodes if node is not None],
        "error": str(error),
    }


NO_INFO = dict.fromkeys(
    ("id", "uuid", "name", "type", "active", "version", "status", "source", "target", "config", "error")
)


def info(raw):
    """A tunnel of the panel for a person to read; where it is broken, what can be told and the reason in ``error``."""
    try:
        record = parse(raw)
    except FieldError as error:
        broken = broken_record(raw, error)
        names = {
            role: broken["nodes"][n] if len(broken["nodes"]) == 2 else None for n, role in enumerate(validators.ROLES)
        }
        del broken["nodes"]
        return dict(NO_INFO, ends=[], **broken, **names)
    names = {role: record["ends"][role]["node"] for role in validators.ROLES}
    return dict(NO_INFO, **dict(record, **names, ends=[record["ends"][role] for role in validators.ROLES]))
