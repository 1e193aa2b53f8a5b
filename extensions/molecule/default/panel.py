# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""`panel.py LAB FOLDER`: starts the embedded panel, with its files in FOLDER, and prints how it is reached, as JSON.

It belongs to the lab's control group, and so ends with the lab.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tests.lab import cgroup
from tests.support.panel import Panel


def main(lab: str, folder: str) -> None:
    group = cgroup.group(lab, "panel")
    group.mkdir(parents=True, exist_ok=True)
    (group / "cgroup.procs").write_text(str(os.getpid()))  # with this process in it, so is the panel
    os.setsid()  # an interrupt at the terminal is for molecule, which then takes the lab down
    panel = Panel.start(folder, env={"NODE_API_KEY": secrets.token_hex(32)})
    print(
        json.dumps(
            {"url": panel.url, "username": panel.username, "password": panel.password, "ca_path": panel.ca_path},
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
