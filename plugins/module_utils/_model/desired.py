# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an operator declares of a tunnel, and how that differs from the panel's record. Pure.

*Wanted* is a dict in the words of the wire (``name``, ``source_node_id``, ``target_node_id``, ``tunnel_type``,
``config`` as a dict, ``is_active``) that holds what was declared and nothing else: what isn't there is left alone.
"""

from __future__ import annotations

import json

from .._errors import FieldError, shown
from . import config, records, validators

# Of a tunnel that is created, where nothing was declared
DEFAULTS = {"tunnel_type": "wireguard", "config": {}, "is_active": True}


def tunnel_argument_spec():
    """The options that declare one tunnel."""
    return {
        "name": {"type": "str", "required": True},
        "source": {"type": "str"},
        "target": {"type": "str"},
        "type": {"type": "str", "choices": list(validators.TYPES)},
        "config": {"type": "dict"},
        "active": {"type": "bool"},
    }


class Nodes:
    """The panel's nodes, found by name or id."""

    def __init__(self, raws):
        self._names = {raw.get("name"): raw.get("id") for raw in raws if isinstance(raw.get("name"), str)}
        numbers = [(raw.get("id"), raw.get("name")) for raw in raws]
        self._ids = {str(n): name for n, name in numbers if isinstance(n, int) and not isinstance(n, bool)}

    def find(self, given, field):
        """``(id, name)`` of the node ``given`` by its name (case counts) or its id. Raises FieldError."""
        if given in self._names:
            return validators.integer(self._names[given], field, 1, records.MAX_ID), given
        if given in self._ids:
            return int(given), self._ids[given]
        names = ", ".join(shown(name) for name in sorted(self._names)[:20]) or "none"
        raise FieldError(field, given, "The panel has no such node. Its nodes: %s." % names)

    def name(self, number):
        return self._ids.get(str(number))


def wanted(options, nodes, field=""):
    """What ``options`` (of ``tunnel_argument_spec``) declare, checked. ``field`` goes before the names in errors."""
    want = {"name": validators.tunnel_name(options["name"], field + "name")}
    for role in validators.ROLES:
        if options.get(role) is not None:
            want[role + "_node_id"] = nodes.find(options[role], field + role)[0]
    if want.get("source_node_id") is not None and want.get("source_node_id") == want.get("target_node_id"):
        raise FieldError(field + "target", options["target"], "It is the source too: choose two different nodes.")
    if options.get("type") is not None:
        want["tunnel_type"] = validators.tunnel_type(options["type"], field + "type")
    if options.get("config") is not None:
        want["config"] = config.check(options["config"], field + "config")
    if options.get("active") is not None:
        want["is_active"] = options["active"]
    return want


def find(raws, name):
    """The panel's tunnel of this name (case counts), or None. Raises FieldError when there are two."""
    found = [raw for raw in raws if raw.get("name") == name]
    if len(found) > 1:
        raise FieldError("name", name, "The panel has %d tunnels of this name: rename one there." % len(found))
    return found[0] if found else None


def version(raw):
    """The version to send with a change of ``raw``."""
    return validators.integer(raw.get("version"), "version", 0, 2**63 - 1)


def config_of(raw):
    """The panel's config as a dict, or as the text that it is where it holds none."""
    try:
        return config.parse(raw.get("config"))
    except FieldError:
        return raw.get("config")


def _same(one, other):
    # As JSON, where 1 is not true.
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def body_to_create(want, field=""):
    """The body of the panel's call. Raises FieldError when an end is missing."""
    for role in validators.ROLES:
        if want.get(role + "_node_id") is None:
            raise FieldError(field + role, None, "The tunnel is not there yet: give the node to create it.")
    return dict(DEFAULTS, **want)


def body_to_update(want, raw, field=""):
    """What differs between ``want`` and the panel's ``raw``: empty when nothing does."""
    now = dict(raw, config=config_of(raw))
    body = {key: value for key, value in want.items() if not _same(value, now.get(key))}
    merged = dict(now, **body)
    if merged.get("source_node_id") == merged.get("target_node_id"):
        raise FieldError(
            field + "source", merged.get("source_node_name"), "Both ends would be this node: give the other too."
        )
    return body


def to_wire(body):
    """``body`` with its config as the string of JSON that the panel takes."""
    return dict(body, config=json.dumps(body["config"])) if "config" in body else body


def declared(raw, nodes=None):
    """The part of a tunnel that an operator declares, for a diff. ``raw`` may be what ``body_to_create`` made."""
    answer = {"name": raw.get("name"), "type": raw.get("tunnel_type"), "active": raw.get("is_active")}
    answer["config"] = raw["config"] if isinstance(raw.get("config"), dict) else config_of(raw)
    for role in validators.ROLES:
        known = nodes.name(raw.get(role + "_node_id")) if nodes else None
        answer[role] = known if known is not None else raw.get(role + "_node_name")
    return answer


def predicted(raw, body, nodes):
    """What the panel would answer (as ``records.info``) when ``body`` is sent; ``raw`` is None for a new tunnel.

    Any change makes the panel forget what the ends reported. Where it would place them anew, nobody knows how.
    """
    merged = dict(raw or {}, **body)
    answer = records.info(raw) if raw else dict(records.NO_INFO, ends=[])
    answer.update(declared(merged, nodes), version=version(raw) + 1 if raw else 1)
    answer["status"] = "connecting" if merged.get("is_active") else "inactive"
    placed_anew = {"source_node_id", "target_node_id", "tunnel_type", "config"} & set(body)
    answer["ends"] = [] if placed_anew else [dict(end, status=None, error=None) for end in answer["ends"]]
    return answer
