# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Nodes: what the panel says about them, and how that differs from what is declared. Pure."""

from __future__ import annotations

import re

from .._errors import FieldError, printable
from . import validators

# Everything that is passed on of a node: other panels hold a node's API key among its fields.
_KNOWN = ("id", "name", "address", "port", "api_port", "status", "usage_coefficient", "xray_version")
# What the panel gives a new node where nothing is declared
DEFAULTS = {"port": 62050, "api_port": 62051, "usage_coefficient": 1.0}


def info(raw):
    """The fields of a node that are of use, and its message as one line."""
    answer = {key: raw.get(key) for key in _KNOWN}
    message = raw.get("message")
    answer["message"] = printable(message) if isinstance(message, str) else None
    return answer


def checked(raw):
    """The same for use as a host: name and address are in order (or FieldError), other fields that aren't are None."""

    def maybe(key, check):
        try:
            return check(raw.get(key), key)
        except FieldError:
            return None

    node = info(raw)
    node.update(name=validators.node_name(raw.get("name")), address=validators.endpoint(raw.get("address"), "address"))
    node.update({key: maybe(key, check) for key, check in _MAYBE.items()})
    return node


def _version(value, field):
    if not isinstance(value, str) or not re.match(r"[0-9A-Za-z][0-9A-Za-z.+-]{0,31}\Z", value):
        raise FieldError(field, value, "Give a version.")
    return value


def coefficient(value, field="usage_coefficient"):
    """More than 0: with less the panel breaks."""
    if validators.non_negative(value, field) <= 0:
        raise FieldError(field, value, "Give a number above 0: with others the panel fails from then on.")
    return float(value)


_MAYBE = {
    "id": lambda value, field: validators.integer(value, field, 1, 2**63 - 1),
    "port": validators.port,
    "api_port": validators.port,
    "status": lambda value, field: validators.choice(value, field, validators.NODE_STATUSES),
    "usage_coefficient": validators.non_negative,
    "xray_version": _version,
}
_FIELDS = {
    "address": validators.endpoint,
    "port": validators.port,
    "api_port": validators.port,
    "usage_coefficient": coefficient,
}


def wanted(options):
    """What ``options`` declare of a node (``new_name`` and ``status`` left out), checked and canonical."""
    return {key: check(options[key], key) for key, check in _FIELDS.items() if options.get(key) is not None}


def difference(want, raw):
    """What of ``want`` is not so in ``raw``."""
    body = {}
    for key, value in want.items():
        try:
            now = _FIELDS[key](raw.get(key), key) if key in _FIELDS else raw.get(key)
        except FieldError:
            now = None
        if now != value:
            body[key] = value
    return body


def declared(raw):
    """The part of a node that an operator declares, for a diff."""
    answer = {key: raw.get(key) for key in ("name", "address", "port", "api_port", "usage_coefficient")}
    answer["status"] = "disabled" if raw.get("status") == "disabled" else "enabled"
    return answer
