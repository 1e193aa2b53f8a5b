# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Marzban's ``.env``: what it says, and the add-on's settings in it. Pure.

Ours are at the beginning: a file of this kind often ends without a line's end.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any

from .._errors import FieldError
from . import marked_block

# Class, shortest and longest prefix, an example: as in the add-on's settings.py
POOLS: dict[str, tuple[Any, int, int, str]] = {
    "TUNNEL_IPV4_POOL": (ipaddress.IPv4Network, 8, 29, "10.201.0.0/16"),
    "TUNNEL_IPV6_POOL": (ipaddress.IPv6Network, 32, 124, "fd6d:7a00::/64"),
}
PORTS = "TUNNEL_PORT_RANGE"
MADE = marked_block.BEGIN + " (and this file)"
_OWN = re.compile(r"TUNNEL_[A-Z0-9_]+=")
_ASSIGNMENT = re.compile(
    r"""^[^\S\n]*(?:export[^\S\n]+)?(?P<name>[A-Za-z_][\w.-]*)[^\S\n]*=[^\S\n]*
        (?:'(?P<single>(?:[^'\\]|\\.)*)'|"(?P<double>(?:[^"\\]|\\.)*)"|(?P<bare>[^\n]*))""",
    re.MULTILINE | re.DOTALL | re.VERBOSE,
)


def checked(settings: Mapping[str, Any]) -> dict[str, str]:
    """The settings in their canonical form, in order. Raises FieldError."""
    answer = {}
    for name in sorted(settings):
        value = str(settings[name])
        if name in POOLS:
            kind, widest, narrowest, example = POOLS[name]
            hint = "Give a network from /%d to /%d, such as %s." % (widest, narrowest, example)
            try:
                network = kind(value)
            except ValueError:
                raise FieldError(name, value, hint) from None
            if not widest <= network.prefixlen <= narrowest:
                raise FieldError(name, value, hint)
            answer[name] = str(network)
        elif name == PORTS:
            found = re.match(r"([0-9]{1,5})-([0-9]{1,5})\Z", value)
            if not found or not 1 <= int(found.group(1)) <= int(found.group(2)) <= 65535:
                raise FieldError(name, value, "Give the first and the last port, such as 20000-32767.")
            answer[name] = "%d-%d" % (int(found.group(1)), int(found.group(2)))
        else:
            raise FieldError("settings", name, "The add-on's settings are %s." % ", ".join([*POOLS, PORTS]))
    return answer


def read(text: str) -> dict[str, str]:
    """``{name: value}`` of a file's assignments, as Marzban's own reader of it takes them."""
    answer = {}
    for found in _ASSIGNMENT.finditer(text):
        if found["bare"] is not None:
            value = re.sub(r"(^|\s)#.*", "", found["bare"]).strip()
        else:
            value = found["single"] if found["single"] is not None else found["double"]
            value = re.sub(r"\\(['\"\\])", r"\1", value)
        answer[found["name"]] = value
    return answer


def block(text: str | None, path: str) -> str:
    """The lines that the add-on has put into the file."""
    return marked_block.block(text or "", path, _OWN)


def without_settings(text: str | None, path: str) -> str | None:
    """The file's text without ours; None where there is no file, or it was made for ours alone. Raises EditError."""
    if text is None:
        return None
    rest = marked_block.without(text, path, _OWN)
    return None if not rest and block(text, path).startswith(MADE) else rest


def with_settings(text: str | None, path: str, settings: Mapping[str, str]) -> str | None:
    """The file's text with ours, the checked ones. Raises EditError."""
    rest = without_settings(text, path)
    if not settings:
        return rest
    marked_block.no_text(path, rest or "")
    lines = marked_block.lines_of(rest or "")
    for number, line in enumerate(lines, 1):
        found = _ASSIGNMENT.match(line)
        if found and found["name"] in settings:
            hint = (
                "Take the line out, and give the value in settings (panel_settings in the role), or leave it out there."
            )
            raise marked_block.EditError(path, number, "%s is set by hand." % found["name"], hint)
    ours = ["%s=%s" % pair for pair in settings.items()]
    return marked_block.put(lines, 0, ours, begin=MADE if rest is None else marked_block.BEGIN)
