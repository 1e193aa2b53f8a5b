# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hand-written lists of tunnels, for those without a panel, in the shape of records. Pure."""

from __future__ import annotations

import contextlib
import json
import uuid

from .._errors import FieldError
from . import config as model_config
from . import validators
from .records import MAX_ID, broken_record, parse_all

_NAMESPACE = uuid.UUID("6f1f0a52-9a0e-4d57-8d4c-6d7a6d9b8f21")  # of the panels that are hand-written lists
_HAND_WRITTEN = ("name", "id", "type", "source", "target", "active", "config", "public")


def panel_id(name):
    """The id of the panel that a hand-written list stands for: a UUIDv5 of its ``name``."""
    return str(uuid.uuid5(_NAMESPACE, validators.tunnel_name(name, "list_name")))


def from_list(listed, panel):
    """``(records, broken)`` of a hand-written list. ``panel`` is its name. Raises FieldError if it is no list."""
    place = panel_id(panel)
    if not isinstance(listed, (list, tuple)):
        raise FieldError("records", listed, "Give a list of tunnels.")
    node_ids = {}
    raws, broken = [], []
    for index, item in enumerate(listed):
        try:
            raws.append(_as_the_panel_has_it(item, "records[%d]" % index, place, node_ids))
        except FieldError as error:
            broken.append(broken_record(_as_far_as_known(item, place), error))
    records, refused = parse_all(raws)
    return records, broken + refused


def _as_far_as_known(item, place):
    """What a hand-written tunnel that is wrong tells about itself."""
    if not isinstance(item, dict):
        return {}
    known = {"id": item.get("id"), "name": item.get("name")}
    known.update(("%s_node_name" % role, item.get(role)) for role in validators.ROLES)
    with contextlib.suppress(FieldError):
        known["uuid"] = str(uuid.uuid5(uuid.UUID(place), validators.tunnel_name(item.get("name"))))
    return known


def _as_the_panel_has_it(item, field, place, node_ids):
    """A hand-written tunnel in the shape of the wire, so that it passes the same checks."""
    validators.mapping(item, field)
    for key in sorted(set(item) - set(_HAND_WRITTEN)):
        raise FieldError(field, key, "There is no such key: the keys are %s." % ", ".join(_HAND_WRITTEN))
    name = validators.tunnel_name(item.get("name"), field + ".name")
    number = validators.integer(item.get("id"), field + ".id", 1, MAX_ID)
    config = model_config.check(item.get("config", {}), field + ".config")
    public = validators.mapping(item.get("public") or {}, field + ".public")
    nodes = {role: validators.node_name(item.get(role), "%s.%s" % (field, role)) for role in validators.ROLES}
    for node in sorted(set(public) - set(nodes.values())):
        raise FieldError(
            field + ".public", node, "It is at neither end: the ends are %s." % " and ".join(nodes.values())
        )
    raw = {
        "id": number,
        "uuid": str(uuid.uuid5(uuid.UUID(place), name)),
        "name": name,
        "tunnel_type": item.get("type", "wireguard"),
        "is_active": item.get("active", True),
        "version": 1,
        "status": "connecting",
        "config": json.dumps(config),
        "ends": [],
    }
    for role, node in nodes.items():
        chosen = config.get(role) or {}
        if item.get("type") == "ipsec" and chosen.get("port") is None:
            chosen = dict(chosen, port=validators.IPSEC_PORT)
        for key in ("endpoint", "port", "addresses"):
            if chosen.get(key) is None:
                where = "%s.config.%s.%s" % (field, role, key)
                raise FieldError(where, None, "A list without a panel has to give it: nobody chooses it for you.")
        node_id = node_ids.setdefault(node, len(node_ids) + 1)
        raw["%s_node_id" % role] = node_id
        raw["%s_node_name" % role] = node
        end = {"role": role, "node": node, "node_id": node_id, "public": public.get(node)}
        end.update((key, chosen[key]) for key in ("endpoint", "port", "addresses"))
        end["interface"] = chosen.get("interface") or "mz%d" % number
        end["routes"] = chosen.get("routes") or []
        raw["ends"].append(end)
    return raw
