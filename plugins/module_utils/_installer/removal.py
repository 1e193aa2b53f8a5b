# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Takes the add-on away from a Marzban on this host, also from one that does not start with it any more.

As long as the panel answers, the add-on is first asked for its records, and nothing is changed while there are tunnels.
Where the panel does not answer, or serves without the add-on, that can't be asked, and this is the way out: first the
panel has to answer again, without the add-on's lines. The tables are dropped if they can be reached then; else they
stay, with the add-on's folder, which is the only thing that can drop them later.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any, Dict

from .._errors import Error, printable, shown
from .._node.host import CommandError
from . import package, probe
from .install import ALONE, NOTHING, SETTLE, Run

Records = Dict[str, Any]  # {"revision": of the tables or None, "tunnels": as the API answers them}


class Removal(Run):
    """One removal on this host."""

    def _work(self) -> None:
        """Removes, where anything of ours is there."""
        if self.installed is None and not self.marzban.ours():
            return
        self._plan_edits(False)
        self.seen = self._wait(lambda seen: seen.marzban, SETTLE)
        records = self._ask()
        if not self.seen.marzban and self.edits and not self.check:
            # Perhaps it was only stopped: then its records decide, as always.
            with contextlib.suppress(Error):
                self.marzban.restart()
            self.seen = self._wait(lambda seen: seen.marzban)
            records = records or self._ask()
        if records and self.seen.marzban:
            self._refuse_tunnels(records)
            self._remove(records)
        elif self.seen.addon:
            self._refuse("%s %s" % (self._unreached, NOTHING))
        else:
            self._rescue(records)

    def _remove(self, records: Records) -> None:
        """For a panel that is well: the add-on lets go of its tables first, and all is put back if it does not."""
        self._note_removal(records)
        if self.edits:
            self._note_restart()
        if self.check:
            return
        if self.edits:
            self._change(False, lambda seen: seen.marzban and seen.absent, ALONE)
            records = self._ask() or records
        else:
            self._begin()
        self._drop(records)

    def _rescue(self, records: Records | None) -> None:
        """For a panel that does not answer, or has not loaded the add-on. What is taken out stays out."""
        if self.edits:
            self._note_restart()
            if not self.check:
                self._take_out()
                records = self._ask()
        if records and not self._kept(records):
            self._note_removal(records)
            if not self.check:
                if not self.edits:
                    self._begin()
                self._drop(records)
            return
        why = self._unreached
        if records:
            why = (
                "They have %s: set remove_records (panel_remove_records in the role) to true to delete these."
                % _count(records)
            )
        self.answer["left"] = (
            "The add-on is off, and its tables stay in the database, with %s, which alone can read them. %s The nodes "
            "keep their tunnels. To drop the tables, run this again." % (self.folder.path, why)
        )
        if self.edits and not self.check:
            self._end()

    def _take_out(self) -> None:
        """Takes out what starts the add-on. Raises Error unless Marzban answers then."""
        self._begin()
        text = ""
        try:
            self._write()
            self.marzban.verify(False, {})
            self.marzban.restart()
            self.seen = self._wait(lambda seen: seen.marzban)
        except (Error, OSError) as error:
            text = str(error)
        if self.seen.marzban and not text:
            return
        self._end()
        seen = probe.redacted(self.seen.text, self.marzban.secrets)
        raise Error(
            "%s The add-on's lines are out of %s, so they do not keep Marzban from starting. Its tables are still in "
            "the database: run this again when the panel answers."
            % (
                self._told(text or "Expected /api/admin: 401, and seen %s" % seen, True),
                ", ".join(edit.path for edit in self.edits),
            )
        )

    def _note_removal(self, records: Records) -> None:
        self._note("%s: add-on removed" % self.folder.path)
        self._show(self.folder.path, *package.listings(self.installed, None))
        if records["revision"] is not None:
            self._note("tables dropped")

    def _drop(self, records: Records) -> None:
        """Keeps the records, drops the tables, and removes the folder. Raises Error."""
        if records["tunnels"]:
            text = json.dumps(records, indent=2, ensure_ascii=False) + "\n"
            self.answer["records"] = self._keep("tunnels.json", text)
        if records["revision"] is not None:
            try:
                self.marzban.call("remove")
            except CommandError as error:
                raise Error("%s The add-on is off, and its tables are still there." % _unreached(error)) from None
        self.folder.remove()
        self._end()
        self.made.remove()

    # The records

    def _ask(self) -> Records | None:
        """What the add-on still has in the database: ``{"revision", "tunnels"}``. None where it can't be asked, and
        ``self._unreached`` says why."""
        self._unreached = ""
        if self.installed is None:
            if self.check:
                return {"revision": None, "tunnels": []}
            # Somebody has removed the folder, and only its code knows its tables.
            self.folder.put(self.files)
            self.installed = self.files
        try:
            text = self.marzban.call("records")
            records: Records = json.loads(text[text.index("{") :])
            len(records["tunnels"]), records["revision"]
            return records
        except CommandError as error:
            self._unreached = _unreached(error)
        except (ValueError, KeyError, TypeError):
            self._unreached = "The add-on did not say what records it has: %s." % shown(text)
        return None

    def _kept(self, records: Records) -> bool:
        """Whether there are records that nobody has said may be deleted."""
        return bool(records["tunnels"]) and not self.given["remove_records"]

    def _refuse_tunnels(self, records: Records) -> None:
        if self._kept(records):
            self._refuse(
                "The panel still has %s. Take them off the nodes first: ansible-playbook -i INVENTORY "
                "marzban.tunnels.remove -e marzban_all=true. Then set remove_records (panel_remove_records in the "
                "role) to true: the records are written to %s, and deleted. %s"
                % (_count(records), self.backups, NOTHING)
            )

    def _refuse(self, text: str) -> None:
        """Raises Error, with everything as it was."""
        self.folder.put_back()
        self.made.undo()
        raise Error(text)


def _unreached(error: CommandError) -> str:
    return "The add-on's tables can't be reached: %s." % str(error).rstrip(".")


def _count(records: Records) -> str:
    """How many tunnels, and the names of some."""
    names = [str(tunnel.get("name") or tunnel.get("id")) for tunnel in records["tunnels"]]
    text = printable(", ".join(names[:5]), 200)
    return "%d tunnel%s (%s)" % (len(names), "" if len(names) == 1 else "s", text)
