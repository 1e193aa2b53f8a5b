# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The folders that say what is ours on a node."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import json
import os
import re
import shutil
import time
from typing import TYPE_CHECKING, Any, Callable, Iterator, Mapping

from .._errors import Error, FieldError
from .._model import validators
from .files import check_path, read, sync_folder, write

if TYPE_CHECKING:
    from .._model.shapes import State

CONFIG_DIR = "/etc/marzban/tunnels"
STATE = "state.json"
LOCK_WAIT = 60  # seconds


class Busy(Error):
    """Somebody else changes this host's tunnels."""


class Folders:
    """The folders below one ``config_dir``."""

    def __init__(self, config_dir: object) -> None:
        self.root = check_path(config_dir, "config_dir")

    def path(self, uuid: str, name: str | None = None) -> str:
        """The folder of a tunnel, or a file in it."""
        folder = os.path.join(self.root, validators.uuid(uuid))
        return folder if name is None else os.path.join(folder, name)

    def uuids(self) -> list[str]:
        """The names of all folders, another panel's too."""
        try:
            names = sorted(os.listdir(self.root))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise Error("%s can't be read: %s." % (self.root, error.strerror)) from None
        found = []
        for name in names:
            with contextlib.suppress(FieldError):
                found.append(validators.uuid(name))
        return found

    def states(self) -> dict[str, State | None]:
        """``{uuid: state}`` of all folders, another panel's too. A state that can't be read is None."""
        return {uuid: self.state(uuid) for uuid in self.uuids()}

    def state(self, uuid: str) -> State | None:
        """The state in a folder with the shape that the code relies on, or None."""
        try:
            state: State = json.loads(read(self.path(uuid, STATE)) or "")
            if state["uuid"] != uuid:
                return None
            validators.uuid(state["panel"])
            validators.tunnel_type(state["type"])
            if state.setdefault("node", None) is not None:  # versions before 0.3.0 did not write it
                validators.node_name(state["node"], "node")
            if state.setdefault("public_key", None) is not None and not isinstance(state["public_key"], str):
                return None
            if state["interface"] is not None:
                validators.interface(state["interface"])
            if state.get("peer") is not None:
                validators.mapping(state["peer"], "peer")
            applied = validators.mapping(state.setdefault("applied", {}), "applied")
            for text in [*(applied.get("addresses") or []), *(applied.get("routes") or [])]:
                ipaddress.ip_interface(text)
        except (Error, ValueError, KeyError, TypeError):
            return None
        return state

    def own(self, uuid: str, panel: str, kind: str) -> State | None:
        """The state of a tunnel of ``panel`` and type ``kind``, or None. Raises Error on a folder that isn't that."""
        path = self.path(uuid)
        if not os.path.lexists(path):
            return None
        state = self.state(uuid)
        if state is None:
            raise Error(
                "%s/%s can't be read. marzban.tunnels.apply writes it again, where the panel has the tunnel."
                % (path, STATE)
            )
        self.check_own(state, panel, kind)
        return state

    def check_own(self, state: State, panel: str, kind: str) -> None:
        """Raises Error where a state is not of a tunnel of ``panel`` and type ``kind``."""
        path = self.path(state["uuid"])
        if state["panel"] != panel:
            raise Error("%s belongs to the panel %s: %s" % (path, state["panel"], anothers(state["panel"])))
        if state["type"] != kind:
            raise Error("%s holds a tunnel of the type %s." % (path, state["type"]))

    def write_state(self, state: State) -> None:
        """Writes the state of a tunnel; its folder is made if need be."""
        text = state_text(state)
        folder = self.path(state["uuid"])
        if os.path.isdir(folder):
            write(os.path.join(folder, STATE), text)
            return
        fresh = os.path.join(self.root, ".%s.new" % state["uuid"])
        try:
            self._make_root()
            shutil.rmtree(fresh, ignore_errors=True)
            os.mkdir(fresh, 0o700)
            write(os.path.join(fresh, STATE), text)
            os.rename(fresh, folder)
            sync_folder(self.root)
        except OSError as error:
            raise Error("%s can't be made: %s." % (folder, error.strerror)) from None

    def drop(self, uuid: str) -> None:
        """Removes the folder of a tunnel, and with it its private half."""
        gone = os.path.join(self.root, ".%s.gone" % validators.uuid(uuid))
        try:
            shutil.rmtree(gone, ignore_errors=True)
            os.rename(self.path(uuid), gone)
            sync_folder(self.root)
            shutil.rmtree(gone)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise Error("%s can't be removed: %s." % (self.path(uuid), error.strerror)) from None

    def sweep(self) -> None:
        """Removes what a run that was cut off left half made or half removed."""
        if not os.path.isdir(self.root):
            return
        for name in os.listdir(self.root):
            if re.match(r"\.[0-9a-f-]{36}\.(new|gone)\Z", name):
                shutil.rmtree(os.path.join(self.root, name), ignore_errors=True)

    def _make_root(self) -> None:
        os.makedirs(os.path.dirname(self.root), exist_ok=True)
        if not os.path.isdir(self.root):
            os.mkdir(self.root, 0o700)

    @contextlib.contextmanager
    def locked(self, wait: float = LOCK_WAIT, before_waiting: Callable[[], object] | None = None) -> Iterator[None]:
        """Keeps other runs, and the node service, off this host. Raises Busy after ``wait`` seconds.

        ``before_waiting`` is called once, where another one has the lock.
        """
        handle = self._lock(wait, before_waiting)
        try:
            yield
        finally:
            os.close(handle)

    def _lock(self, wait: float, before_waiting: Callable[[], object] | None) -> int:
        end = time.monotonic() + wait
        while True:
            try:
                self._make_root()
                handle = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError as error:
                raise Error("%s can't be made: %s." % (self.root, error.strerror)) from None
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.isdir(self.root) and os.path.samestat(os.fstat(handle), os.stat(self.root)):
                    return handle
            except BlockingIOError:
                if before_waiting:
                    before_waiting()
                    before_waiting = None
            os.close(handle)
            if time.monotonic() > end:
                raise Busy(
                    "Another run has been changing the tunnels of this host for %d s: wait for it, then run again."
                    % wait
                )
            time.sleep(0.1)

    def drop_root(self, service: bool = False) -> None:
        """Removes the place of the folders when none is left, and an empty ``marzban`` around it.

        ``service``: the node service is here. It can make them again only in what was there when it started.
        """
        parent = os.path.dirname(self.root)
        with contextlib.suppress(OSError):
            os.rmdir(self.root)
            if not service and os.path.basename(parent) == "marzban":
                os.rmdir(parent)


def anothers(panel: str) -> str:
    """How to remove what belongs to another panel."""
    hint = "remove the tunnel there first, or, if that panel does not exist any more, %s"
    return hint % "run marzban.tunnels.remove -e marzban_foreign=%s." % panel


def new_state(view: Mapping[str, Any]) -> State:
    """The state of a tunnel that has nothing on the host yet. ``view``: a view, or what of one is known."""
    local = view.get("local")
    return {
        "panel": view["panel"],
        "node": local["node"] if local else None,
        "id": view["id"],
        "uuid": view["uuid"],
        "name": view["name"],
        "type": view["type"],
        "version": view["version"],
        "interface": None,
        "public_key": None,
        "peer": None,
        "applied": {},
    }


def state_text(state: State) -> str:
    """The text of a state file."""
    return json.dumps(state, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def shown_text(state: State | None) -> str | None:
    """The text that a diff shows: without what says nothing of what runs, and without digests and times."""
    if state is None:
        return None
    shown = {key: value for key, value in state.items() if key not in ("version", "node", "public_key")}
    shown["applied"] = {key: value for key, value in state["applied"].items() if key not in ("rules", "psk_since")}
    return json.dumps(shown, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
