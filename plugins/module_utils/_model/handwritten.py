# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hand-written lists of tunnels, for those without a panel, in the shape of records. Pure."""

from __future__ import annotations

import contextlib
import json
import uuid
from typing import TYPE_CHECKING, Any

from .._errors import FieldError
from . import config as model_config
from . import names, validators
from .records import MAX_ID, broken_record, parse_all
from .types import BY_TYPE, DEFAULT_TYPE, TYPES

if TYPE_CHECKING:
    from .shapes import Broken, Record

_NAMESPACE = uuid.UUID("6f1f0a52-9a0e-4d57-8d4c-6d7a6d9b8f21")  # of the panels that are hand-written lists
_HAND_WRITTEN = ("name", "id", "type", "source", "target", "active", "config", "public")


def panel_id(name: object) -> str:
    """The id of the panel in whose place a hand-written list is: a UUIDv5 of the list's ``name``."""
    return str(uuid.uuid5(_NAMESPACE, validators.tunnel_name(name, "list_name")))


def from_list(listed: object, list_name: object) -> tuple[list[Record], list[Broken]]:
    """The records of a hand-written list, and what can't be a record. Raises FieldError if it is not a list."""
    panel = uuid.UUID(panel_id(list_name))
    if not isinstance(listed, (list, tuple)):
        raise FieldError("records", listed, "Give a list of tunnels.")
    node_ids: dict[str, int] = {}
    raws: list[dict[str, Any]] = []
    named: dict[str, str] = {}
    broken: list[Broken] = []
    for index, item in enumerate(listed):
        try:
            raw = _as_the_panel_has_it(item, "records[%d]" % index, panel, node_ids)
            names.check_alike(raw["name"], "records[%d].name" % index, named)
            raws.append(raw)
        except FieldError as error:
            broken.append(broken_record(_as_far_as_known(item, panel), error))
    records, refused = parse_all(raws)
    return records, broken + refused


def _as_far_as_known(item: object, panel: uuid.UUID) -> dict[str, Any]:
    """What a hand-written tunnel with an error says about itself, in the words of the wire."""
    if not isinstance(item, dict):
        return {}
    known = {"id": item.get("id"), "name": item.get("name")}
    known.update((role + "_node_name", item.get(role)) for role in validators.ROLES)
    with contextlib.suppress(FieldError):
        known["uuid"] = str(uuid.uuid5(panel, validators.tunnel_name(item.get("name"))))
    return known


def _as_the_panel_has_it(value: object, field: str, panel: uuid.UUID, node_ids: dict[str, int]) -> dict[str, Any]:
    """A hand-written tunnel in the shape of the wire, so that it passes the same checks.

    ``node_ids`` numbers the nodes of the list, and grows.
    """
    item = validators.mapping(value, field)
    for key in sorted(set(item) - set(_HAND_WRITTEN)):
        raise FieldError(field, key, "There is no such key: the keys are %s." % ", ".join(_HAND_WRITTEN))
    name = validators.tunnel_name(item.get("name"), field + ".name")
    tunnel_id = validators.integer(item.get("id"), field + ".id", 1, MAX_ID)
    config = model_config.check(item.get("config", {}), field + ".config")
    public = validators.mapping(item.get("public") or {}, field + ".public")
    nodes = {role: validators.node_name(item.get(role), "%s.%s" % (field, role)) for role in validators.ROLES}
    for node in sorted(set(public) - set(nodes.values())):
        raise FieldError(
            field + ".public", node, "The tunnel does not end there: its ends are %s." % " and ".join(nodes.values())
        )
    kind = item.get("type", DEFAULT_TYPE)
    shared_ports = BY_TYPE[kind].shared_ports if kind in TYPES else ()
    raw: dict[str, Any] = {
        "id": tunnel_id,
        "uuid": str(uuid.uuid5(panel, name)),
        "name": name,
        "tunnel_type": kind,
        "is_active": item.get("active", True),
        "version": 1,
        "status": "connecting",
        "config": json.dumps(config),
        "ends": [],
    }
    for role, node in nodes.items():
        chosen = config.get(role) or {}
        if shared_ports and chosen.get("port") is None:
            chosen = dict(chosen, port=shared_ports[0])
        for key in ("endpoint", "port", "addresses"):
            if chosen.get(key) is None:
                where = "%s.config.%s.%s" % (field, role, key)
                raise FieldError(where, None, "A list without a panel has to give it: only a panel chooses values.")
        node_id = node_ids.setdefault(node, len(node_ids) + 1)
        raw[role + "_node_id"] = node_id
        raw[role + "_node_name"] = node
        end = {"role": role, "node": node, "node_id": node_id, "public": public.get(node)}
        end.update((key, chosen[key]) for key in ("endpoint", "port", "addresses"))
        end["endpoint_port"] = chosen.get("endpoint_port") or chosen["port"]
        end["interface"] = chosen.get("interface") or "mz%d" % tunnel_id
        end["routes"] = chosen.get("routes") or []
        raw["ends"].append(end)
    return raw
