# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files on a node: written 0600 from their first instant, replaced by rename, and the folders that say what is ours.

``<config_dir>/<uuid>/`` (0700) holds ``state.json`` and what the protocol keeps there. A folder never stands there
without its state: it is filled under another name and renamed, and renamed again before it is emptied. What a crash
leaves behind has a name that begins with a dot, and the next run sweeps it up.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import json
import os
import re
import shutil
import stat
import time

from ansible_collections.marzban.tunnels.plugins.module_utils import _checks
from ansible_collections.marzban.tunnels.plugins.module_utils._errors import Error, FieldError

CONFIG_DIR = "/etc/marzban/tunnels"
STATE = "state.json"
_PATH = re.compile(r"(/[A-Za-z0-9_.-]+)+\Z")
LOCK_WAIT = 60  # seconds


def check_path(value, field):
    """An absolute path of plain characters, which is safe in a configuration that a shell reads. Raises FieldError."""
    mend = "Give an absolute path of the characters A-Z a-z 0-9 _ . - and /, without .. in it."
    text = value.rstrip("/") if isinstance(value, str) else ""
    if len(text) > 200 or not _PATH.match(text) or ".." in text.split("/") or "." in text.split("/"):
        raise FieldError(field, value, mend)
    return text


def read(path):
    """The text of a file, or None where there is none. Raises Error."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Error("%s can't be read: %s." % (path, error.strerror)) from None


def _sync_folder(path):
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write(path, text):
    """Makes ``path`` hold ``text`` (0600): all of it or what was there before, whenever the power goes."""
    fresh = path + ".new"
    try:
        if os.path.lexists(fresh):
            os.unlink(fresh)
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(fresh, path)
        _sync_folder(os.path.dirname(path))
    except OSError as error:
        raise Error("%s can't be written: %s." % (path, error.strerror)) from None


def rename(old, new):
    """Gives a file another name, in place of one that may be there."""
    try:
        os.rename(old, new)
        _sync_folder(os.path.dirname(new))
    except OSError as error:
        raise Error("%s can't be renamed to %s: %s." % (old, new, error.strerror)) from None


def remove(path):
    """Removes a file; one that isn't there is fine."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise Error("%s can't be removed: %s." % (path, error.strerror)) from None


def open_to_others(path):
    """Whether others than root have a right to a file."""
    found = os.lstat(path)
    return bool(stat.S_IMODE(found.st_mode) & 0o077) or found.st_uid != os.geteuid()


def close_to_others(path):
    """Takes that right away."""
    try:
        os.chown(path, os.geteuid(), os.getegid())
        os.chmod(path, 0o600)
    except OSError as error:
        raise Error("%s can't be closed to others: %s." % (path, error.strerror)) from None


class Folders:
    """The folders below one ``config_dir``."""

    def __init__(self, config_dir):
        self.root = check_path(config_dir, "config_dir")

    def path(self, uuid, name=None):
        """The folder of a tunnel, or a file in it."""
        folder = os.path.join(self.root, _checks.uuid(uuid))
        return folder if name is None else os.path.join(folder, name)

    def states(self):
        """``{uuid: state}`` of all folders, another panel's too. A state that can't be read is None."""
        try:
            names = sorted(os.listdir(self.root))
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise Error("%s can't be read: %s." % (self.root, error.strerror)) from None
        found = {}
        for name in names:
            try:
                found[_checks.uuid(name)] = self._state(name)
            except FieldError:
                continue
        return found

    def _state(self, uuid):
        """The state in a folder with the shape that the code relies on, or None."""
        try:
            state = json.loads(read(self.path(uuid, STATE)) or "")
            if state["uuid"] != uuid:
                return None
            _checks.uuid(state["panel"])
            _checks.tunnel_type(state["type"])
            if state["interface"] is not None:
                _checks.interface(state["interface"])
            if state.get("peer") is not None:
                _checks.mapping(state["peer"], "peer")
            applied = _checks.mapping(state.setdefault("applied", {}), "applied")
            for text in [*(applied.get("addresses") or []), *(applied.get("routes") or [])]:
                ipaddress.ip_interface(text)
        except (Error, ValueError, KeyError, TypeError):
            return None
        return state

    def own(self, uuid, panel, kind):
        """The state of a tunnel of ``panel`` and type ``kind``, or None. Raises Error on a folder that isn't that."""
        path = self.path(uuid)
        if not os.path.lexists(path):
            return None
        state = self._state(uuid)
        if state is None:
            raise Error(
                "%s/%s can't be read. Put it back, or move the folder away to make the tunnel anew." % (path, STATE)
            )
        if state["panel"] != panel:
            raise Error("%s belongs to the panel %s: remove the tunnel there first." % (path, state["panel"]))
        if state["type"] != kind:
            raise Error("%s holds a tunnel of the type %s." % (path, state["type"]))
        return state

    def write_state(self, state):
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
            _sync_folder(self.root)
        except OSError as error:
            raise Error("%s can't be made: %s." % (folder, error.strerror)) from None

    def drop(self, uuid):
        """Removes the folder of a tunnel, and with it its private half."""
        gone = os.path.join(self.root, ".%s.gone" % _checks.uuid(uuid))
        try:
            shutil.rmtree(gone, ignore_errors=True)
            os.rename(self.path(uuid), gone)
            _sync_folder(self.root)
            shutil.rmtree(gone)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise Error("%s can't be removed: %s." % (self.path(uuid), error.strerror)) from None

    def sweep(self):
        """Removes what a run that was cut off left half made or half removed."""
        if not os.path.isdir(self.root):
            return
        for name in os.listdir(self.root):
            if re.match(r"\.[0-9a-f-]{36}\.(new|gone)\Z", name):
                shutil.rmtree(os.path.join(self.root, name), ignore_errors=True)

    def _make_root(self):
        os.makedirs(os.path.dirname(self.root), exist_ok=True)
        if not os.path.isdir(self.root):
            os.mkdir(self.root, 0o700)

    def lock(self, wait=LOCK_WAIT):
        """Keeps other runs off this host until the process ends. Raises Error after ``wait`` seconds."""
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
                pass
            os.close(handle)
            if time.monotonic() > end:
                raise Error(
                    "Another run has been changing the tunnels of this host for %d s: wait for it, then run again."
                    % wait
                )
            time.sleep(0.1)

    def drop_root(self):
        """Removes the place of the folders when none is left, and an empty ``marzban`` around it."""
        parent = os.path.dirname(self.root)
        with contextlib.suppress(OSError):
            os.rmdir(self.root)
            if os.path.basename(parent) == "marzban":
                os.rmdir(parent)


def state_text(state):
    """The text of a state file."""
    return json.dumps(state, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
