# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Views: a tunnel as one of its two nodes sees it. Pure; docs/contract.md has the shape."""

from __future__ import annotations

from ansible_collections.marzban.tunnels.plugins.module_utils import _checks
from ansible_collections.marzban.tunnels.plugins.module_utils._errors import FieldError

KEEPALIVE = 25  # seconds; shorter than what NAT and firewalls forget an idle flow after


def role_of(record, node):
    """``source`` or ``target``: the end of ``record`` that is on ``node``, or None."""
    for role in _checks.ROLES:
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
        ends = " and ".join(record["ends"][one]["node"] for one in _checks.ROLES)
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
        _checks.node_name(node, "nodes[%s]" % host)
        if node in hosts:
            raise FieldError("nodes[%s]" % host, node, "The host %s is this node already." % hosts[node])
        hosts[node] = host
    answer = {host: [] for host in nodes}
    for record in sorted(records, key=lambda one: one["id"]):
        for role in _checks.ROLES:
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
            uuid = _checks.uuid(_checks.mapping(key, field).get("uuid"), field + ".uuid")
            halves[uuid, nodes.get(host)] = key.get("public")
    merged = []
    for record in records:
        ends = {}
        for role, end in record["ends"].items():
            half = halves.get((record["uuid"], end["node"]))
            if half is not None:
                end = dict(end, public=_checks.public_half(half, "published.%s" % end["node"], record["type"]))
            ends[role] = end
        merged.append(dict(record, ends=ends))
    return merged
