# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Gives a Marzban on this host the add-on, and takes it away; what doesn't come up is put back as it was."""

from __future__ import annotations

import fcntl
import json
import os
import time
from typing import Any, Callable

from .._errors import Error, printable, shown
from .._node.files import check_path
from .._node.files import write as write_private
from .._node.host import CommandError, Host
from . import dotenv, marzban, package, probe

PATIENCE = 60  # seconds, at least, for what is put back: it did come up before, and nobody is to be alarmed too early
SETTLE = 3  # seconds that a panel which is just being started by somebody else may take to answer
NOTHING = "Nothing was changed."
WITH = "%s: 401 with %s" % ("/api/tunnels", probe.PANEL_ID)
ALONE = "/api/admin: 401, and /api/tunnels: 404"
Wanted = Callable[[probe.Seen], bool]


class Run:
    """One run on this host. ``given`` are the module's options."""

    def __init__(self, given: dict[str, Any], check: bool) -> None:
        self.given, self.check = given, check
        self.folder = package.Folder(given["directory"])
        self.backups = check_path(given["backup_directory"], "panel_backup_directory")
        self.settings = dotenv.checked(given["settings"]) if given["state"] == "present" else {}
        self.files = package.unpack(given["archive"])
        self.pending = os.path.join(self.backups, "pending")  # there while something is changed and not yet tried
        self.seen = probe.Seen(False, False, None, False, "nothing")
        self.answer: dict[str, Any] = {
            "changes": [],
            "installation": None,
            "backups": [],
            "records": None,
            "version": None,
            "panel": None,
            "diff": [],
        }

    def run(self) -> dict[str, Any]:
        """The module's answer. Raises Error."""
        if os.geteuid() != 0:
            raise Error("The add-on is installed by root, and this is user %d. Set become to true." % os.geteuid())
        if not self.check and os.path.isdir(self.backups):
            self._lock()
            self.folder.settle()  # a run may have been cut off
        found = marzban.find(Host(self.check), self.folder, self.given)
        self.installed = self.folder.files()
        if found is None:
            if self.given["state"] == "absent" and self.installed is None:
                return dict(self.answer, changed=False)
            raise Error(
                "No Marzban here: there is no %s, and no unit %s. Give panel_compose_file, or panel_service. %s"
                % (self.given["compose_file"], self.given["service"], NOTHING)
            )
        self.marzban = found
        self.answer["installation"] = found.kind
        (self._present if self.given["state"] == "present" else self._absent)()
        return dict(self.answer, changed=bool(self.answer["changes"]))

    # What both do

    def _lock(self) -> None:
        """Keeps other runs off until this process ends."""
        os.makedirs(self.backups, mode=0o700, exist_ok=True)
        self._handle = os.open(self.backups, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Error("Another run is changing this panel: wait for it, then run again. " + NOTHING) from None

    def _plan_edits(self, present: bool) -> None:
        """What has to be edited. Raises Error, and nothing was changed then."""
        try:
            self.marzban.inspect()
            self.edits = self.marzban.edits(present, self.settings)
        except Error as error:
            raise Error("%s %s" % (error, NOTHING)) from None
        for edit in self.edits:
            self._note("%s: %s %s" % (edit.path, edit.what, "written" if edit.shown[1] else "taken out"))
            self._show(edit.path, *edit.shown)

    def _note(self, change: str) -> None:
        self.answer["changes"].append(change)

    def _show(self, path: str, before: str, after: str) -> None:
        self.answer["diff"].append({"before_header": path, "after_header": path, "before": before, "after": after})

    def _wait(self, wanted: Wanted, seconds: float | None = None) -> probe.Seen:
        return probe.wait(self.marzban.address, wanted, self.given["health_timeout"] if seconds is None else seconds)

    def _keep(self, name: str, text: str) -> str:
        """Keeps a text in the backup directory, from its first instant for root alone."""
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        path = os.path.join(self.backups, "%s.%s" % (name, stamp))
        number = 1
        while os.path.lexists(path):
            number += 1
            path = os.path.join(self.backups, "%s.%s-%d" % (name, stamp, number))
        write_private(path, text)
        return path

    def _begin(self) -> None:
        if not os.path.isdir(self.backups):
            self._lock()
        write_private(self.pending, "")
        for edit in self.edits:
            if edit.before is not None:
                self.answer["backups"].append(self._keep(os.path.basename(edit.path), edit.before))

    def _end(self) -> None:
        self.folder.settle()
        os.unlink(self.pending)

    def _write(self, after: bool = True) -> None:
        """Writes the edited files, or what was there before."""
        for edit in self.edits if after else reversed(self.edits):
            marzban.write(edit.path, edit.after if after else edit.before)

    def _change(self, present: bool, wanted: Wanted, expected: str, files: package.Files | None = None) -> None:
        """Writes (the add-on's ``files`` too, where some are given) and restarts. Unless ``wanted`` becomes true in
        time, puts everything back and raises Error, which says what was ``expected``."""
        before = self.seen
        restarted = False
        self._begin()
        try:
            if files is not None:
                self.folder.put(files)
            self._write()
            self.marzban.verify(present, self.settings)
            restarted = True
            self.marzban.restart()
            self.seen = self._wait(wanted)
            if wanted(self.seen):
                return
            raise Error(
                "Expected within %d s %s, and seen %s."
                % (self.given["health_timeout"], expected, probe.redacted(self.seen.text, self.marzban.secrets))
            )
        except (Error, OSError) as error:
            log = probe.last_words(self.marzban.said(), self.marzban.secrets) if restarted else ""
            text = "%s%s" % (str(error).rstrip(".") + ".", " Its log: %s." % log.rstrip(".") if log else "")
            if not self.answer["diff"]:
                raise Error("%s Only a restart was tried." % text) from None
            raise Error("%s %s" % (text, self._put_back(before, restarted))) from None

    def _put_back(self, before: probe.Seen, restarted: bool) -> str:
        """Brings back what was there, and says whether it is."""
        try:
            self._write(after=False)
            self.folder.put_back()
            self.marzban.reload()
            if restarted:
                self.marzban.restart()
        except (Error, OSError) as error:
            return "The old state could NOT be put back: %s. Backups are in %s." % (
                str(error).rstrip("."),
                self.backups,
            )
        if not restarted:
            os.unlink(self.pending)
            return "The files are as they were, and the panel was not restarted."
        as_before = (lambda seen: seen.addon) if before.addon else (lambda seen: seen.marzban)
        seen = self._wait(as_before, max(PATIENCE, self.given["health_timeout"]))
        if as_before(seen):
            os.unlink(self.pending)
            return "The old state is back, and the panel answers."
        return "The old state is back, but the panel does not answer: %s. Backups are in %s." % (
            probe.redacted(seen.text, self.marzban.secrets),
            self.backups,
        )

    # present

    def _present(self) -> None:
        self._plan_edits(True)
        fresh = self.installed != self.files
        if fresh:
            self._note("%s: add-on %s" % (self.folder.path, "written" if self.installed is None else "replaced"))
            self._show(self.folder.path, *package.listings(self.installed, self.files))
        asked = bool(self.answer["changes"])
        self.seen = self._wait(lambda seen: seen.marzban if asked else seen.addon, SETTLE)
        self.answer["version"] = self.marzban.version()
        self.answer["panel"] = self.seen.panel
        if not asked and self.seen.addon and not os.path.exists(self.pending):
            return
        if asked:
            self._check_panel()
        self._note("restarted")
        if self.check:
            return
        self._change(True, lambda seen: seen.addon, WITH, self.files if fresh else None)
        self.answer["panel"] = self.seen.panel
        self._end()

    def _check_panel(self) -> None:
        """Refuses a panel that isn't well, or isn't known. Raises Error."""
        if not self.seen.marzban:
            raise Error(
                "The panel does not answer as Marzban does: expected /api/admin: 401, and seen %s. Start it, and run "
                "again. %s" % (probe.redacted(self.seen.text, self.marzban.secrets), NOTHING)
            )
        version, known = self.answer["version"], self.given["versions"]
        if not self.given["any_version"] and version not in known:
            raise Error(
                "This is Marzban %s, and the add-on was tried with %s. To try it all the same set panel_any_version to "
                "true: a panel that does not come up with it is put back as it was. %s"
                % (version or "of a version that can't be read", ", ".join(known), NOTHING)
            )

    # absent

    def _absent(self) -> None:
        if self.installed is None and not self.marzban.ours():
            return
        self._plan_edits(False)
        records = self._records()
        self._note("%s: add-on removed" % self.folder.path)
        self._show(self.folder.path, *package.listings(self.installed, None))
        if records["revision"] is not None:
            self._note("tables dropped")
        if self.edits:
            self._note("restarted")
        if self.check:
            return
        self.seen = self._wait(lambda seen: seen.marzban, SETTLE)
        if self.edits:
            # First of all the add-on lets go of its tables.
            self._change(False, lambda seen: seen.marzban and seen.absent, ALONE)
            records = self._records()
        else:
            self._begin()
        if records["tunnels"]:
            text = json.dumps(records, indent=2, ensure_ascii=False) + "\n"
            self.answer["records"] = self._keep("tunnels.json", text)
        if records["revision"] is not None:
            self._call("remove", "The add-on is off, and its tables are still there.")
        self.folder.remove()
        self._end()
        if self.marzban.kind == "systemd":
            self._remove_empty()

    def _remove_empty(self) -> None:
        """``/var/lib/marzban`` is there for the add-on only, where Marzban has no container."""
        above = os.path.dirname(self.folder.path)
        if not os.listdir(above):
            os.rmdir(above)

    def _call(self, word: str, state: str) -> str:
        try:
            return self.marzban.call(word)
        except CommandError as error:
            raise Error(
                "The add-on's tables can't be reached: %s. Is the panel running? %s" % (str(error).rstrip("."), state)
            ) from None

    def _records(self) -> dict[str, Any]:
        """What the add-on still has in the database: ``{"revision", "tunnels"}``. Raises Error if that is too much."""
        if self.installed is None:
            if self.check:
                return {"revision": None, "tunnels": []}
            # Somebody has removed the folder, and only its code knows its tables.
            self.folder.put(self.files)
            self.installed = self.files
        try:
            return self._checked_records(self._call("records", NOTHING))
        except Error:
            self.folder.put_back()
            raise

    def _checked_records(self, text: str) -> dict[str, Any]:
        try:
            records: dict[str, Any] = json.loads(text[text.index("{") :])
            number = len(records["tunnels"])
            records["revision"]
        except (ValueError, KeyError, TypeError):
            raise Error("The add-on did not say what records it has: %s. %s" % (shown(text), NOTHING)) from None
        if number and not self.given["remove_records"]:
            raise Error(
                "The panel still has %d tunnel%s (%s). Take them off the nodes first: ansible-playbook "
                "marzban.tunnels.remove -e marzban_all=true. Then set panel_remove_records to true: the records are "
                "written to %s, and deleted. %s"
                % (
                    number,
                    "" if number == 1 else "s",
                    printable(
                        ", ".join(str(tunnel.get("name") or tunnel.get("id")) for tunnel in records["tunnels"][:5]), 200
                    ),
                    self.backups,
                    NOTHING,
                )
            )
        return records
