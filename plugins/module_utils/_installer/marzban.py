# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Marzban as it is installed on this host: by Docker Compose, or from a virtual environment under systemd.

Both say what would be changed in which file (``edits``), whether the files are taken as they are meant (``verify``),
and restart it. What they read holds passwords: none of it gets into an error.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping
from typing import Any, Dict

from .._errors import Error, FieldError, printable, shown
from .._node.host import CommandError, Host
from . import compose_file, dotenv, systemd_dropin
from .edit import Edit, output, read
from .marked_block import EditError
from .package import Folder
from .probe import secrets_of

RESTART = 300  # seconds
UNITS = "/etc/systemd/system"
COMPOSE_FILE, SERVICE = "/opt/marzban/docker-compose.yml", "marzban"  # where Marzban's own scripts put them
NO_FILE = "%s isn't there. Give the file of Marzban's installation as compose_file (panel_compose_file in the role)."
NO_UNIT = "There is no unit %s. Give the name of Marzban's unit as service (panel_service in the role)."
STARTS = ("command", "drop-in")  # the kinds of Edit that have Marzban started by the add-on's entry

Settings = Dict[str, str]  # checked ones, by their names in the environment


def version_in(text: str | None) -> str | None:
    """The version in Marzban's ``app/__init__.py``, or None."""
    found = re.search(r"^__version__\s*=\s*[\"']([0-9A-Za-z.+-]{1,30})[\"']", text or "", re.MULTILINE)
    return found and found[1]


class _Marzban:
    """What both have in common. ``environment`` is Marzban's, ``secrets`` what must not be shown."""

    def __init__(self, host: Host, folder: Folder) -> None:
        self.host, self.folder = host, folder
        self.environment: dict[str, str] = {}
        self.secrets: set[str] = set()
        self.dotenv = ""

    def _dotenv_edit(self, settings: Settings) -> Edit:
        before = read(self.dotenv)
        after = dotenv.with_settings(before, self.dotenv, settings)
        ours = (dotenv.block(before, self.dotenv), dotenv.block(after, self.dotenv))
        return Edit(self.dotenv, before, after, ours, "settings")

    def ours(self) -> bool:
        """Whether a file holds something of ours. Reads nothing else."""
        return bool(dotenv.block(read(self.dotenv), self.dotenv))

    def starts_addon(self) -> bool:
        """Whether a file has Marzban started by the add-on's entry."""
        raise NotImplementedError

    def why_not_run(self) -> str:
        """Why the add-on's entry may not have been run, as a sentence, where that can be seen."""
        return ""

    def call(self, word: str) -> str:
        """What the add-on's entry answers to a word. Raises CommandError."""
        raise NotImplementedError


class Compose(_Marzban):
    """Marzban's own installation: one service in ``docker-compose.yml``, with ``.env`` beside it."""

    kind = "compose"

    def __init__(self, host: Host, folder: Folder, path: str, project: str) -> None:
        super().__init__(host, folder)
        self.path, self.project = os.path.realpath(path), project
        self.dotenv = os.path.join(os.path.dirname(self.path), ".env")

    @property
    def there(self) -> bool:
        """Whether there is such a file."""
        return os.path.isfile(self.path)

    def ours(self) -> bool:
        return self.starts_addon() or super().ours()

    def starts_addon(self) -> bool:
        return bool(compose_file.block(read(self.path), self.path))

    def inspect(self, present: bool) -> None:
        """Reads what is there; to take ours out, whatever else is in the file. Raises Error."""
        text = read(self.path) or ""
        if not self.there:
            raise Error(NO_FILE % self.path)
        self._base = compose_file.without_command(text, self.path)
        ours = None if present else compose_file.place_of_command(text, self.path)
        self._place = ours or compose_file.find(self._base, self.path)
        self._config = self._read()
        self._take(self._config, present)
        if present:
            compose_file.check_base(
                self._config if text == self._base else self._read(self._base), self._place, self.path, self.folder.path
            )

    def _take(self, config: dict[str, Any], present: bool) -> None:
        services = config.get("services") or {}
        if present or self._place.service not in services:
            self._service = compose_file.service_of(config, self._place, self.path)
        else:
            self._service = services[self._place.service]
        # Compose writes a $ twice, so that what it prints can be read by it again.
        values = [
            {name: str(value or "").replace("$$", "$") for name, value in (service.get("environment") or {}).items()}
            for service in services.values()
        ]
        self.environment = values[list(services).index(self._place.service)]
        self.secrets = set().union(*map(secrets_of, values))

    def _read(self, text: str | None = None) -> dict[str, Any]:
        """What Compose makes of the file, or of a text in its place."""
        source = ["-f", self.path] if text is None else ["-f", "-", "--project-directory", os.path.dirname(self.path)]
        argv = ["docker", "compose", *source, "-p", self.project, "config", "--format", "json"]
        try:
            config = json.loads(self.host.query(*argv, stdin=text) or "")
            if isinstance(config, dict):
                return config
        except ValueError:
            pass
        # What it says may hold lines of .env.
        by_hand = "docker compose -f %s -p %s config --quiet" % (self.path, self.project)
        raise Error("Docker Compose 2 can't read %s, or isn't there; %s says why." % (self.path, by_hand))

    def edits(self, present: bool, settings: Settings) -> list[Edit]:
        """The Edits that make the files hold what is wanted of them. Raises Error."""
        before = read(self.path)
        after = compose_file.with_command(self._base, self.path, self.folder.path) if present else self._base
        if after not in (before, self._base):
            base = self._config if before == self._base else self._read(self._base)
            compose_file.check_change(base, self._read(after), self._place, self.path, self.folder.path)
        ours = (compose_file.block(before, self.path), compose_file.block(after, self.path))
        edits = [Edit(self.path, before, after, ours, "command"), self._dotenv_edit(settings)]
        kept = dotenv.read(edits[1].shown[0])
        for name in settings:
            if name in self.environment and name not in kept:
                raise EditError(
                    self.path,
                    self._place.line + 1,
                    "the service %s gets %s from elsewhere." % (shown(self._place.service), name),
                    "Take it out there, or leave it out of settings (panel_settings in the role).",
                )
        return [edit for edit in edits if edit.before != edit.after]

    def verify(self, present: bool, settings: Settings) -> None:
        """Raises Error unless Compose takes the files as they are meant."""
        self._take(self._read(), present)
        if (self._service.get("command") == compose_file.command(self.folder.path)) != present:
            raise Error("%s: Compose takes another command out of it than the one that was put there." % self.path)
        for name, value in settings.items():
            if self.environment.get(name) != value:
                raise Error(
                    "%s: the service %s does not read %s from it. Give it the line env_file: .env, as Marzban's own "
                    "file has it." % (self.dotenv, shown(self._place.service), name)
                )

    def _do(self, *words: str, **more: Any) -> str:
        argv = ["docker", "compose", "-f", self.path, "-p", self.project, *words]
        return output(argv, self.secrets, dict(os.environ, LC_ALL="C"), **more)

    def restart(self) -> None:
        """Recreates Marzban's container, and waits until it runs.

        Gentler than Marzban's own script, which takes all down: a database beside it keeps running.
        ``--force-recreate``, because Compose sees no difference where only the add-on's files are others.
        """
        self._do("up", "--detach", "--no-deps", "--force-recreate", self._place.service, timeout=RESTART)

    def reload(self) -> None:
        """There is nothing to do before a restart."""

    def version(self) -> str | None:
        """Marzban's version, or None."""
        try:
            return version_in(self._in_container("cat", "app/__init__.py"))
        except CommandError:
            return None

    def _in_container(self, program: str, *words: str) -> str:
        """The output of a program of the image. Raises CommandError."""
        service = self._place.service
        try:
            return self._do("exec", "-T", service, program, *words)
        except CommandError:  # its container may not run; what the image itself starts would get our words
            return self._do("run", "--rm", "--no-deps", "-T", "--entrypoint", program, service, *words)

    def address(self) -> tuple[str, str | None]:
        """Where it answers: ``(url, socket)``."""
        url, socket = compose_file.address(self.environment, compose_file.mapping(self._service))
        return url, socket and compose_file.socket_on_host(socket, self._service)

    def said(self) -> str | None:
        """The end of its log."""
        said: str | None = self.host.query(
            *("docker", "compose", "-f", self.path, "-p", self.project, "logs", "--no-color", "--no-log-prefix"),
            *("--tail", "80", self._place.service),
        )
        return said

    def why_not_run(self) -> str:
        image = str(self._service.get("image"))
        said = self.host.query("docker", "image", "inspect", "--format", "{{json .Config.Entrypoint}}", image)
        entry = (said or "").strip()
        if entry in ("", "null", "[]"):
            return ""
        return "The image %s has an ENTRYPOINT of its own, %s: it may not run the add-on's command." % (
            shown(image),
            printable(entry, 200),
        )

    def call(self, word: str) -> str:
        return self._in_container("python", self.folder.start, word)


class Systemd(_Marzban):
    """Marzban in a folder with a Python environment, run by a unit as its ``install_service.sh`` writes one."""

    kind = "systemd"

    def __init__(self, host: Host, folder: Folder, unit: str) -> None:
        super().__init__(host, folder)
        if not re.match(r"[A-Za-z0-9:_.@-]{1,200}\Z", unit):
            raise FieldError(
                "service (panel_service in the role)", unit, "Give the name of Marzban's unit, such as marzban."
            )
        self.unit = unit if unit.endswith(".service") else unit + ".service"
        self.dropin = os.path.join(UNITS, self.unit + ".d", systemd_dropin.NAME)
        self._command: str | None = None  # what the unit itself runs; None where main.py is not found in it
        self._shown = self._show()
        self.directory = self._shown.get("WorkingDirectory", "").lstrip("!-")
        self.dotenv = os.path.join(self.directory, ".env")

    def _show(self) -> dict[str, str]:
        names = "--property=LoadState,FragmentPath,DropInPaths,WorkingDirectory,MainPID"
        said = self.host.query("systemctl", "show", "--no-pager", names, self.unit) or ""
        return dict(line.partition("=")[::2] for line in said.splitlines())

    @property
    def there(self) -> bool:
        """Whether there is such a unit."""
        return self._shown.get("LoadState") == "loaded"

    def ours(self) -> bool:
        return self.starts_addon() or (bool(self.directory) and super().ours())

    def starts_addon(self) -> bool:
        return os.path.lexists(self.dropin)

    def inspect(self, present: bool) -> None:
        """Reads what is there; to take ours out, whatever the unit runs by now. Raises Error."""
        if not self.there:
            raise Error(NO_UNIT % self.unit)
        try:
            self._inspect()
        except Error:
            if present:
                raise
            self._command = None
        self._take()

    def _inspect(self) -> None:
        for name in ("main.py", "app/__init__.py", "config.py"):
            if not os.path.isfile(os.path.join(self.directory, name)):
                raise Error(
                    "The unit %s runs in %s, and Marzban's %s isn't there. Write WorkingDirectory=MARZBAN'S FOLDER "
                    "into the unit, as Marzban's install_service.sh does."
                    % (self.unit, shown(self.directory or "no WorkingDirectory"), name)
                )
        paths = [self._shown["FragmentPath"], *self._shown.get("DropInPaths", "").split()]
        self._command = systemd_dropin.exec_start(
            [read(path) or "" for path in paths if path != self.dropin], self.unit
        )
        self._wanted = systemd_dropin.text(systemd_dropin.replaced(self._command, self.unit, self.folder.path))

    def _take(self) -> None:
        self._process: dict[str, str] = {}
        with contextlib.suppress(OSError):
            with open("/proc/%d/environ" % int(self._show().get("MainPID") or 0), "rb") as stream:
                words = [word.decode("utf-8", "surrogateescape") for word in stream.read().split(b"\0")]
            self._process = dict(word.partition("=")[::2] for word in words if "=" in word)
        # As Marzban has it: what the process was given comes first.
        self.environment = dict(dotenv.read(read(self.dotenv) or ""), **self._process)
        self.secrets = secrets_of(self.environment)

    def edits(self, present: bool, settings: Settings) -> list[Edit]:
        """The Edits that make the files hold what is wanted of them. Raises Error."""
        before, after = read(self.dropin), self._wanted if present else None
        edits = [Edit(self.dropin, before, after, (before or "", after or ""), "drop-in"), self._dotenv_edit(settings)]
        for name in settings:
            if name in self._process:
                hint = "Take it out of there, or leave it out of settings (panel_settings in the role)."
                raise Error("The unit %s sets %s itself. %s" % (self.unit, name, hint))
        return [edit for edit in edits if edit.before != edit.after]

    def verify(self, present: bool, settings: Settings) -> None:
        """Raises Error unless systemd takes the files as they are meant."""
        self.reload()
        said = self.host.query("systemctl", "show", "--no-pager", "--property=ExecStart", self.unit) or ""
        if (self.folder.start in said) != present:
            raise Error(
                "The unit %s does not run what %s says: another drop-in comes after it (systemctl cat %s). Take its "
                "ExecStart out, and run again." % (self.unit, self.dropin, self.unit)
            )
        self._take()

    def reload(self) -> None:
        """Makes systemd read the files."""
        self.host.run("systemctl", "daemon-reload")

    def restart(self) -> None:
        """Restarts the unit."""
        self.reload()
        self.host.start_units("restart", self.unit, timeout=RESTART)

    def version(self) -> str | None:
        """Marzban's version, or None."""
        return version_in(read(os.path.join(self.directory, "app/__init__.py")))

    def address(self) -> tuple[str, str | None]:
        """Where it answers: ``(url, socket)``."""
        return compose_file.address(self.environment)

    def said(self) -> str | None:
        """The log of its last start."""
        shown_ = self.host.query("systemctl", "show", "--no-pager", "--property=InvocationID", "--value", self.unit)
        match = "_SYSTEMD_INVOCATION_ID=%s" % (shown_ or "").strip()
        said: str | None = self.host.query("journalctl", "--no-pager", "--output=cat", "--lines=80", match)
        return said

    def call(self, word: str) -> str:
        if self._command is None:
            raise CommandError("The unit %s does not run Marzban's main.py" % self.unit)
        # The process's own environment, which a unit may get from anywhere. On no command line: it holds passwords.
        environment = self._process or {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8"}
        argv = [*systemd_dropin.python(self._command), self.folder.start, word]
        return output(argv, self.secrets, dict(environment, PYTHONDONTWRITEBYTECODE="1"), self.directory)


def find(host: Host, folder: Folder, given: Mapping[str, Any]) -> Compose | Systemd | None:
    """The installation that is meant, or None where there is not one. Raises Error."""
    kind = given["installation"]
    compose = Compose(host, folder, given["compose_file"], given["compose_project"])
    systemd = Systemd(host, folder, given["service"])
    if kind != "auto":
        return compose if kind == "compose" else systemd
    if not systemd.there and given["service"] != SERVICE:
        raise Error(NO_UNIT % systemd.unit)  # what was named is meant, whatever else is here
    if not compose.there and given["compose_file"] != COMPOSE_FILE:
        raise Error(NO_FILE % compose.path)
    if systemd.there and systemd.directory == os.path.dirname(compose.path):
        return systemd  # it runs in a checkout of Marzban, which holds such a file too
    there: list[Compose | Systemd] = [found for found in (compose, systemd) if found.there]
    if len(there) > 1:
        raise Error(
            "There are both %s and the unit %s. Say which is the panel: set installation (panel_installation in the "
            "role) to compose or systemd." % (compose.path, systemd.unit)
        )
    return there[0] if there else None
