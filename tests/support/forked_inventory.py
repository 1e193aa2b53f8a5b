# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""``ansible-inventory``, of a Python that has loaded Ansible already and forks for each call: half the time of a start.

A call is a line of JSON on stdin, and answered by a line with the exit code. What Ansible's own settings say is read at
the start, and is the same for all calls; the collection's are each call's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any


class ForkedInventory:
    """Its calls have the environment of the start, and what is given with each."""

    def __init__(self, directory: Path, env: dict[str, str], cwd: Path) -> None:
        self.directory = directory
        command = [sys.executable, str(Path(__file__).resolve())]
        self._process = subprocess.Popen(
            command, env=env, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> ForkedInventory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()

    def run(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        """What ``ansible-inventory`` does with these words."""
        assert self._process.stdin
        assert self._process.stdout
        out, errors = self.directory / "inventory.stdout", self.directory / "inventory.stderr"
        whole = ["ansible-inventory", *words]
        given = {"words": whole, "env": env, "out": str(out), "errors": str(errors)}
        self._process.stdin.write(json.dumps(given) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        return subprocess.CompletedProcess(whole, code, out.read_text(), errors.read_text())


def call(given: dict[str, Any]) -> None:
    """In a process of its own, which ends with it."""
    from ansible.cli.inventory import InventoryCLI

    for number, path in ((0, os.devnull), (1, given["out"]), (2, given["errors"])):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), number)
    os.environ.update(given["env"])
    code = 250
    try:
        InventoryCLI.cli_executor(given["words"])
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    import ansible.cli.inventory  # noqa: F401  what every call would load

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            call(json.loads(line))
        _child, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
