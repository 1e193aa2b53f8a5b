# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A drop-in for Marzban's systemd unit, which runs the add-on's entry where the unit runs ``main.py``. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable

from .._errors import Error, shown

NAME = "marzban-tunnels.conf"
_MAIN = re.compile(r"(?<!\S)(?:[^\s\"'\\]*/)?main\.py(?!\S)")


def exec_start(texts: Iterable[str], unit: str) -> str:
    """The one ExecStart of a unit's files, in the order in which systemd reads them, as it is written. Raises Error."""
    found: list[str] = []
    for text in texts:
        section = None
        for line in re.sub(r"\\\n(?:[^\S\n]*[#;][^\n]*\n)*", " ", text).splitlines():
            line = line.strip()
            if re.match(r"\[.*\]$", line):
                section = line
            given = re.match(r"ExecStart\s*=\s*(.*)$", line)
            if given and section == "[Service]":
                found = [*found, given[1]] if given[1] else []
    if len(found) != 1:
        raise Error(
            "The unit %s has %s, and one is expected, which runs main.py with Marzban's Python. Correct the unit."
            % (unit, "no ExecStart" if not found else "%d of them (ExecStart)" % len(found))
        )
    return found[0]


def replaced(command: str, unit: str, directory: str) -> str:
    """The ExecStart with the add-on's entry in place of main.py. Raises Error."""
    if len(_MAIN.findall(command)) != 1:
        raise Error(
            "The unit %s runs %s, and one word of it is expected to be main.py or a path to it, without quotes. Write "
            "it so, as Marzban's install_service.sh does." % (unit, shown(command))
        )
    return _MAIN.sub(lambda _found: directory + "/start.py", command)


def python(command: str) -> list[str]:
    """The words before main.py: Marzban's Python."""
    return shlex.split(_MAIN.split(command)[0].lstrip("@-:+!"))


def text(command: str) -> str:
    """The drop-in's text."""
    return (
        "# The role panel of marzban.tunnels has written this file, and takes it away.\n"
        "[Service]\nExecStart=\nExecStart=%s\n" % command
    )
