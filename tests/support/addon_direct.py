# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The module panel_addon on a lab host, without the seconds that Ansible takes for each run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import ansible

from ansible_collections.marzban.tunnels.plugins.action.panel_addon import read
from ansible_collections.marzban.tunnels.plugins.module_utils._installer import package
from tests.support.marzban import TOP
from tests.support.panel_hosts import ADDON, PanelHost

PLACE = "/root/addon-direct"
PLUGINS = "ansible_collections/marzban/tunnels/plugins"
GIVEN = {
    "state": "present",
    "installation": "auto",
    "compose_file": "/opt/marzban/docker-compose.yml",
    "compose_project": "marzban",
    "service": "marzban",
    "directory": "/var/lib/marzban/tunnels",
    "settings": {},
    "backup_directory": "/var/backups/marzban-tunnels",
    "health_timeout": 4,
    "versions": ["0.8.4"],
    "any_version": False,
    "remove_records": False,
    "packages_first": False,
}
SCRIPT = """
import json, sys
sys.path.insert(0, {place!r})
from {plugins}.module_utils._errors import Error
from {plugins}.module_utils._installer.install import Run
from {plugins}.module_utils._installer.removal import Removal
given, check = json.load(sys.stdin)
try:
    answer = (Run if given["state"] == "present" else Removal)(given, check).run()
except Error as error:
    answer = {{"failed": True, "msg": str(error)}}
print(json.dumps(answer))
"""


def prepare(host: PanelHost) -> None:
    """Puts the module's code on the host, with what it imports of Ansible."""
    ignore = shutil.ignore_patterns("__pycache__")
    core = Path(ansible.__file__).parent
    place = host.path(PLACE)
    shutil.copytree(core / "module_utils", place / "ansible/module_utils", ignore=ignore)
    (place / "ansible/__init__.py").touch()  # as Ansible itself sends it
    shutil.copytree(TOP / "plugins/module_utils", place / PLUGINS / "module_utils", ignore=ignore)


def run(host: PanelHost, check: bool = False, **given: Any) -> dict[str, Any]:
    """The module's answer; what a failed one says is in ``msg``."""
    wanted = {**GIVEN, "archive": package.pack(read(str(ADDON))), **given}
    script = SCRIPT.format(place=PLACE, plugins=PLUGINS.replace("/", "."))
    done = host.host.run(["python3", "-B", "-c", script], input=json.dumps([wanted, check]), timeout=300)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
