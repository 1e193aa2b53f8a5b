# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs on a lab host: what the node-side modules do, without the seconds that ssh and Ansible take for each run.

One call is one line of JSON on stdin, ``{"do", "check", "panel", "views", …}``, and is answered by one line,
``{"code", "answer"}``. Each call has a process of its own, which knows nothing of the calls before it. ``crash`` ends
that process, as a power failure would, before the step of that number: a write, a rename, a removal, or a command that
may change something; ``code`` is CRASHED then.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import sys
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from ansible_collections.marzban.tunnels.plugins.module_utils._errors import Error
from ansible_collections.marzban.tunnels.plugins.module_utils._model.validators import TYPES
from ansible_collections.marzban.tunnels.plugins.module_utils._node import host, state
from ansible_collections.marzban.tunnels.plugins.module_utils._node.health import health
from ansible_collections.marzban.tunnels.plugins.module_utils._node.reconcile import Apply
from ansible_collections.marzban.tunnels.plugins.module_utils._protocols import registry

CRASHED = 99


def crash_before(number: int) -> None:
    left = [number]

    def step() -> None:
        left[0] -= 1
        if left[0] < 0:
            os._exit(CRASHED)

    def wrap(place: object, name: str) -> None:
        original = getattr(place, name)

        def stepping(*args: object, **options: object) -> object:
            step()
            return original(*args, **options)

        setattr(place, name, stepping)

    wrap(host.Host, "run")
    for name in ("open", "rename", "unlink", "mkdir"):
        wrap(os, name)
    wrap(shutil, "rmtree")


def call(given: dict) -> dict:
    if given.get("crash") is not None:
        crash_before(given["crash"])
    folders = state.Folders(given.get("config_dir") or state.CONFIG_DIR)
    views, panel = given["views"], given["panel"]
    try:
        if given["do"] == "tunnel_health":
            return dict(health(host.Host(check=True), folders, panel, TYPES, views, given.get("wait", 0)))
        addresses = given.get("panel_addresses", ())
        run = Apply(
            host.Host(given["check"]), folders, panel, TYPES, given.get("probe", True), panel_addresses=addresses
        )
        going = given.get("remove", []), given.get("remove_all", False)
        exchanged = {name: given[name] for name in ("handed", "paired", "new_keys") if name in given}
        return dict(run.run(views, given["rendered"], *going, **exchanged))
    except Error as error:
        return {"failed": True, "msg": str(error)}


def in_a_process(given: dict) -> dict:
    """The exit code of a process for this call, and what it answered, or the traceback that it ended with."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # the calls to come are not for what it starts
        try:
            code, answer = 0, call(given)
        except Exception:
            code, answer = 1, {"traceback": traceback.format_exc()}
        with os.fdopen(writing, "w") as out:
            json.dump(answer, out)
        os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as answered:
        text = answered.read()
    _child, status = os.waitpid(child, 0)
    return {"code": os.WEXITSTATUS(status), "answer": json.loads(text) if text else None}


def load() -> None:
    """Imports once what each call would import for itself, which takes longer than many a call."""
    for kind in TYPES:
        registry.protocol(kind)
    for name in ("x509", "hazmat.primitives.asymmetric.ed25519", "hazmat.primitives.serialization"):
        with contextlib.suppress(ImportError):  # a host may lack it, or have an old one
            importlib.import_module(f"cryptography.{name}")


def main() -> None:
    load()
    for line in sys.stdin:
        print(json.dumps(in_a_process(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
