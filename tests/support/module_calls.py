# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules that work on the controller, called without Ansible in between, which takes ten times as long.

    (check, real) = call([("node", {"name": "de-1"}, True), ("node", {"name": "de-1"}, False)], env)

This file is both the client and, started as a program, the process: it reads a call a line, ``[module, options,
check_mode]`` in JSON, runs each as Ansible's wrapper would, in a process of its own, and answers the module's result.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[2]
PACKAGE = "ansible_collections.marzban.tunnels.plugins.modules"
Call = tuple[str, dict[str, Any], bool]  # the module's name, its options, check mode


def call(calls: Sequence[Call], env: Mapping[str, str]) -> list[dict[str, Any]]:
    """The modules' results, in order, each with ``failed``. Nobody shows warnings here, so they are in the results."""
    done = subprocess.run(
        [sys.executable, __file__],
        input="".join(json.dumps(call) + "\n" for call in calls),
        env=dict(env),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = [{"failed": False, **json.loads(line)} for line in done.stdout.splitlines()]
    assert len(results) == len(calls), done.stdout
    return results


def answer(module: str, options: dict[str, Any], check: bool) -> str:
    """What the module prints, or the traceback that it ended with."""
    with tempfile.TemporaryFile("w+") as said:
        child = os.fork()
        if child == 0:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            basic: Any = importlib.import_module("ansible.module_utils.basic")
            given = {**options, "_ansible_check_mode": check, "_ansible_diff": True}
            basic._ANSIBLE_ARGS = json.dumps({"ANSIBLE_MODULE_ARGS": given}).encode()
            basic._ANSIBLE_PROFILE = "legacy"  # ansible-core 2.18 and older has only this one, without a name
            importlib.import_module(f"{PACKAGE}.{module}").main()
            sys.exit("the module ended without a result")
        os.waitpid(child, 0)
        said.seek(0)
        return said.read().strip()


def serve() -> None:
    """Answers calls until the input ends."""
    sys.path.insert(0, str(TOP / ".cache/collections"))
    calls: list[Call] = [json.loads(line) for line in sys.stdin]
    for module in {module for module, _options, _check in calls}:
        importlib.import_module(f"{PACKAGE}.{module}")  # once for all calls, which fork from here
    for call in calls:
        print(json.dumps(json.loads(answer(*call))), flush=True)


if __name__ == "__main__":
    serve()
