# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Settings of the whole host that tunnels need: written down before they are changed, put back when none needs them.

``register`` has the rules, and this does it.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Collection, Mapping

from .._errors import Error
from . import register
from .files import file_diff, read, remove, write
from .host import Host
from .state import Folders

if TYPE_CHECKING:
    from .._model.shapes import FileDiff


class WholeHost:
    """The register beside the tunnels' folders. In check mode nothing is written."""

    def __init__(self, host: Host, folders: Folders) -> None:
        self.host = host
        self.path = os.path.join(folders.root, register.FILE)
        self.warnings: list[str] = []
        self.diff: list[FileDiff] = []
        self._register: register.Register = {}

    def load(self) -> None:
        """Reads it; what was there before is not known any more where it is damaged."""
        try:
            self._register = register.parse(read(self.path))
        except Error as error:
            hint = "%s: %s What tunnels have changed of the whole host is not put back when they go."
            self.warnings.append(hint % (self.path, error))

    def need(self, needs: Mapping[str, Mapping[str, str]]) -> None:
        """Writes down what tunnels need now, ``{uuid: {path: text}}``, before they change it. Raises Error."""
        self._save(register.with_needs(self._register, needs, read, _has_folder))

    def settle(self, uuids: Collection[str]) -> None:
        """Puts back what none of the tunnels on this host, ``uuids``, needs any more. Raises Error."""
        found = register.without_others(self._register, uuids)
        for path in register.unneeded(found):
            entry, now = found.pop(path), read(path)
            if register.changed_by_others(entry, now):
                hint = "%s was changed by somebody else, and is left as it is. No tunnel needs it any more."
                self.warnings.append(hint % path)
                continue
            if now != entry.before:
                self.diff.append(file_diff(path, now, entry.before))
            if not self.host.check:
                _put_back(path, entry)
        self._save(found)

    def _save(self, found: register.Register) -> None:
        text = register.text_of(found)
        if not self.host.check and text != register.text_of(self._register):
            if text is None:
                remove(self.path)
            else:
                write(self.path, text)
        self._register = found


def _has_folder(path: str) -> bool:
    return os.path.isdir(os.path.dirname(path))


def _put_back(path: str, entry: register.Entry) -> None:
    if entry.before is not None:
        write(path, entry.before, 0o644)
        return
    remove(path)
    if entry.folder:
        with contextlib.suppress(OSError):  # somebody has put another file there
            os.rmdir(os.path.dirname(path))
