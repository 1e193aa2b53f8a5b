# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Views: a tunnel as one of its two nodes sees it, made from a record, and checked where it enters. Pure.

A node checks each field of a view again, though the controller did: what it writes is run by root.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Iterable, Iterator, Mapping, TypeVar

from .._errors import FieldError
from . import validators
from .types import BY_TYPE

if TYPE_CHECKING:
    from .shapes import End, Record, Seen, Side, View

KEEPALIVE = 25  # seconds; below the 30 after which Linux forgets an idle UDP flow (nf_conntrack_udp_timeout)

T = TypeVar("T")


def role_of(record: Record, node: str) -> str | None:
    """``source`` or ``target``: the end of ``record`` that is on ``node``, or None."""
    for role in validators.ROLES:
        if record["ends"][role]["node"] == node:
            return role
    return None


def _side(end: End) -> Side:
    return {
        "node": end["node"],
        "role": end["role"],
        "endpoint": end["endpoint"],
        "port": end["port"],
        "endpoint_port": end["endpoint_port"],
        "addresses": end["addresses"],
        "routes": end["routes"],
        "public": end["public"],
    }


def view(record: Record, node: str, panel: str, post_quantum: str = "auto") -> View:
    """``record`` as ``node`` (a name) sees it. Raises FieldError if the tunnel does not end there.

    ``panel`` is the panel's id; ``post_quantum`` applies where the record does not choose.
    """
    role = role_of(record, node)
    if role is None:
        ends = " and ".join(record["ends"][role]["node"] for role in validators.ROLES)
        raise FieldError("node", node, "The tunnel %s joins %s." % (record["uuid"], ends))
    local = record["ends"][role]
    peer = record["ends"][validators.OTHER_ROLE[role]]
    config = record["config"]
    keepalive = config.get("keepalive")
    return {
        "panel": panel,
        "id": record["id"],
        "uuid": record["uuid"],
        "name": record["name"],
        "type": record["type"],
        "active": record["active"],
        "version": record["version"],
        "interface": local["interface"],
        "mtu": config.get("mtu"),
        "keepalive": KEEPALIVE if keepalive is None else keepalive,
        "dial": (config.get("dial") or "both") in ("both", role),
        "dialed": (config.get("dial") or "both") != role,
        "transport": config.get("transport") or "udp",
        "post_quantum": config.get("post_quantum") or post_quantum,
        "routes": list(peer["routes"]),
        "local": _side(local),
        "peer": _side(peer),
    }


def views(
    records: Iterable[Record], nodes: Mapping[str, str], panel: str, post_quantum: str = "auto"
) -> dict[str, list[View]]:
    """``{host: [view…]}`` in order of ids, for ``nodes`` ``{host: node name}``; no tunnels: an empty list.

    Raises FieldError when two hosts are the same node: both would take the same addresses.
    """
    hosts: dict[str, str] = {}
    for host, node in nodes.items():
        validators.node_name(node, "nodes[%s]" % host)
        if node in hosts:
            raise FieldError("nodes[%s]" % host, node, "The host %s is this node already." % hosts[node])
        hosts[node] = host
    answer: dict[str, list[View]] = {host: [] for host in nodes}
    for record in sorted(records, key=lambda record: record["id"]):
        for role in validators.ROLES:
            node = record["ends"][role]["node"]
            if node in hosts:
                answer[hosts[node]].append(view(record, node, panel, post_quantum))
    return answer


def publish(records: Iterable[Record], published: Mapping[str, object], nodes: Mapping[str, str]) -> list[Record]:
    """Copies of ``records`` with the public halves of ``published`` ``{host: [{"uuid", "public"}]}``.

    For hand-written lists, where no panel passes them on. ``nodes`` is ``{host: node name}``; what a host says about
    a tunnel that doesn't end there is left out. Raises FieldError on what can't be a public half.
    """
    halves: dict[tuple[str, str | None], Any] = {}
    for host, keys in published.items():
        if not isinstance(keys, list):
            raise FieldError("published[%s]" % host, keys, "Give a list of uuid and public.")
        for index, item in enumerate(keys):
            field = "published[%s][%d]" % (host, index)
            key = validators.mapping(item, field)
            halves[validators.uuid(key.get("uuid"), field + ".uuid"), nodes.get(host)] = key.get("public")
    merged: list[Record] = []
    for record in records:
        ends = {}
        for role, end in record["ends"].items():
            half = halves.get((record["uuid"], end["node"]))
            if half is not None:
                public = validators.public_half(half, "published.%s" % end["node"], record["type"])
                end = {**end, "public": public}
            ends[role] = end
        merged.append({**record, "ends": ends})
    return merged


MAX_ID = 2**63 - 1  # of a tunnel, whatever panel it is from


def _maybe(value: object, field: str, check: Callable[..., T], *more: Any) -> T | None:
    return None if value is None else check(value, field, *more)


def _check_side(value: object, field: str, kind: str) -> Side:
    raw = validators.mapping(value, field)
    return {
        "node": validators.node_name(raw.get("node"), field + ".node"),
        "role": validators.choice(raw.get("role"), field + ".role", validators.ROLES),
        "endpoint": validators.endpoint(raw.get("endpoint"), field + ".endpoint"),
        "port": validators.end_port(raw.get("port"), field + ".port", kind),
        "endpoint_port": validators.endpoint_port(
            raw.get("endpoint_port", raw.get("port")), field + ".endpoint_port", kind
        ),
        "addresses": validators.unique_list(
            raw.get("addresses"), field + ".addresses", validators.interface_address, 1
        ),
        "routes": validators.unique_list(raw.get("routes"), field + ".routes", validators.route),
        "public": _maybe(raw.get("public"), field + ".public", validators.public_half, kind),
    }


def check(value: object, panel: str) -> View:
    """The view in ``value``, canonical, of the panel with the id ``panel``. Raises FieldError, whatever it is."""
    raw = validators.mapping(value, "view")
    kind = validators.tunnel_type(raw.get("type"))
    checked: View = {
        "panel": validators.uuid(raw.get("panel"), "panel"),
        "id": validators.integer(raw.get("id"), "id", 1, MAX_ID),
        "uuid": validators.uuid(raw.get("uuid")),
        "name": _maybe(raw.get("name"), "name", validators.tunnel_name),
        "type": kind,
        "active": validators.boolean(raw.get("active"), "active"),
        "version": validators.version(raw.get("version")),
        "interface": validators.interface(raw.get("interface")),
        "mtu": _maybe(raw.get("mtu"), "mtu", validators.mtu),
        "keepalive": validators.keepalive(raw.get("keepalive")),
        "dial": validators.boolean(raw.get("dial"), "dial"),
        "dialed": validators.boolean(raw.get("dialed", True), "dialed"),
        "transport": validators.choice(raw.get("transport"), "transport", validators.TRANSPORTS),
        "post_quantum": validators.choice(raw.get("post_quantum"), "post_quantum", validators.POST_QUANTUM),
        "routes": validators.unique_list(raw.get("routes"), "routes", validators.route),
        "local": _check_side(raw.get("local"), "local", kind),
        "peer": _check_side(raw.get("peer"), "peer", kind),
    }
    if checked["panel"] != panel:
        raise FieldError("panel", checked["panel"], "This run is for the panel %s." % panel)
    return checked


def claims(view: View) -> Iterator[tuple[str, object]]:
    """``(key, value)`` of what only one tunnel of a host can have. Tunnels of some types share their ports."""
    yield "uuid", view["uuid"]
    yield "interface", view["interface"]
    if not BY_TYPE[view["type"]].shared_ports:
        yield "port", view["local"]["port"]


def dialed(view: View, side: Side) -> str:
    """Where a side is dialed at its endpoint, as a text: ``UDP 443``."""
    return "%s %d" % (view["transport"].upper(), side["endpoint_port"])


def way_in(view: View, side: Side) -> str:
    """What has to be so for packets to arrive at a side of a view, as the end of a question."""
    if side["endpoint_port"] == side["port"]:
        return "is %s open at %s" % (dialed(view, side), side["endpoint"])
    where = (dialed(view, side), side["endpoint"], side["port"], side["node"])
    return "is %s at %s mapped to %d on %s, and open" % where


def title(view: View) -> str:
    """How a person calls this tunnel: by its name, or by its id if it has no name."""
    return view["name"] if view["name"] is not None else "#%d" % view["id"]


def seen(value: object) -> Seen:
    """What is in order in ``value``, which may be a view, or anything: the first fields of a tunnel in an answer."""
    safe = validators.if_valid
    raw: dict[str, Any] = value if isinstance(value, dict) else {}
    local, peer = (raw[key] if isinstance(raw.get(key), dict) else {} for key in ("local", "peer"))
    return {
        "uuid": safe(validators.uuid, raw.get("uuid")),
        "id": safe(validators.integer, raw.get("id"), 1, MAX_ID),
        "name": safe(validators.tunnel_name, raw.get("name")),
        "version": safe(validators.version, raw.get("version")),
        "type": safe(validators.tunnel_type, raw.get("type")),
        "interface": safe(validators.interface, raw.get("interface")),
        "node": safe(validators.node_name, local.get("node")),
        "peer": safe(validators.node_name, peer.get("node")),
        "role": safe(validators.choice, local.get("role"), validators.ROLES),
    }
