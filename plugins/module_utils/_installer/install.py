# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Gives a Marzban on this host the add-on; what doesn't come up is put back as it was. removal.py takes it away."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from typing import Any, Callable

from .._errors import Error
from .._node.files import check_path
from .._node.files import write as write_private
from .._node.host import Host
from . import dotenv, library, marzban, package, probe
from .edit import write as write_edit

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
        self.backups = check_path(given["backup_directory"], "backup_directory (panel_backup_directory in the role)")
        self.made = package.Made(os.path.join(self.backups, "folders.json"))
        self.folder = package.Folder(given["directory"], self.made)
        self.settings = dotenv.checked(given["settings"]) if given["state"] == "present" else {}
        self.files = package.unpack(given["archive"])
        self.pending = os.path.join(self.backups, "pending")  # there while something is changed and not yet tried
        self.seen = probe.Seen(False, False, None, False, "nothing")
        self.answer: dict[str, Any] = {
            "changes": [],
            "installation": None,
            "backups": [],
            "records": None,
            "left": None,
            "version": None,
            "panel": None,
            "packages": [],
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
                "No Marzban here: there is no %s, and no unit %s. Give compose_file, or service (in the role: "
                "panel_compose_file, panel_service). %s" % (self.given["compose_file"], self.given["service"], NOTHING)
            )
        self.marzban = found
        self.answer["installation"] = found.kind
        self._work()
        return dict(self.answer, changed=bool(self.answer["changes"]))

    # What a removal does as well

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
            self.marzban.inspect(present)
            self.edits = self.marzban.edits(present, self.settings)
        except Error as error:
            raise Error("%s %s" % (error, NOTHING)) from None
        for edit in self.edits:
            self._note("%s: %s %s" % (edit.path, edit.what, "written" if edit.shown[1] else "taken out"))
            self._show(edit.path, *edit.shown)

    def _note(self, change: str) -> None:
        self.answer["changes"].append(change)

    def _note_restart(self) -> None:
        self._note("restarted")
        self._show("Marzban", "", "restarted\n")

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
            text = edit.after if after else edit.before
            if text is not None:
                self.made.make(os.path.dirname(edit.path))
            write_edit(edit.path, text)

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
            text = self._told(str(error), restarted)
            text += " " + (self._put_back(before, restarted) if self.edits or files else "Only a restart was tried.")
            if restarted and not before.marzban and not self.seen.marzban and self.marzban.starts_addon():
                text += " " + self._try_without()
            raise Error(text) from None

    def _told(self, error: str, restarted: bool) -> str:
        """An error with the end of Marzban's log."""
        log = probe.last_words(self.marzban.said(), self.marzban.secrets) if restarted else ""
        why = self.marzban.why_not_run() if restarted and self.seen.marzban and self.seen.absent else ""
        return "%s.%s%s" % (error.rstrip("."), " Its log: %s." % log.rstrip(".") if log else "", why and " " + why)

    def _put_back(self, before: probe.Seen, restarted: bool) -> str:
        """Brings back what was there, and says whether it is."""
        again = restarted and before.marzban
        try:
            self._write(after=False)
            self.folder.put_back()
            self.made.undo()
            self.marzban.reload()
            if again:
                self.marzban.restart()
        except (Error, OSError) as error:
            return "The old state could NOT be put back: %s. Backups are in %s." % (
                str(error).rstrip("."),
                self.backups,
            )
        if not again:
            os.unlink(self.pending)
            return "The files are as they were%s." % ("" if restarted else ", and the panel was not restarted")
        as_before = (lambda seen: seen.addon) if before.addon else (lambda seen: seen.marzban)
        seen = self._wait(as_before, max(PATIENCE, self.given["health_timeout"]))
        if as_before(seen):
            os.unlink(self.pending)
            return "The old state is back, and the panel answers."
        return "The old state is back, but the panel does not answer: %s. Backups are in %s." % (
            probe.redacted(seen.text, self.marzban.secrets),
            self.backups,
        )

    def _try_without(self) -> str:
        """For a panel that does not answer, and did not before: takes out what starts the add-on, and says whether that
        helps. A panel without tunnels is better than none, and Marzban's image may have changed how it starts."""
        try:
            self.marzban.inspect(False)
            self.edits = [edit for edit in self.marzban.edits(False, {}) if edit.what in marzban.STARTS]
            places = ", ".join(edit.path for edit in self.edits)
            for edit in self.edits:
                self._keep(os.path.basename(edit.path), edit.before or "")
            self._write()
            self.marzban.restart()
            if self._wait(lambda seen: seen.marzban).marzban:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.pending)
                return (
                    "Without the add-on's lines Marzban starts, so they were taken out of %s: the panel answers again, "
                    "without tunnels. The nodes keep theirs, and the database the records. This Marzban starts in a "
                    "way that the add-on does not know: update the collection, or go back to the former image." % places
                )
            self._write(after=False)
            self.marzban.restart()
        except (Error, OSError) as error:
            return "To start it without the add-on's lines failed: %s" % error
        return "It does not start without the add-on's lines either, so they are back in %s." % places

    # present

    def _work(self) -> None:
        """Installs, where anything differs."""
        self._plan_edits(True)
        if self._waits_for_library():
            self.answer.update(changes=[], diff=[])
            return
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
        self._note_restart()
        if self.check:
            return
        self._change(True, lambda seen: seen.addon, WITH, self.files if fresh else None)
        self.answer["panel"] = self.seen.panel
        self._end()

    def _waits_for_library(self) -> bool:
        """Adds to the files what the metrics need, where they are wanted. Whether packages have to come first."""
        if not library.is_wanted(self.marzban.environment):
            return False
        found = library.files()
        if not found:
            self.answer["packages"] = library.choice()
            found = library.kept(self.installed)
        self.files = dict(self.files, **found)
        return bool(self.answer["packages"]) and bool(self.given["packages_first"]) and not self.check

    def _check_panel(self) -> None:
        """Refuses a panel that isn't well, or isn't known. Raises Error.

        One that is started by the add-on's lines is tried, also while it does not answer: what is to be changed may be
        what it lacks, such as the path of a new Python in the unit.
        """
        if not self.seen.marzban and not self.marzban.starts_addon():
            raise Error(
                "The panel does not answer as Marzban does: expected /api/admin: 401, and seen %s. Start it, and run "
                "again. %s" % (probe.redacted(self.seen.text, self.marzban.secrets), NOTHING)
            )
        version, known = self.answer["version"], self.given["versions"]
        if not self.given["any_version"] and version not in known:
            raise Error(
                "This is Marzban %s, and the add-on was tried with %s. To try it all the same set any_version "
                "(panel_any_version in the role) to true: a panel that does not come up with it is put back as it was. "
                "%s%s" % (version or "of a version that can't be read", ", ".join(known), self._way_out(), NOTHING)
            )

    def _way_out(self) -> str:
        if self.seen.marzban:
            return ""
        return "It does not answer; state=absent (panel_state in the role) has it start without the add-on. "
