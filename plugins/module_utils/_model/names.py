# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Names of nodes and tunnels: bounded, printable, and harmless where they are shown or written. Pure."""

from __future__ import annotations

import re
import unicodedata
from typing import Iterable, TypeVar, cast

from .._errors import FieldError, shown

T = TypeVar("T")
GROUP_PREFIX = "marzban_"
_NAME_HINT = (
    "Use 1 to 128 letters, digits, emoji, single spaces inside, and the characters . _ - ( ) #, "
    "and begin with a letter, a digit or an emoji."
)
NAME_LENGTH = 128
_EMOJI = "\u2190-\u2bff\U0001f000-\U0001faff"
NOT_IN_NAME = re.compile(
    "["
    # Of ASCII all but letters, digits and . _ - ( ) # and the space: what is left out means something in a host
    # pattern, a shell, a template or a file of settings
    "\\x00-\\x1f!\"$-'*+,/:-@\\[-^`{-\\x7f"
    # Controls, and spaces and line ends that can't be told from the plain ones
    "\\x80-\\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
    # Format characters (Cf): they can't be seen, or they turn the direction of what is around them
    "\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b\u200c\u200e\u200f\u202a-\u202e\u2060-\u206f"
    "\ufeff\ufff0-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e00ff\U000e01f0-\U000e0fff"
    # Half characters, private use, and what is never a character
    "\ud800-\uf8ff\ufdd0-\ufdef\ufffe\uffff\U000f0000-\U0010ffff"
    + "".join(chr(plane << 16 | end) for plane in range(1, 15) for end in (0xFFFE, 0xFFFF))
    # The zero width joiner is good between two emoji only (U+FE0F asks for the coloured form of the one before it)
    + "]|(?<![%s\ufe0f])\u200d|\u200d(?![%s])" % (_EMOJI, _EMOJI)
)
# Punctuation, and marks that would go onto what is shown before the name
NOT_FIRST = re.compile("[._()# \u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe00-\ufe0f\ufe20-\ufe2f-]")
_RESERVED = {
    "all",
    "ungrouped",
    "localhost",
    "localhost4",
    "localhost6",
    "localdomain",
    "loopback",
    "broadcasthost",
    "ip6-localhost",
    "ip6-loopback",
    "ipv6-localhost",
    "ipv6-loopback",
}


def _name(value: object, field: str) -> str:
    """A name that is bounded and can do no harm where it is shown or written.

    The panel's own list (checks.py) is stricter. Here no table of Unicode decides: each Python has its own, and a name
    that the panel's takes for letters would be unassigned characters on an older node.
    """
    if (
        not isinstance(value, str)
        or not 1 <= len(value) <= NAME_LENGTH
        or NOT_IN_NAME.search(value)
        or NOT_FIRST.match(value)
        or "  " in value
        or value.endswith(" ")
    ):
        raise FieldError(field, value, _NAME_HINT)
    return value


def composed(value: T) -> T:
    """A name in Unicode's composed form (NFC), as the panel keeps it, whatever the keyboard has made. What is not a
    text stays as it is."""
    return cast(T, unicodedata.normalize("NFC", value)) if isinstance(value, str) else value


def alike(name: str) -> str:
    """What names have in common that people may take for each other: in upper or lower case, fullwidth, with a letter
    and its accent in one sign or in two. The panel's checks.py has the same."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def check_alike(name: str, field: str, named: dict[str, str]) -> None:
    """Refuses a name that looks like another one. ``named`` has all names of a list or a panel by their look, and
    grows. The same name twice is for others to refuse."""
    other = named.setdefault(alike(name), name)
    if other != name:
        raise FieldError(field, name, "It looks like the name %s: choose one that can be told from it." % shown(other))


def by_look(names: Iterable[object]) -> dict[str, str]:
    """``{what they look like: name}``, for ``check_alike``; what is not a text is left out."""
    return {alike(name): name for name in names if isinstance(name, str)}


def tunnel_name(value: object, field: str = "name") -> str:
    """A tunnel's name, as it is: a panel of before version 4 has names that are not composed."""
    return _name(value, field)


def node_name(value: object, field: str = "name") -> str:
    """A node's name. It is a host's name in Ansible too, so names with a meaning of their own there are refused."""
    name = _name(value, field)
    plain = unicodedata.normalize("NFKC", name).casefold().rstrip(".")
    reserved = (
        plain in _RESERVED
        or plain.startswith(("localhost.", GROUP_PREFIX))
        or plain.endswith(".localhost")
        or re.match(r"127(\.[0-9]+){1,3}\Z", plain)
        or re.match(r"0+(\.0+){0,3}\Z", plain)
    )
    if reserved:
        raise FieldError(
            field,
            value,
            "Ansible takes this name for the controller, a group, or a loopback address: rename the node on the panel.",
        )
    return name
