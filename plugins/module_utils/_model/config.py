# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an operator chose for a tunnel: the JSON object in a record's config. Pure."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from .._errors import FieldError
from . import validators

LENGTH = 65536  # bytes, as the panel limits it
DEPTH = 16  # levels


def _plain(value: object, field: str, depth: int = 0) -> None:
    """Refuses what could not be passed on in a config: deep nesting, infinite numbers, half characters."""
    if depth > DEPTH:
        raise FieldError(field, value, "It is nested too deep: at most %d levels." % DEPTH)
    if isinstance(value, dict):
        for key, item in value.items():
            _plain(key, field, depth + 1)
            _plain(item, field, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _plain(item, field, depth + 1)
    elif isinstance(value, str):
        if any("\ud800" <= char <= "\udfff" for char in value):
            raise FieldError(field, value, "It contains half a character (a lone surrogate): type it again.")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise FieldError(field, value, "Give a finite number.")
    elif value is not None and not isinstance(value, (bool, int)):
        raise FieldError(field, value, "Give texts, numbers, true, false, null, lists and dictionaries only.")


_END_KEYS: dict[str, validators.Check[Any]] = {
    "endpoint": validators.endpoint,
    "port": validators.port,
    "endpoint_port": validators.port,
    "interface": validators.interface,
    "addresses": lambda value, field: validators.unique_list(value, field, validators.interface_address, least=1),
    "routes": lambda value, field: validators.unique_list(value, field, validators.route),
}
_CONFIG_KEYS: dict[str, validators.Check[Any]] = {
    "mtu": validators.mtu,
    "keepalive": validators.keepalive,
    "dial": lambda value, field: validators.choice(value, field, validators.DIALS),
    "transport": lambda value, field: validators.choice(value, field, validators.TRANSPORTS),
    "post_quantum": lambda value, field: validators.choice(value, field, validators.POST_QUANTUM),
}


def check(value: object, field: str = "config") -> dict[str, Any]:
    """A tunnel's config, returned as it is. Known keys are checked, others are kept; null means: not chosen."""
    given = validators.mapping(value, field)
    _plain(given, field)
    for key, rule in _CONFIG_KEYS.items():
        if given.get(key) is not None:
            rule(given[key], "%s.%s" % (field, key))
    for role in validators.ROLES:
        if given.get(role) is None:
            continue
        end = validators.mapping(given[role], "%s.%s" % (field, role))
        for key, rule in _END_KEYS.items():
            if end.get(key) is not None:
                rule(end[key], "%s.%s.%s" % (field, role, key))
    return given


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def parse(text: object, field: str = "config") -> dict[str, Any]:
    """The dict in the panel's string of JSON, checked. Raises FieldError."""
    if not isinstance(text, str) or len(text.encode("utf-8", "surrogatepass")) > LENGTH:
        raise FieldError(field, text, "Give a text of at most 64 KiB that contains a JSON object.")
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise FieldError(field, text, "It is not a valid JSON object.") from None
    return check(value, field)
