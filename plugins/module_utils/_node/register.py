# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What of the whole host was changed for tunnels, and what it was before: the texts of ``host.json``. Pure.

Whatever else a tunnel has is its own and goes with it. A setting of the whole host goes with the last tunnel that needs
it, and not where somebody else has changed it meanwhile.
"""

from __future__ import annotations

import json
from typing import Any, Callable, Collection, Dict, List, Mapping, NamedTuple

from .._errors import Error, FieldError
from .._model import validators
from .files import check_path

FILE = "host.json"


class Entry(NamedTuple):
    """One file (a sysctl is one too, below /proc/sys)."""

    before: "str | None"  # its text before the first tunnel needed it; None: there was no such file
    after: str  # what was written
    tunnels: List[str]  # uuids of those that need it, sorted
    folder: bool = False  # its folder was made for it, too


Register = Dict[str, Entry]  # by path


def parse(text: str | None) -> Register:
    """The register in a text, empty where there is none. Raises Error on one that is damaged."""
    if text is None:
        return {}
    try:
        return {check_path(path, "path"): _entry(raw) for path, raw in json.loads(text).items()}
    except (Error, ValueError, TypeError, KeyError, AttributeError):
        raise Error("It is damaged.") from None


def _entry(raw: Any) -> Entry:
    before, after, tunnels = raw["before"], raw["after"], raw["tunnels"]
    if not isinstance(after, str) or not (before is None or isinstance(before, str)) or not isinstance(tunnels, list):
        raise FieldError("entry", raw, "It has another shape.")
    return Entry(before, after, sorted(validators.uuid(uuid) for uuid in tunnels), raw.get("folder") is True)


def text_of(register: Register) -> str | None:
    """The text of a register; None: there is nothing to remember."""
    entries = {path: entry._asdict() for path, entry in register.items()}
    return json.dumps(entries, indent=2, sort_keys=True, ensure_ascii=False) + "\n" if entries else None


def with_needs(
    register: Register,
    needs: Mapping[str, Mapping[str, str]],
    read: Callable[[str], "str | None"],
    has_folder: Callable[[str], bool],
) -> Register:
    """The register once ``needs`` are met: ``{uuid: {path: text}}``, all that these tunnels need. Others' stay.

    ``read``: a path's text now; ``has_folder``: whether the path's folder is there. What is there already, without an
    entry, is ours from a register that was lost: two hands do not write the same text.
    """
    found = {path: entry._replace(tunnels=_without(entry.tunnels, needs)) for path, entry in register.items()}
    for uuid, wanted in needs.items():
        for path, after in wanted.items():
            if path not in found:
                before = read(path)
                found[path] = Entry(None if before == after else before, after, [], not has_folder(path))
            found[path] = found[path]._replace(after=after, tunnels=sorted({*found[path].tunnels, uuid}))
    return found


def without_others(register: Register, uuids: Collection[str]) -> Register:
    """The register without tunnels that are not among ``uuids``, those that are on this host."""
    return {
        path: entry._replace(tunnels=[uuid for uuid in entry.tunnels if uuid in uuids])
        for path, entry in register.items()
    }


def unneeded(register: Register) -> list[str]:
    """The paths that no tunnel needs any more."""
    return [path for path, entry in sorted(register.items()) if not entry.tunnels]


def changed_by_others(entry: Entry, now: str | None) -> bool:
    """Whether somebody else has changed a file, so that its former text is not to be put back."""
    return now not in (entry.after, entry.before)


def _without(uuids: list[str], others: Collection[str]) -> list[str]:
    return [uuid for uuid in uuids if uuid not in others]
