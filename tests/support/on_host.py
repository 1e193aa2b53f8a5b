# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs on a lab host: what the node-side modules do, without the seconds that ssh and Ansible take for each run.

Reads ``{"do", "check", "panel", "views", …}`` from stdin. ``crash`` ends the process, as the power would, before the
step of that number: a write, a rename, a removal, or a command that may change something.
"""

from __future__ import annotations

import json
import os
import shutil
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from ansible_collections.marzban.tunnels.plugins.module_utils._errors import Error
from ansible_collections.marzban.tunnels.plugins.module_utils._model.validators import TYPES
from ansible_collections.marzban.tunnels.plugins.module_utils._node import host, state
from ansible_collections.marzban.tunnels.plugins.module_utils._node.health import health
from ansible_collections.marzban.tunnels.plugins.module_utils._node.reconcile import Apply

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


def main() -> None:
    given = json.load(sys.stdin)
    if given.get("crash") is not None:
        crash_before(given["crash"])
    folders = state.Folders(given.get("config_dir") or state.CONFIG_DIR)
    views, panel = given["views"], given["panel"]
    try:
        if given["do"] == "tunnel_health":
            answer = health(host.Host(check=True), folders, panel, TYPES, views, given.get("wait", 0))
        else:
            run = Apply(host.Host(given["check"]), folders, panel, TYPES, given.get("probe", True))
            going = given.get("remove", []), given.get("remove_all", False)
            answer = run.run(views, given["rendered"], *going, given.get("handed"), given.get("together", ()))
    except Error as error:
        answer = {"failed": True, "msg": str(error)}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
