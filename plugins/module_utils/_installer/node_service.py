# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Makes this host have the node service, or not have it: code, settings, units, and what is to be started again."""

from __future__ import annotations

import contextlib
import fcntl
import grp
import hashlib
import os
import re
import shutil
from typing import Any

from .._errors import Error, FieldError
from .._model import validators
from .._node import files, packages, units
from .._node.host import CommandError, Host
from . import firewall, node_files, package
from .node_files import FRONT, ROOT, SOCKET, UNITS, Sent

GROUP = "marzban-node"
RELEASES = ("12", "13")  # of Debian
#: What the service needs beside the tunnels' own packages: capabilities of the distribution's Python.
OWN = packages.Packages(
    by_family={"Debian": {"aiohttp": "python3-aiohttp", "jinja2": "python3-jinja2"}, "RedHat": {}},
    lacking={},
    hint="Use Debian 12 or 13.",
)
#: What only its metrics need.
METRICS = packages.Packages(
    by_family={"Debian": {"prometheus_client": "python3-prometheus-client"}, "RedHat": {}},
    lacking={},
    hint="Use Debian 12 or 13.",
)
DIST_PACKAGES = "/usr/lib/python3/dist-packages"
HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 - by the unit's sandbox
NOTHING = "Nothing was changed."
_HASH = re.compile(r"[0-9a-f]{64}\Z")


def missing() -> list[str]:
    """What the service itself needs, and this host's own Python lacks."""
    return _missing("aiohttp", "jinja2", "cryptography")


def missing_for_metrics() -> list[str]:
    """What the metrics need besides; without it the service works, and has no metrics."""
    return _missing("prometheus_client")


def _missing(*names: str) -> list[str]:
    return [name for name in names if not os.path.isdir(os.path.join(DIST_PACKAGES, name))]


class Run:
    """One run on this host. ``given`` are the module's options."""

    def __init__(self, given: dict[str, Any], check: bool) -> None:
        self.given, self.check = given, check
        self.host = Host(check)
        if given["panel"] is None and not (given["state"] == "absent" and given["all_panels"]):
            raise FieldError("panel", None, "Give the panel's id, as node_access answers it.")
        self.panel = "" if given["panel"] is None else validators.uuid(given["panel"], "panel")  # or all of them go
        self.changes: list[str] = []
        self.diff: list[Any] = []
        self._again: set[str] = set()  # units to be started again
        self._reload = False
        self._made = package.Made(node_files.FOLDERS)

    def run(self) -> dict[str, Any]:
        """The module's answer, without what is about packages. Raises Error."""
        if os.geteuid() != 0:
            raise Error("The service is installed by root, and this is user %d. Set become to true." % os.geteuid())
        answer = self._present() if self.given["state"] == "present" else self._absent()
        return {"changed": bool(self.changes), "changes": self.changes, "diff": self.diff, **answer}

    # present

    def _present(self) -> dict[str, Any]:
        self._refuse_system()
        sent = Sent(self.given["archive"], self.given["engine"])
        wanted = self._wanted(sent)
        if not self.check:
            lacks = missing()
            if lacks:
                named = ", ".join("python3-" + name for name in lacks)
                raise Error("This host lacks %s: install it (the role node_api does). %s" % (named, NOTHING))
            self._lock()
        self._resume()
        self._group()
        pin = None if missing() else node_files.pin()
        if pin is None:
            self._note("certificate made")
            self._restart(FRONT)
            if not self.check:
                node_files.make_certificate()
                pin = node_files.pin()
        for path, text in wanted.items():
            self._write(path, text)
        for name in self._templates_left(wanted):
            self._remove_file(name)
        self._put_code(sent)
        for unit in UNITS:
            text = sent.unit(unit, self.given["port"], self.given["config_dir"])
            self._write(units.path(unit), text, 0o644)
        self._make_place()
        self._start()
        return {
            "pin": pin,
            "engine": self.given["engine"],
            "port": self.given["port"],
            "firewall": firewall.rule(self.host, self.given["port"], self._addresses()),
            "panels": sorted({*node_files.panels(), self.panel}),
        }

    def _make_place(self) -> None:
        """The root half can write only where there was a folder when it started."""
        place = os.path.dirname(self.given["config_dir"])
        if place == node_files.MARZBAN or os.path.isdir(place):
            return
        self._note("%s made" % place)
        self._restart(ROOT)
        if not self.check:
            try:
                self._made.make(place)
            except OSError as error:
                raise Error("%s can't be made: %s." % (place, error.strerror)) from None

    def _refuse_system(self) -> None:
        settings = packages.parse_os_release(files.read(packages.OS_RELEASE) or "")
        if settings.get("ID") != "debian" or settings.get("VERSION_ID") not in RELEASES:
            seen = settings.get("PRETTY_NAME") or settings.get("NAME") or "something else"
            raise Error(
                "The node service runs on Debian 12 and 13, and this is %s. %s Without the service the playbooks work "
                "as before." % (seen, NOTHING)
            )
        if not os.path.isdir("/run/systemd/system"):
            raise Error("The node service needs systemd, and this host was not started by it. %s" % NOTHING)

    def _wanted(self, sent: Sent) -> dict[str, str]:
        """``{path: text}`` of the settings. Raises Error, before anything is changed."""
        given, types = self.given, self.given["types"]
        hashes, certificate, digest = given["hashes"], None, None
        metrics = given["metrics_hash"]
        for field, found in [("hashes", found) for found in hashes] + [("metrics_hash", metrics)] * bool(metrics):
            if not _HASH.match(str(found)):
                raise FieldError(field, found, "Give SHA-256 in hex, as node_access answers it.")
        if given["certificate"] and not (self.check and missing()):
            certificate, digest = node_files.client_certificate(given["certificate"])
        if not hashes and not given["certificate"]:
            raise FieldError("hashes", None, "Without a key's hash or a certificate no panel could get in.")
        templates = {kind: sent.templates.get(kind + ".conf.j2") for kind in types}
        lost = sorted(kind for kind, text in templates.items() if text is None)
        if lost:
            raise Error("The controller did not send the template of %s." % ", ".join(lost))
        place = node_files.SETTINGS
        settings = {
            "engine": given["engine"],
            "config_dir": check_config_dir(given["config_dir"]),
            "post_quantum": given["post_quantum"],
            "ipsec_data_path": given["ipsec_data_path"],
            "types": types,
            "templates": {kind: hashlib.sha256(text or b"").hexdigest() for kind, text in templates.items()},
            "port": validators.integer(given["port"], "port", 1024, 65535),
        }
        node_files.check_shared(self.panel, settings, given["all_panels"])
        panel = {
            "panel": self.panel,
            "node": validators.uuid(given["node"], "node"),
            "hashes": hashes,
            "certificate": digest,
            "metrics": metrics,
            "addresses": sorted(self._addresses()),  # no tunnel takes the way there
        }
        wanted = {
            os.path.join(place, "templates", kind + ".conf.j2"): (text or b"").decode("utf-8")
            for kind, text in templates.items()
        }
        wanted[os.path.join(place, "settings.json")] = node_files.text_of(settings)
        wanted[node_files.panel_file(self.panel)] = node_files.text_of(panel)
        wanted[os.path.join(place, "clients.pem")] = node_files.clients(self.panel, certificate)
        return wanted

    def _addresses(self) -> list[str]:
        found = []
        for address in self.given["panel_addresses"]:
            with contextlib.suppress(FieldError):
                found.append(validators.ip_address(address, "panel_addresses"))
        return found

    def _lock(self) -> None:
        """Keeps other runs off until this process ends."""
        for folder in ("", "panels", "templates"):
            os.makedirs(os.path.join(node_files.SETTINGS, folder), mode=0o700, exist_ok=True)
        os.chmod(node_files.SETTINGS, 0o700)
        self._handle = os.open(node_files.SETTINGS, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Error("Another run is changing this service: wait for it, then run again. " + NOTHING) from None

    def _group(self) -> None:
        if not _has_group():
            self._note("group %s made" % GROUP)
            if not self.check:
                self.host.run("groupadd", "--system", GROUP)

    def _templates_left(self, wanted: dict[str, str]) -> list[str]:
        folder = os.path.join(node_files.SETTINGS, "templates")
        found = os.listdir(folder) if os.path.isdir(folder) else []
        return [path for path in (os.path.join(folder, name) for name in sorted(found)) if path not in wanted]

    def _write(self, path: str, text: str, mode: int = 0o600) -> None:
        """A file, and what has to be started again because of it."""
        before = files.read(path)
        if before == text:
            return
        self._note("%s %s" % (path, "written" if before is None else "changed"))
        self.diff.append(files.file_diff(path, before, text))
        name = os.path.basename(path)
        if name in UNITS:
            self._reload = True
            self._restart(*(UNITS if name == SOCKET else (name,)))
        elif name == "clients.pem":
            self._restart(FRONT)
        elif not path.startswith(os.path.join(node_files.SETTINGS, "panels")):  # those are read at each call
            self._restart(ROOT)
        if not self.check:
            files.write(path, text, mode)

    def _remove_file(self, path: str) -> None:
        self._note("%s removed" % path)
        self.diff.append(files.file_diff(path, files.read(path), None))
        self._restart(ROOT)
        if not self.check:
            files.remove(path)

    def _put_code(self, sent: Sent) -> None:
        before = node_files.code()
        if before == sent.code:
            return
        self._note("%s: service %s" % (node_files.CODE, "written" if before is None else "replaced"))
        shown = package.listings(before, sent.code)
        self.diff.append(files.file_diff(node_files.CODE, *shown))
        self._restart(*node_files.changed_halves(before, sent.code))
        if not self.check:
            node_files.put_code(sent.code)
            # Else each start would compile it all again: the units can't write there.
            self.host.run(packages.PYTHON, "-I", "-m", "compileall", "-q", node_files.CODE)

    def _resume(self) -> None:
        """What a run before this one has left undone: it was cut off, or a unit did not start."""
        self._again |= node_files.pending()
        self._reload = bool(self._again)

    def _restart(self, *again: str) -> None:
        """These are to be started again, which is written down before what they are to run with is changed."""
        if not self._again.issuperset(again):
            self._again.update(again)
            self._keep()

    def _keep(self) -> None:
        if not self.check and self._again:
            files.write(node_files.PENDING, node_files.text_of(sorted(self._again)))
        elif not self.check:
            files.remove(node_files.PENDING)

    def _start(self) -> None:
        """Lets the units run as they are now. Raises Error with the last words of one that does not."""
        if self._reload and not self.check:
            self.host.run("systemctl", "daemon-reload")
        found = units.states(self.host, UNITS)
        off = [unit for unit in UNITS if not found.get(unit, {}).get("enabled")]
        if off and not self.check:
            self.host.run("systemctl", "enable", "--quiet", *off)
        dead = {unit for unit in UNITS if found.get(unit, {}).get("active") != "active"}
        if off and not self.changes:
            self._note("units enabled")
        for unit in UNITS:
            if unit not in self._again | dead:
                continue
            self._note("%s %s" % (unit, "started" if unit in dead else "restarted"))
            if self.check:
                continue
            if unit == SOCKET:  # it is refused while its service runs
                self.host.run("systemctl", "stop", ROOT, SOCKET)
            try:
                self.host.start_units("restart", unit, timeout=100)
            except CommandError:
                said = units.last_words(self.host, unit, unit.partition(".")[0])
                raise Error(
                    "%s did not start: %s. The files are in place; correct that, and run again."
                    % (unit, said.rstrip("."))
                ) from None
            self._again.discard(unit)
            self._keep()

    # absent

    def _absent(self) -> dict[str, Any]:
        others = [panel for panel in node_files.panels() if panel != self.panel]
        answer: dict[str, Any] = {"pin": None, "engine": None, "port": None, "firewall": None, "panels": []}
        if others and not self.given["all_panels"]:
            self._let_go()
            return dict(answer, panels=others)
        self._take_away()
        return answer

    def _let_go(self) -> None:
        """Removes what lets this panel in; the service goes on for the others."""
        path = node_files.panel_file(self.panel)
        if os.path.exists(path):
            if not self.check:
                self._lock()
            self._resume()
            self._note("%s removed" % path)
            self.diff.append(files.file_diff(path, files.read(path), None))
            if not self.check:
                files.remove(path)
            self._write(os.path.join(node_files.SETTINGS, "clients.pem"), node_files.clients(self.panel, None))
            self._start()

    def _take_away(self) -> None:
        paths = [units.path(unit) for unit in UNITS]
        links = [self._link(unit) for unit in UNITS]
        there = [path for path in (*paths, *links) if os.path.lexists(path)]
        folders = [
            node_files.CODE,
            *package.beside(node_files.CODE),
            node_files.SETTINGS,
            node_files.STATE,
            node_files.RUN,
        ]
        folders = [folder for folder in folders if os.path.lexists(folder)]
        self.changes += ["%s removed" % path for path in (*there, *folders)]
        settings = [
            os.path.join(node_files.SETTINGS, "settings.json"),
            *map(node_files.panel_file, node_files.panels()),
        ]
        for path in (*paths, *settings):
            if os.path.exists(path):
                self.diff.append(files.file_diff(path, files.read(path), None))
        if _has_group():
            self._note("group %s removed" % GROUP)
        if self.check:
            return
        if os.path.isdir(node_files.SETTINGS):
            self._lock()
        if there:
            self.host.try_run("systemctl", "disable", "--now", "--quiet", *UNITS, timeout=120)
            for path in paths:
                files.remove(path)
            self.host.run("systemctl", "daemon-reload")
            self.host.try_run("systemctl", "reset-failed", *UNITS)
        self._made.remove()
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
            if os.path.lexists(folder):
                raise Error("%s can't be removed: see what uses it, and run again." % folder)
        if _has_group():
            self.host.run("groupdel", GROUP)
        with contextlib.suppress(OSError):  # it holds the tunnels, or is not there
            os.rmdir(node_files.MARZBAN)

    @staticmethod
    def _link(unit: str) -> str:
        target = "sockets.target" if unit == SOCKET else "multi-user.target"
        return os.path.join(units.path(target + ".wants"), unit)

    def _note(self, change: str) -> None:
        self.changes.append(change)


def _has_group() -> bool:
    try:
        grp.getgrnam(GROUP)
    except KeyError:
        return False
    return True


def check_config_dir(path: object) -> str:
    """A folder that the sandbox of the root half leaves to it. Raises FieldError."""
    checked = files.check_path(path, "config_dir")
    hidden = next((folder for folder in HIDDEN if checked.startswith(folder + "/")), None)
    if hidden:
        hint = "The node service sees nothing of %s: choose another place (TUNNEL_CONFIG_DIR), such as /srv/tunnels."
        raise FieldError("config_dir", checked, hint % hidden)
    return checked
