# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The host's commands. Nothing changes anything but ``Host.run``."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess

from .._errors import Error, printable

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TIMEOUT = 30  # seconds that a command may take


class CommandError(Error):
    """A command that failed. Its text never holds what the command read or what a secret command printed."""


class Host:
    """This host. ``check`` is check mode: a command that would change something is refused by an assertion."""

    def __init__(self, check=False):
        self.check = check
        path = os.environ.get("PATH", "")
        self._environment = {"LC_ALL": "C", "PATH": PATH + (":" + path if path else "")}

    def has(self, program):
        """Whether a program is on the PATH."""
        return shutil.which(program, path=self._environment["PATH"]) is not None

    def query(self, *argv, **options):
        """The output of a command that changes nothing, and None when it fails or isn't there. Options as ``run``."""
        try:
            return self._run(argv, **options)
        except CommandError:
            return None

    def query_or_fail(self, *argv):
        """The same where a wrong answer would do harm: None only when the program isn't there. Raises CommandError."""
        return self._run(argv) if self.has(argv[0]) else None

    def run(self, *argv, **options):
        """The output of a command that may change the host. Raises CommandError.

        ``stdin`` is a text, ``timeout`` seconds. With ``secret`` the error doesn't show what the command printed.
        """
        if self.check:
            raise AssertionError("check mode runs %s" % (argv,))
        return self._run(argv, **options)

    def try_run(self, *argv, **options):
        """``run`` for what may fail because it is done already."""
        with contextlib.suppress(CommandError):
            self.run(*argv, **options)

    def _run(self, argv, stdin=None, timeout=TIMEOUT, secret=False):
        name = " ".join(argv)
        try:
            done = subprocess.run(  # pylint: disable=ansible-bad-function
                argv,
                input="" if stdin is None else stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=self._environment,
                cwd="/",
                timeout=timeout,
                universal_newlines=True,
                errors="replace",
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise CommandError("%s did not end in %d s" % (printable(name), timeout)) from None
        except OSError as error:
            raise CommandError("%s can't be run: %s" % (printable(name), error.strerror)) from None
        if done.returncode:
            said = "" if secret else ": " + printable(done.stderr.strip() or done.stdout.strip())
            raise CommandError("%s ended with %d%s" % (printable(name), done.returncode, said.rstrip(".")))
        return done.stdout
