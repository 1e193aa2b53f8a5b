# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Lines of ours in a file that is somebody else's, between two comments that say whose they are. Pure.

Whole lines are put in before a line that is there, so that all others stay byte for byte, and so that taking ours out
gives them back, whatever became of them in the meantime: line endings, a last line without one, the operator's changes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from re import Pattern

from .._errors import Error, shown

BEGIN = "# marzban.tunnels: begin (the role panel has written these lines, and takes them away)"
END = "# marzban.tunnels: end"
_BEGIN = re.compile(r"\s*# marzban\.tunnels: begin\b")
_END = re.compile(r"\s*# marzban\.tunnels: end\b")


class EditError(Error):
    """A file that can't be edited safely. ``line`` counts from 1; ``hint`` says what to do by hand."""

    def __init__(self, path: str, line: int, seen: str, hint: str) -> None:
        super().__init__("%s, line %d: %s %s" % (path, line, seen, hint))


def lines_of(text: str) -> list[str]:
    """The lines with their endings. Only a line feed ends one, as the programs that read these files have it."""
    return re.findall(r"[^\n]*\n|[^\n]+\Z", text)


def newline_of(lines: list[str], place: int) -> str:
    """The ending of the line at ``place``, or, where it is the last and has none, of the one before it."""
    ending = next((line for line in lines[place : place - 2 if place > 1 else None : -1] if line.endswith("\n")), "\n")
    return "\r\n" if ending.endswith("\r\n") else "\n"


def _span(text: str, path: str, own: Pattern[str]) -> tuple[list[str], int | None, int | None]:
    """``(lines, place of the first line of ours, place after the last)``; the places are None without any."""
    lines = lines_of(text)
    begins, ends = ([n for n, line in enumerate(lines) if mark.match(line)] for mark in (_BEGIN, _END))
    if not begins and not ends:
        return lines, None, None
    if len(begins) != 1 or len(ends) != 1 or begins[0] > ends[0]:
        line = ([*begins[1:], *ends[1:], *begins, *ends])[0]
        hint = "Take the lines out by hand from the one that begins so to the one that ends, and run again."
        raise EditError(path, line + 1, "the marks of marzban.tunnels are not there once each, in order.", hint)
    for place in range(begins[0] + 1, ends[0]):
        if not own.match(lines[place]):
            # Not shown: nobody knows what it is, and these files hold passwords.
            seen = "it is between the marks of marzban.tunnels, and is not one of its lines."
            raise EditError(path, place + 1, seen, "Move it out of there, and run again.")
    return lines, begins[0], ends[0] + 1


def block(text: str, path: str, own: Pattern[str]) -> str:
    """Our lines in a text with their marks, "" without any. ``own`` matches each line between the marks."""
    lines, first, after = _span(text, path, own)
    return "" if first is None else "".join(lines[first:after])


def without(text: str, path: str, own: Pattern[str]) -> str:
    """The text as it is without our lines. Raises EditError."""
    lines, first, after = _span(text, path, own)
    return text if first is None else "".join(lines[:first] + lines[after:])


def put(lines: list[str], place: int, ours: Sequence[str], indent: str = "", begin: str = BEGIN) -> str:
    """The text of ``lines`` with ours (without endings) before the one at ``place``."""
    newline = newline_of(lines, place)
    marked = [indent + line + newline for line in (begin, *ours, END)]
    return "".join(lines[:place] + marked + lines[place:])


def no_text(path: str, text: str) -> None:
    """Refuses what no editor of lines can be sure of. Raises EditError."""
    for number, line in enumerate(lines_of(text), 1):
        found = re.search("[\x00\ufeff\x85\u2028\u2029]|\r(?!\n)", line)
        if found:
            seen = "it holds the character %s." % shown(found.group())
            raise EditError(path, number, seen, "Take it out (a text editor may hide it), and run again.")
