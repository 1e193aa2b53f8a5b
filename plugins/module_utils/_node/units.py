# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""systemd's units on this host: what systemctl and the journal report, and what is added to a distribution's unit."""

from __future__ import annotations

import contextlib
import os
import re
from typing import Any, Dict, Iterable

from .._errors import printable
from .host import Host

#: ``load``, ``active``: systemd's words; ``enabled``: bool; ``since``: seconds of the monotonic clock, or None
Unit = Dict[str, Any]
_FOLDER = "/etc/systemd/system"
_PROPERTIES = "--property=Id,LoadState,ActiveState,UnitFileState,ActiveEnterTimestampMonotonic"


def command(units: Iterable[str]) -> tuple[str, ...]:
    """What ``states`` asks."""
    return ("systemctl", "show", "--no-pager", _PROPERTIES, *units)


def states(host: Host, units: Iterable[str]) -> dict[str, Unit]:
    """``{unit: Unit}`` of these units, asked for at once."""
    answer: dict[str, Unit] = {}
    argv = command(units)
    if argv == command(()):
        return answer
    for block in (host.query_or_fail(*argv) or "").split("\n\n"):
        values = dict(line.partition("=")[::2] for line in block.splitlines())
        if "Id" in values:
            since = values.get("ActiveEnterTimestampMonotonic", "0")
            answer[values["Id"]] = {
                "load": values.get("LoadState"),
                "active": values.get("ActiveState"),
                "enabled": values.get("UnitFileState") == "enabled",
                "since": int(since) / 1e6 if since.isdigit() and int(since) else None,
            }
    return answer


# What may be a key, or a line of one: nothing that we start says one, but what is quoted goes to the panel and beyond.
_KEY = re.compile(r"[0-9A-Fa-f]{32,}|[0-9A-Za-z+/]{40,}={0,2}")
_NOISE = ("[#]", "┌", "│", "└")  # the commands of wg-quick, and the banner of wireguard-go


def last_words(host: Host, unit: str, program: str) -> str:
    """The end of what ``program`` said in a unit's last start, as one line."""
    said = host.query("journalctl", "--no-pager", "--output=cat", "--lines=20", "--unit", unit, "--identifier", program)
    lines = [line for line in (said or "").splitlines() if line.strip() and not line.startswith(_NOISE)]
    return printable(_KEY.sub("********", " / ".join(lines[-3:]))) or "see journalctl -u %s" % unit


def path(unit: str) -> str:
    """The file of a unit that is ours."""
    return os.path.join(_FOLDER, unit)


def drop_in(unit: str) -> str:
    """The file with what we add to a unit."""
    return os.path.join(path(unit + ".d"), "marzban.conf")


def forget_drop_ins(host: Host, units: Iterable[str]) -> None:
    """Lets systemd forget what was added to these units, after the files are gone. What others added stays."""
    folders = [os.path.dirname(drop_in(unit)) for unit in units]
    there = [folder for folder in folders if os.path.isdir(folder)]
    for folder in there:
        with contextlib.suppress(OSError):
            os.rmdir(folder)
    if there:
        host.try_run("systemctl", "daemon-reload")
