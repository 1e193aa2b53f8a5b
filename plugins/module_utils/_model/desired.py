# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an operator declares of a tunnel, and how that differs from the panel's record. Pure.

What is desired is a dict in the words of the wire (``name``, ``source_node_id``, ``target_node_id``, ``tunnel_type``,
``config`` as a dict, ``is_active``) with what was declared and nothing else: what is missing stays as it is.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Iterable, Mapping

from .._errors import FieldError, not_none, shown
from . import config, records, validators
from .names import composed
from .types import DEFAULT_TYPE, TYPES

if TYPE_CHECKING:
    from .shapes import Raw

# Of a tunnel that is created, where nothing was declared
DEFAULTS: Raw = {"tunnel_type": DEFAULT_TYPE, "config": {}, "is_active": True}


def tunnel_argument_spec() -> dict[str, dict[str, Any]]:
    """The options that declare one tunnel."""
    return {
        "name": {"type": "str", "required": True},
        "source": {"type": "str"},
        "target": {"type": "str"},
        "type": {"type": "str", "choices": list(TYPES)},
        "config": {"type": "dict"},
        "active": {"type": "bool"},
    }


class Nodes:
    """The panel's nodes, found by name or id."""

    def __init__(self, raws: Iterable[Raw]) -> None:
        self._ids: dict[str, object] = {}  # by name
        self._names: dict[str, Any] = {}  # by id, as a text
        for raw in raws:
            node_id, name = raw.get("id"), raw.get("name")
            if isinstance(name, str):
                self._ids[name] = node_id
            if isinstance(node_id, int) and not isinstance(node_id, bool):
                self._names[str(node_id)] = name

    def find(self, given: str, field: str) -> int:
        """The id of the node ``given`` by its name (case counts) or its id. Raises FieldError."""
        if given in self._ids:
            return validators.integer(self._ids[given], field, 1, records.MAX_ID)
        if given in self._names:
            return int(given)
        names = ", ".join(shown(name) for name in sorted(self._ids)[:20])
        hint = "Its nodes: %s." % names if names else "It has no nodes yet."
        raise FieldError(field, given, "The panel has no such node. " + hint)

    def name(self, node_id: object) -> Any:
        """The name of the node with this id, unchecked; None if there is no such node."""
        return self._names.get(str(node_id))


def from_options(options: Mapping[str, Any], nodes: Nodes | None, field: str = "") -> Raw:
    """What ``options`` (of ``tunnel_argument_spec``) declare, checked. ``field`` goes before the names in errors.

    ``nodes`` may be None where the options name no node.
    """
    want: Raw = {"name": validators.tunnel_name(composed(options["name"]), field + "name")}
    for role in validators.ROLES:
        if options.get(role) is not None:
            want[role + "_node_id"] = not_none(nodes, "asked for").find(options[role], field + role)
    if want.get("source_node_id") is not None and want.get("source_node_id") == want.get("target_node_id"):
        raise FieldError(field + "target", options["target"], "It is the source too: choose two different nodes.")
    if options.get("type") is not None:
        want["tunnel_type"] = validators.tunnel_type(options["type"], field + "type")
    if options.get("config") is not None:
        want["config"] = config.check(options["config"], field + "config")
    if options.get("active") is not None:
        want["is_active"] = options["active"]
    return want


def find(raws: Iterable[Raw], name: str) -> Raw | None:
    """The panel's tunnel of this name (case counts), or None. Raises FieldError when there are several.

    An older panel may have two names that differ in composition only: then the one that is written the same counts.
    """
    alike = [raw for raw in raws if composed(raw.get("name")) == composed(name)]
    found = [raw for raw in alike if raw.get("name") == name] or alike
    if len(found) > 1:
        raise FieldError("name", name, "The panel has %d tunnels of this name: rename them there." % len(found))
    return found[0] if found else None


def find_to_rename(raws: Iterable[Raw], name: str, new_name: str) -> Raw:
    """The panel's tunnel of one of the two names. Raises FieldError where there are both, or neither."""
    raws = list(raws)
    old, new = find(raws, name), find(raws, new_name)
    if old and new and old is not new:
        raise FieldError("new_name", new_name, "Another tunnel has this name: choose another, or delete that tunnel.")
    found = old or new
    if found is None:
        raise FieldError("name", name, "The panel has no such tunnel to rename.")
    return found


def version(raw: Raw) -> int:
    """The version to send with a change of ``raw``."""
    return validators.version(raw.get("version"))


def config_of(raw: Raw) -> Any:
    """The panel's config as a dict; as it is, where it can't be read."""
    try:
        return config.parse(raw.get("config"))
    except FieldError:
        return raw.get("config")


def _same(value: object, other: object) -> bool:
    # As JSON, where 1 is not true.
    return json.dumps(value, sort_keys=True) == json.dumps(other, sort_keys=True)


def body_to_create(want: Raw, field: str = "") -> Raw:
    """The body of the panel's call. Raises FieldError when an end is missing."""
    for role in validators.ROLES:
        if want.get(role + "_node_id") is None:
            raise FieldError(field + role, None, "The tunnel does not exist yet: give both nodes to create it.")
    return dict(DEFAULTS, **want)


def body_to_update(want: Raw, raw: Raw, field: str = "") -> Raw:
    """What differs between ``want`` and the panel's ``raw``; empty where nothing does."""
    now = dict(raw, config=config_of(raw))
    body = {key: value for key, value in want.items() if not _same(value, now.get(key))}
    merged = dict(now, **body)
    if merged.get("source_node_id") == merged.get("target_node_id"):
        raise FieldError(
            field + "source", merged.get("source_node_name"), "Both ends would be this node: give the other too."
        )
    return body


def to_wire(body: Raw) -> Raw:
    """``body`` with its config as the string of JSON that the panel takes."""
    return dict(body, config=json.dumps(body["config"])) if "config" in body else body


def declared(raw: Raw, nodes: Nodes | None = None) -> dict[str, Any]:
    """The part of a tunnel that an operator declares, for a diff. ``raw`` may be what ``body_to_create`` made."""
    answer = {"name": raw.get("name"), "type": raw.get("tunnel_type"), "active": raw.get("is_active")}
    answer["config"] = raw["config"] if isinstance(raw.get("config"), dict) else config_of(raw)
    for role in validators.ROLES:
        known = nodes.name(raw.get(role + "_node_id")) if nodes else None
        answer[role] = known if known is not None else raw.get(role + "_node_name")
    return answer


def predicted(raw: Raw | None, body: Raw, nodes: Nodes | None) -> dict[str, Any]:
    """What the panel would answer (as ``records.info``) when ``body`` is sent; ``raw`` is None for a new tunnel.

    Any change makes the panel forget what the ends reported. Where it would choose new ends, they are empty. When the
    status would become another one is not known: ``since`` is None then.
    """
    merged = {**(raw or {}), **body}
    answer = records.info(raw) if raw else {**records.NO_INFO, "ends": []}
    answer.update(declared(merged, nodes), version=version(raw) + 1 if raw else 1)
    former, answer["status"] = answer["status"], "connecting" if merged.get("is_active") else "inactive"
    answer["since"] = answer["since"] if answer["status"] == former else None
    placed_again = {"source_node_id", "target_node_id", "tunnel_type", "config"} & set(body)
    answer["ends"] = [] if placed_again else [dict(end, status=None, error=None) for end in answer["ends"]]
    return answer
