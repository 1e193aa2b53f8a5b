# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Nodes: what the panel says about them, and how that differs from what is declared. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Mapping, cast

from .._errors import FieldError, printable
from . import validators

if TYPE_CHECKING:
    from .shapes import Node, Raw

# Everything that is passed on of a node: other panels hold a node's API key among its fields.
_KNOWN = ("id", "name", "address", "port", "api_port", "status", "usage_coefficient", "xray_version")
# What the panel gives a new node where nothing is declared
DEFAULTS: Raw = {"port": 62050, "api_port": 62051, "usage_coefficient": 1.0}


def info(raw: Raw) -> Node:
    """A node as the panel has it, unchecked: the fields that are passed on, and its message as one line."""
    answer = {key: raw.get(key) for key in _KNOWN}
    message = raw.get("message")
    answer["message"] = printable(message) if isinstance(message, str) else None
    return cast("Node", answer)


def checked(raw: Raw) -> Node:
    """A node that can be a host. Raises FieldError on its name and its address; another field that is wrong is None."""
    node = {key: validators.if_valid(check, raw.get(key)) for key, check in _MAYBE.items()}
    node["name"] = validators.node_name(raw.get("name"))
    node["address"] = validators.endpoint(raw.get("address"), "address")
    return cast("Node", {**info(raw), **node})


def _version(value: object, field: str) -> str:
    if not isinstance(value, str) or not re.match(r"[0-9A-Za-z][0-9A-Za-z.+-]{0,31}\Z", value):
        raise FieldError(field, value, "Give a version.")
    return value


def coefficient(value: object, field: str = "usage_coefficient") -> float:
    """More than 0: with less the panel breaks."""
    number = validators.non_negative(value, field)
    if number <= 0:
        raise FieldError(field, value, "Give a number above 0: with others the panel fails from then on.")
    return float(number)


_MAYBE: dict[str, validators.Check[Any]] = {
    "id": lambda value, field: validators.integer(value, field, 1, 2**63 - 1),
    "port": validators.port,
    "api_port": validators.port,
    "status": lambda value, field: validators.choice(value, field, validators.NODE_STATUSES),
    "usage_coefficient": validators.non_negative,
    "xray_version": _version,
}
_FIELDS: dict[str, validators.Check[Any]] = {
    "address": validators.endpoint,
    "port": validators.port,
    "api_port": validators.port,
    "usage_coefficient": coefficient,
}


def from_options(options: Mapping[str, Any]) -> Raw:
    """What ``options`` declare of a node (``new_name`` and ``status`` left out), checked and canonical."""
    return {key: check(options[key], key) for key, check in _FIELDS.items() if options.get(key) is not None}


def difference(want: Raw, raw: Raw) -> Raw:
    """What of ``want`` is different in ``raw``."""
    body = {}
    for key, value in want.items():
        try:
            now = _FIELDS[key](raw.get(key), key) if key in _FIELDS else raw.get(key)
        except FieldError:
            now = None
        if now != value:
            body[key] = value
    return body


def declared(raw: Raw) -> dict[str, Any]:
    """The part of a node that an operator declares, for a diff."""
    answer = {key: raw.get(key) for key in ("name", "address", "port", "api_port", "usage_coefficient")}
    answer["status"] = "disabled" if raw.get("status") == "disabled" else "enabled"
    return answer
