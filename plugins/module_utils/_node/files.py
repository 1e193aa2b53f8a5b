# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files on a node: written 0600 from their first instant, replaced by rename, and the folders that say what is ours.

``<config_dir>/<uuid>/`` (0700) holds ``state.json`` and what the protocol keeps there. A folder is never there
without its state: it is filled under another name and renamed, and renamed again before it is emptied. What a crash
leaves behind has a name that begins with a dot, and the next run sweeps it up.
"""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING

from .._errors import Error, FieldError

if TYPE_CHECKING:
    from .._model.shapes import FileDiff

_PATH = re.compile(r"(/[A-Za-z0-9_.-]+)+\Z")


def check_path(value: object, field: str) -> str:
    """An absolute path of plain characters, which is safe in a configuration that a shell reads. Raises FieldError."""
    hint = "Give an absolute path of the characters A-Z a-z 0-9 _ . - and /, without .. in it."
    text = value.rstrip("/") if isinstance(value, str) else ""
    if len(text) > 200 or not _PATH.match(text) or ".." in text.split("/") or "." in text.split("/"):
        raise FieldError(field, value, hint)
    return text


def read(path: str) -> str | None:
    """The text of a file, or None where there is none. Raises Error."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Error("%s can't be read: %s." % (path, error.strerror)) from None


def sync_folder(path: str) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write(path: str, text: str, mode: int = 0o600) -> None:
    """Makes ``path`` hold ``text``: all of it or what was there before, whenever the power goes."""
    fresh = path + ".new"
    try:
        if os.path.lexists(fresh):
            os.unlink(fresh)
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            if mode != 0o600:
                os.fchmod(stream.fileno(), mode)
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(fresh, path)
        sync_folder(os.path.dirname(path))
    except OSError as error:
        raise Error("%s can't be written: %s." % (path, error.strerror)) from None


def rename(old: str, new: str) -> None:
    """Gives a file another name, in place of one that may be there."""
    try:
        os.rename(old, new)
        sync_folder(os.path.dirname(new))
    except OSError as error:
        raise Error("%s can't be renamed to %s: %s." % (old, new, error.strerror)) from None


def remove(path: str) -> None:
    """Removes a file; one that isn't there is fine."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise Error("%s can't be removed: %s." % (path, error.strerror)) from None


def open_to_others(path: str) -> bool:
    """Whether others than root have a right to a file."""
    found = os.lstat(path)
    return bool(stat.S_IMODE(found.st_mode) & 0o077) or found.st_uid != os.geteuid()


def close_to_others(path: str) -> None:
    """Takes that right away."""
    try:
        os.chown(path, os.geteuid(), os.getegid())
        os.chmod(path, 0o600)
    except OSError as error:
        raise Error("%s can't be closed to others: %s." % (path, error.strerror)) from None


def file_diff(path: str, before: str | None, after: str | None) -> FileDiff:
    """One part of a diff: a file that was ``before`` and is ``after`` (None: no such file)."""
    return {"before_header": path, "after_header": path, "before": before or "", "after": after or ""}
