# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What one side of a run accepts from the other. Pure.

A node checks each field of a view again, though the controller did: what it writes is run by root. The controller
checks what a node answers, which may be compromised: it may spoil its own part of a run, and no other.
"""

from __future__ import annotations

from ansible_collections.marzban.tunnels.plugins.module_utils import _checks
from ansible_collections.marzban.tunnels.plugins.module_utils._errors import FieldError, printable, shown

MAX_NUMBER = 2**63 - 1


def _maybe(value, field, check, *more):
    return None if value is None else check(value, field, *more)


def _side(raw, field, kind):
    _checks.mapping(raw, field)
    return {
        "node": _checks.node_name(raw.get("node"), field + ".node"),
        "role": _checks.choice(raw.get("role"), field + ".role", _checks.ROLES),
        "endpoint": _checks.endpoint(raw.get("endpoint"), field + ".endpoint"),
        "port": _checks.end_port(raw.get("port"), field + ".port", kind),
        "addresses": _checks.items(raw.get("addresses"), field + ".addresses", _checks.interface_address, 1),
        "routes": _checks.items(raw.get("routes"), field + ".routes", _checks.route),
        "public": _maybe(raw.get("public"), field + ".public", _checks.public_half, kind),
    }


def view(raw, panel):
    """The view in ``raw``, canonical, of the panel with the id ``panel``. Raises FieldError, whatever ``raw`` is."""
    _checks.mapping(raw, "view")
    kind = _checks.tunnel_type(raw.get("type"))
    checked = {
        "panel": _checks.uuid(raw.get("panel"), "panel"),
        "id": _checks.whole(raw.get("id"), "id", 1, MAX_NUMBER),
        "uuid": _checks.uuid(raw.get("uuid")),
        "name": _maybe(raw.get("name"), "name", _checks.tunnel_name),
        "type": kind,
        "active": _checks.flag(raw.get("active"), "active"),
        "version": _checks.whole(raw.get("version"), "version", 0, MAX_NUMBER),
        "interface": _checks.interface(raw.get("interface")),
        "mtu": _maybe(raw.get("mtu"), "mtu", _checks.mtu),
        "keepalive": _checks.keepalive(raw.get("keepalive")),
        "dial": _checks.flag(raw.get("dial"), "dial"),
        "dialed": _checks.flag(raw.get("dialed", True), "dialed"),
        "transport": _checks.choice(raw.get("transport"), "transport", _checks.TRANSPORTS),
        "post_quantum": _checks.choice(raw.get("post_quantum"), "post_quantum", _checks.POST_QUANTUM),
        "routes": _checks.items(raw.get("routes"), "routes", _checks.route),
        "local": _side(raw.get("local"), "local", kind),
        "peer": _side(raw.get("peer"), "peer", kind),
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
        "uuid": safe(_checks.uuid, raw.get("uuid")),
        "id": safe(_checks.whole, raw.get("id"), 1, MAX_NUMBER),
        "name": safe(_checks.tunnel_name, raw.get("name")),
        "version": safe(_checks.whole, raw.get("version"), 0, MAX_NUMBER),
        "type": safe(_checks.tunnel_type, raw.get("type")),
        "interface": safe(_checks.interface, raw.get("interface")),
        "node": safe(_checks.node_name, ends["local"].get("node")),
        "peer": safe(_checks.node_name, ends["peer"].get("node")),
        "role": safe(_checks.choice, ends["local"].get("role"), _checks.ROLES),
    }


# What the controller takes from a node


def entries(answer, key):
    """The list under ``key`` of a host's answer, empty where it has none. What is in it can be anything.

    Raises FieldError where the answer or the list is none.
    """
    listed = None if answer is None else _checks.mapping(answer, "answer").get(key)
    if listed is None:
        return []
    if not isinstance(listed, list):
        raise FieldError(key, listed, "It is no list: look at that host, it may be compromised.")
    return listed


def words(value, limit=500):
    """Foreign text (or whatever stands in its place) as one bounded harmless line; None stays None."""
    if value is None:
        return None
    return printable(value, limit) if isinstance(value, str) else shown(value)
