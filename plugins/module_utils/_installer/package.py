# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The add-on's files: packed on the controller into one text, and as a folder on the panel's host."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
from typing import Dict

from .._errors import Error
from .._node.files import check_path
from .._node.files import read as read_text
from .._node.files import write as write_private
from . import library

OURS = ("start.py", "marzban_tunnels", library.FOLDER)
CACHE = "__pycache__"
Files = Dict[str, bytes]  # by their paths below the folder


def pack(files: Files) -> str:
    """One text out of ``{relative path: bytes}``; the same one for the same files."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted(files):
            member = tarfile.TarInfo(name)
            member.size = len(files[name])
            tar.addfile(member, io.BytesIO(files[name]))
    return base64.b64encode(gzip.compress(stream.getvalue(), 9, mtime=0)).decode("ascii")


def unpacked(text: str) -> Files:
    """``{relative path: bytes}``, of which nothing is known yet; empty for what ``pack`` does not make."""
    try:
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(base64.b64decode(text))), mode="r:") as tar:
            return {entry.name: tar.extractfile(entry).read() for entry in tar if entry.isfile()}  # type: ignore[union-attr]
    except (ValueError, OSError, EOFError, tarfile.TarError):
        return {}


def unpack(text: str) -> Files:
    """The add-on's files, ``{relative path: bytes}``. Raises Error on what is not the add-on."""
    files = unpacked(text)
    if "start.py" not in files or any(not _is_ours(name) for name in files):
        raise Error("The controller did not send the add-on: call this as marzban.tunnels.panel_addon.")
    return files


def _is_ours(name: str) -> bool:
    words = name.split("/")
    return words[0] in OURS and not {"", ".", ".."} & set(words)


def digest(files: Files) -> str:
    """A short text that is the same for the same files."""
    told = "".join("%s %s\n" % (name, hashlib.sha256(files[name]).hexdigest()) for name in sorted(files))
    return hashlib.sha256(told.encode("utf-8")).hexdigest()[:16]


def listings(before: Files | None, after: Files | None) -> tuple[str, str]:
    """For a diff, ``(before, after)``: a line for each file that changes, or one for all where all come or go."""
    if not before or not after:
        return _summary(before), _summary(after)
    changed = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    return _list(before, changed), _list(after, changed)


def _summary(files: Files | None) -> str:
    return "%d files, digest %s\n" % (len(files), digest(files)) if files else ""


def _list(files: Files, names: list[str]) -> str:
    listed = [(hashlib.sha256(files[name]).hexdigest()[:16], name) for name in names if name in files]
    return "".join("%s %s\n" % pair for pair in listed)


def read(folder: str) -> Files:
    """The files below a folder, without what Python leaves behind. Raises OSError."""
    found = {}
    for place, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = sorted(name for name in folders if name != CACHE)
        for name in names:
            path = os.path.join(place, name)
            with open(path, "rb") as stream:
                found[os.path.relpath(path, folder)] = stream.read()
    return found


def _raise(error: OSError) -> None:
    raise error


class Made:
    """The folders that were made for what is ours, as ``{path: inode}`` in the file ``mark``. Only these are removed
    with it: a folder that was there before is the operator's, also an empty one."""

    def __init__(self, mark: str) -> None:
        self._mark = mark
        self._now: list[str] = []  # by this run

    def make(self, folder: str) -> None:
        """Makes a folder, and those above it that are missing. Raises OSError, or Error."""
        missing: list[str] = []
        while not os.path.isdir(folder):
            missing.insert(0, folder)
            folder = os.path.dirname(folder)
        if not missing:
            return
        known = self._read()
        for path in missing:
            os.mkdir(path, 0o755)
            known[path] = os.stat(path).st_ino
        self._now += missing
        os.makedirs(os.path.dirname(self._mark), mode=0o700, exist_ok=True)
        self._write(known)

    def undo(self) -> None:
        """Removes those that this run has made."""
        known = self._read()
        for path in reversed(self._now):
            self._remove(path, known.pop(path, None))
        self._now = []
        self._write(known)

    def remove(self) -> None:
        """Removes all that are empty, and forgets the others."""
        known = self._read()
        for path in sorted(known, key=len, reverse=True):  # what is inside of another comes first
            self._remove(path, known[path])
        self._write({})

    def _read(self) -> dict[str, int]:
        try:
            known = json.loads(read_text(self._mark) or "{}")
        except ValueError:
            return {}
        return known if isinstance(known, dict) else {}

    def _write(self, known: dict[str, int]) -> None:
        if known:
            write_private(self._mark, json.dumps(known))
        else:
            with contextlib.suppress(OSError):
                os.unlink(self._mark)

    @staticmethod
    def _remove(path: str, inode: int | None) -> None:
        with contextlib.suppress(OSError):  # it is not empty, or somebody has removed it
            if os.lstat(path).st_ino == inode:
                os.rmdir(path)


def write_beside(path: str, files: Files) -> None:
    """Writes what ``path`` is to hold into a new folder beside it. Raises OSError."""
    fresh = beside(path)[0]
    for name, content in files.items():
        place = os.path.join(fresh, *name.split("/"))
        os.makedirs(os.path.dirname(place), mode=0o755, exist_ok=True)
        with open(place, "wb") as stream:
            stream.write(content)
            os.fsync(stream.fileno())
    # Others than root read them; nothing in there is secret.
    for folder, _folders, found in os.walk(fresh):
        os.chmod(folder, 0o755)  # noqa: S103
        for name in found:
            os.chmod(os.path.join(folder, name), 0o644)


def swap(path: str) -> None:
    """Gives the new folder the place of the former one, which stays beside it. Raises OSError."""
    fresh, old = beside(path)
    if os.path.isdir(path):
        os.rename(path, old)
    os.rename(fresh, path)


def settle(path: str) -> None:
    """Removes what is beside the folder, so that there is no way back. Also after a run that was cut off."""
    fresh, old = beside(path)
    if os.path.isdir(old) and not os.path.isdir(path):
        os.rename(old, path)
    for left in (fresh, old):
        shutil.rmtree(left, ignore_errors=True)


def beside(path: str) -> tuple[str, str]:
    """Where the new folder and the former one are, as long as they are beside it."""
    above, name = os.path.split(path)
    return os.path.join(above, ".%s.new" % name), os.path.join(above, ".%s.old" % name)


class Folder:
    """Where the files are, all of them ours. A new one takes the old one's place by rename, and the old one stays
    beside it until ``settle``."""

    def __init__(self, path: str, made: Made) -> None:
        self.path = check_path(path, "directory (panel_directory in the role)")
        self._made = made
        self._moved = False
        self.start = os.path.join(self.path, "start.py")

    def files(self) -> Files | None:
        """``{relative path: bytes}``, and None where there is no folder. Raises Error where it is not ours alone."""
        if not os.path.lexists(self.path):
            return None
        try:
            names = os.listdir(self.path) if not os.path.islink(self.path) else ["a link"]
            foreign = sorted(set(names) - {*OURS, CACHE})
            if foreign:
                raise Error(
                    "%s holds what is not the add-on's: %s. Give it a folder of its own as directory "
                    "(panel_directory in the role)." % (self.path, ", ".join(foreign[:3]))
                )
            return read(self.path)
        except OSError as error:
            raise Error("%s can't be read: %s." % (self.path, error.strerror)) from None

    def put(self, files: Files) -> None:
        """Makes the folder hold these files. Raises Error."""
        try:
            self.settle()
            self._made.make(os.path.dirname(self.path))
            write_beside(self.path, files)
            self._moved = True
            swap(self.path)
        except OSError as error:
            raise Error("%s can't be written: %s." % (self.path, error.strerror)) from None

    def remove(self) -> None:
        """Removes the folder, at once: no reader sees half of it."""
        self.settle()
        fresh = beside(self.path)[0]
        os.rename(self.path, fresh)
        shutil.rmtree(fresh)

    def put_back(self) -> None:
        """Undoes what ``put`` of this run has done."""
        if not self._moved:
            return
        shutil.rmtree(self.path, ignore_errors=True)
        old = beside(self.path)[1]
        if os.path.isdir(old):
            os.rename(old, self.path)

    def settle(self) -> None:
        """There is no way back after this."""
        settle(self.path)
