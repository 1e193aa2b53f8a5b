# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The checks of a run, as a process on any Python from 3.8: a node has an old one, a controller a new one.

    with RunChecks("/usr/bin/python3.9") as run:
        assert run.refusal("validators.route", "10.0.0.0/8", "routes") is None

This file is both the client and, started as a program, the process: it reads a call a line, ``[check, arguments]`` in
JSON, and answers ``null`` or the error's text.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Protocol

TOP = Path(__file__).resolve().parents[2]


class Checks(Protocol):
    def refusal(self, check: str, *arguments: Any) -> str | None:
        """What ``check`` (such as ``validators.port`` of ``_model``) says against its arguments; None where it takes
        them. An error of another kind than FieldError is raised, or ends the process, and so the test."""


class Here:
    """In this process, without the way through JSON."""

    def __init__(self, package: str = "ansible_collections.marzban.tunnels.plugins.module_utils") -> None:
        self._package = package
        self._error = importlib.import_module(package + "._errors").FieldError

    def refusal(self, check: str, *arguments: Any) -> str | None:
        module, function = check.split(".")
        try:
            getattr(importlib.import_module(f"{self._package}._model.{module}"), function)(*arguments)
        except self._error as error:
            return str(error)
        return None


class RunChecks:
    """``python`` is the interpreter's path."""

    def __init__(self, python: str) -> None:
        self._process = subprocess.Popen(
            [python, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="ascii"
        )

    def refusal(self, check: str, *arguments: Any) -> str | None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps([check, arguments]) + "\n")
        self._process.stdin.flush()
        said: str | None = json.loads(self._process.stdout.readline())
        return said

    def __enter__(self) -> RunChecks:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.communicate()


def serve() -> None:
    """Answers calls until the input ends."""
    sys.path.insert(0, str(TOP))
    here = Here("plugins.module_utils")
    for line in sys.stdin:
        check, arguments = json.loads(line)
        print(json.dumps(here.refusal(check, *arguments)), flush=True)


if __name__ == "__main__":
    serve()
