# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Views: a tunnel as one of its two nodes sees it, made from a record, and checked where it enters. Pure.

docs/contract.md has the shape.

A node checks each field of a view again, though the controller did: what it writes is run by root.
"""

from __future__ import annotations

from .._errors import FieldError
from . import validators

KEEPALIVE = 25  # seconds; shorter than what NAT and firewalls forget an idle flow after


def role_of(record, node):
    """``source`` or ``target``: the end of ``record`` that is on ``node``, or None."""
    for role in validators.ROLES:
        if record["ends"][role]["node"] == node:
            return role
    return None


def _side(end):
    return {key: end[key] for key in ("node", "role", "endpoint", "port", "addresses", "routes", "public")}


def view(record, node, panel, post_quantum="auto"):
    """``record`` as ``node`` (a name) sees it. Raises FieldError if it ends elsewhere.

    ``panel`` is the panel's id, ``post_quantum`` what holds for a record that doesn't choose.
    """
    role = role_of(record, node)
    if role is None:
        ends = " and ".join(record["ends"][one]["node"] for one in validators.ROLES)
        raise FieldError("node", node, "The tunnel %s joins %s." % (record["uuid"], ends))
    local = record["ends"][role]
    peer = record["ends"]["target" if role == "source" else "source"]
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


def views(records, nodes, panel, post_quantum="auto"):
    """``{host: [view…]}`` in order of ids, for ``nodes`` ``{host: node name}``; no tunnels: an empty list.

    Raises FieldError when two hosts are the same node: both would take the same addresses.
    """
    hosts = {}
    for host, node in nodes.items():
        validators.node_name(node, "nodes[%s]" % host)
        if node in hosts:
            raise FieldError("nodes[%s]" % host, node, "The host %s is this node already." % hosts[node])
        hosts[node] = host
    answer = {host: [] for host in nodes}
    for record in sorted(records, key=lambda one: one["id"]):
        for role in validators.ROLES:
            node = record["ends"][role]["node"]
            if node in hosts:
                answer[hosts[node]].append(view(record, node, panel, post_quantum))
    return answer


def publish(records, published, nodes):
    """Copies of ``records`` with the public halves of ``published`` ``{host: [{"uuid", "public"}]}``.

    For hand-written lists, where no panel passes them on. ``nodes`` is ``{host: node name}``; what a host says about
    a tunnel that doesn't end there is left out. Raises FieldError on a public half that is none.
    """
    halves = {}
    for host, keys in published.items():
        if not isinstance(keys, list):
            raise FieldError("published[%s]" % host, keys, "Give a list of uuid and public.")
        for index, key in enumerate(keys):
            field = "published[%s][%d]" % (host, index)
            uuid = validators.uuid(validators.mapping(key, field).get("uuid"), field + ".uuid")
            halves[uuid, nodes.get(host)] = key.get("public")
    merged = []
    for record in records:
        ends = {}
        for role, end in record["ends"].items():
            half = halves.get((record["uuid"], end["node"]))
            if half is not None:
                end = dict(end, public=validators.public_half(half, "published.%s" % end["node"], record["type"]))
            ends[role] = end
        merged.append(dict(record, ends=ends))
    return merged


MAX_NUMBER = 2**63 - 1


def _maybe(value, field, check, *more):
    return None if value is None else check(value, field, *more)


def _check_side(raw, field, kind):
    validators.mapping(raw, field)
    return {
        "node": validators.node_name(raw.get("node"), field + ".node"),
        "role": validators.choice(raw.get("role"), field + ".role", validators.ROLES),
        "endpoint": validators.endpoint(raw.get("endpoint"), field + ".endpoint"),
        "port": validators.end_port(raw.get("port"), field + ".port", kind),
        "addresses": validators.unique_list(
            raw.get("addresses"), field + ".addresses", validators.interface_address, 1
        ),
        "routes": validators.unique_list(raw.get("routes"), field + ".routes", validators.route),
        "public": _maybe(raw.get("public"), field + ".public", validators.public_half, kind),
    }


def check(raw, panel):
    """The view in ``raw``, canonical, of the panel with the id ``panel``. Raises FieldError, whatever ``raw`` is."""
    validators.mapping(raw, "view")
    kind = validators.tunnel_type(raw.get("type"))
    checked = {
        "panel": validators.uuid(raw.get("panel"), "panel"),
        "id": validators.integer(raw.get("id"), "id", 1, MAX_NUMBER),
        "uuid": validators.uuid(raw.get("uuid")),
        "name": _maybe(raw.get("name"), "name", validators.tunnel_name),
        "type": kind,
        "active": validators.boolean(raw.get("active"), "active"),
        "version": validators.integer(raw.get("version"), "version", 0, MAX_NUMBER),
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
        raise FieldError("panel", checked["panel"], "This run is about the panel %s." % panel)
    return checked


def claims(view):
    """``(key, value)`` of what only one tunnel of a host can have; IPsec's ports are all its tunnels'."""
    yield "uuid", view["uuid"]
    yield "interface", view["interface"]
    if view["type"] != "ipsec":
        yield "port", view["local"]["port"]


def title(view):
    """How a person calls this tunnel: its name, or its id where it has none."""
    return view["name"] if view["name"] is not None else "#%d" % view["id"]


def seen(raw):
    """What can be told about a view that is none: the fields of an answer, harmless or None."""

    def safe(check, value, *more):
        try:
            return check(value, "", *more)
        except FieldError:
            return None

    raw = raw if isinstance(raw, dict) else {}
    ends = {key: raw.get(key) if isinstance(raw.get(key), dict) else {} for key in ("local", "peer")}
    return {
        "uuid": safe(validators.uuid, raw.get("uuid")),
        "id": safe(validators.integer, raw.get("id"), 1, MAX_NUMBER),
        "name": safe(validators.tunnel_name, raw.get("name")),
        "version": safe(validators.integer, raw.get("version"), 0, MAX_NUMBER),
        "type": safe(validators.tunnel_type, raw.get("type")),
        "interface": safe(validators.interface, raw.get("interface")),
        "node": safe(validators.node_name, ends["local"].get("node")),
        "peer": safe(validators.node_name, ends["peer"].get("node")),
        "role": safe(validators.choice, ends["local"].get("role"), validators.ROLES),
    }
