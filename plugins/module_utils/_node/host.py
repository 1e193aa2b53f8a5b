# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The host's commands. Nothing changes anything but ``Host.run``."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time

from .._errors import Error, printable

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TIMEOUT = 30  # seconds that a command may take
LEAST = 0.5  # seconds to read what a command has said by then: the pipe holds 64 KiB of it
PATIENCE = 10.0  # seconds that a process which may hang has for an answer


class CommandError(Error):
    """A command that failed. Its text never holds what the command read or what a secret command printed."""


class Hangs(CommandError):
    """A command that did not end in time."""


class Host:
    """This host. ``check`` is check mode: a command that would change something is refused by an assertion.

    ``patience``: seconds that ``ask`` waits for an answer.
    """

    def __init__(self, check: bool = False, patience: float = PATIENCE) -> None:
        self.check, self.patience = check, patience
        path = os.environ.get("PATH", "")
        self._environment = {"LC_ALL": "C", "PATH": PATH + (":" + path if path else "")}
        self._found: dict[str, bool] = {}
        self._started: dict[tuple[str, ...], tuple[subprocess.Popen[str], float]] = {}  # and when

    def has(self, program: str) -> bool:
        """Whether a program is on the PATH."""
        if program not in self._found:
            self._found[program] = shutil.which(program, path=self._environment["PATH"]) is not None
        return self._found[program]

    def prefetch(self, *commands: tuple[str, ...]) -> None:
        """Starts queries that will be wanted soon, so that they run at the same time: ``query`` takes their output.

        Each one is good for one query, and only until something is changed.
        """
        for argv in commands:
            if argv not in self._started and self.has(argv[0]):
                with contextlib.suppress(OSError):  # which the query itself reports
                    self._started[argv] = self._start(argv), time.monotonic()

    def drop_prefetched(self) -> None:
        """Forgets what was prefetched and not used: it may be older than what is on the host now."""
        for process, _begun in self._started.values():
            process.kill()
            process.communicate()
        self._started = {}

    def query(self, *argv: str, stdin: str | None = None, lenient: bool = False) -> str | None:
        """The output of a command that changes nothing, and None when it fails or isn't there.

        ``stdin`` is a text. With ``lenient`` the exit status does not count: what was printed is the answer.
        """
        try:
            return self._run(argv, stdin=stdin, lenient=lenient)
        except CommandError:
            return None

    def ask(self, *argv: str, lenient: bool = False, share: float = 1.0) -> str | None:
        """``query`` of a process that may hang. Raises Hangs.

        It has ``patience`` seconds since the question, or a ``share`` of them.
        """
        try:
            return self._run(argv, timeout=self.patience * share, lenient=lenient)
        except Hangs:
            raise
        except CommandError:
            return None

    def query_or_fail(self, *argv: str) -> str | None:
        """The same where a wrong answer would do harm: None only when the program isn't there. Raises CommandError."""
        return self._run(argv) if self.has(argv[0]) else None

    def run(self, *argv: str, stdin: str | None = None, timeout: float = TIMEOUT, secret: bool = False) -> str:
        """The output of a command that may change the host. Raises CommandError.

        ``stdin`` is a text, ``timeout`` seconds. With ``secret`` the error doesn't show what the command printed.
        """
        if self.check:
            raise AssertionError("check mode runs %s" % (argv,))
        self.drop_prefetched()
        return self._run(argv, stdin=stdin, timeout=timeout, secret=secret)

    def try_run(self, *argv: str, timeout: float = TIMEOUT) -> None:
        """``run`` for what may fail because it is done already."""
        with contextlib.suppress(CommandError):
            self.run(*argv, timeout=timeout)

    def start_units(self, action: str, *units: str, timeout: float = TIMEOUT) -> None:
        """Starts or restarts (``action``) units, also those that failed or started too often. Raises CommandError.

        systemd refuses the sixth start within ten seconds, and leaves the unit dead; several runs may be that quick.
        """
        self.try_run("systemctl", "reset-failed", *units)
        self.run("systemctl", action, *units, timeout=timeout)

    def _start(self, argv: tuple[str, ...]) -> subprocess.Popen[str]:
        return subprocess.Popen(  # pylint: disable=ansible-bad-function
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self._environment,
            cwd="/",
            universal_newlines=True,
            errors="replace",
        )

    def _run(
        self,
        argv: tuple[str, ...],
        stdin: str | None = None,
        timeout: float = TIMEOUT,
        secret: bool = False,
        lenient: bool = False,
    ) -> str:
        name = " ".join(argv)
        try:
            started = self._started.pop(argv) if argv in self._started else (self._start(argv), time.monotonic())
        except OSError as error:
            raise CommandError("%s can't be run: %s" % (printable(name), error.strerror)) from None
        process, begun = started
        with process:
            try:
                left = max(LEAST, begun + timeout - time.monotonic())
                output, said = process.communicate("" if stdin is None else stdin, left)
            except subprocess.TimeoutExpired:
                process.kill()
                raise Hangs("%s did not end in %d s" % (printable(name), timeout)) from None
            except BaseException:  # as subprocess.run has it
                process.kill()
                raise
        if process.returncode and not lenient:
            why = "" if secret else ": " + printable(said.strip() or output.strip())
            raise CommandError("%s ended with %d%s" % (printable(name), process.returncode, why.rstrip(".")))
        return output
