# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files that are somebody else's, read and written byte for byte, and programs whose errors hold no secret."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Collection, Mapping
from typing import NamedTuple

from .._errors import Error, printable
from .._node.host import CommandError
from .probe import redacted

CALL = 120  # seconds that a program may take


class Edit(NamedTuple):
    """A change of a file. ``before``, ``after``: the whole text, None for no file; ``shown``: our lines of each, and
    only these are ever shown; ``what``: in a word."""

    path: str
    before: str | None
    after: str | None
    shown: tuple[str, str]
    what: str


def read(path: str) -> str | None:
    """A file's text, byte for byte, or None where it does not exist. Raises Error."""
    try:
        with open(path, "rb") as stream:
            return stream.read().decode("utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise Error("%s is not UTF-8 at byte %d: correct it, and run again." % (path, error.start)) from None
    except OSError as error:
        raise Error("%s can't be read: %s." % (path, error.strerror)) from None


def write(path: str, text: str | None) -> None:
    """Makes a file hold the text, or not be there (None). Who may read it stays as it was. Raises Error."""
    path = os.path.realpath(path)
    fresh = path + ".marzban-tunnels"
    try:
        if text is None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            return
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "wb") as stream:
            stream.write(text.encode("utf-8"))
            like = os.stat(path) if os.path.exists(path) else os.stat(os.path.dirname(path))
            os.fchown(stream.fileno(), like.st_uid, like.st_gid)
            if os.path.exists(path):
                shutil.copymode(path, fresh)
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(fresh, path)
    except OSError as error:
        raise Error("%s can't be written: %s." % (path, error.strerror)) from None


def output(
    argv: list[str], secrets: Collection[str], environment: Mapping[str, str], cwd: str = "/", timeout: float = CALL
) -> str:
    """The output of a command. Raises CommandError, with the last line of what it said, less the secrets."""
    name = printable(" ".join(argv), 200)
    try:
        done = subprocess.run(  # pylint: disable=ansible-bad-function
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=cwd,
            timeout=timeout,
            universal_newlines=True,
            errors="replace",
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CommandError("%s did not end in %d s" % (name, timeout)) from None
    except OSError as error:
        raise CommandError("%s can't be run: %s" % (name, error.strerror)) from None
    if done.returncode:
        said = redacted(done.stderr, secrets).strip().rpartition("\n")[2]
        raise CommandError("%s ended with %d: %s" % (name, done.returncode, printable(said, 300).rstrip(".")))
    return done.stdout
