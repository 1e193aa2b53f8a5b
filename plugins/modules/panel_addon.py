#!/usr/bin/python
# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Gives a Marzban the tunnels add-on. The work is in module_utils/_installer, the packing in the action plugin."""

from __future__ import annotations

DOCUMENTATION = r"""
module: panel_addon
short_description: Give a Marzban panel the tunnels API, or remove it
version_added: 0.3.0
description:
  - Puts the add-on's files on the host of a stock Marzban, starts Marzban through the add-on, and checks that it
    answers. If it does not, the old state is put back, and the task fails with the reason.
  - Marzban's own code is not changed. In files of the operator only marked lines are added, and V(absent) restores
    exactly the bytes that were there.
  - What can't be changed safely is refused before any change.
  - The role P(marzban.tunnels.panel#role) calls this module.
author:
  - the marzban.tunnels authors (@marzban-tunnels)
requirements:
  - Marzban, answering
  - Python 3.8 or newer (on the host)
  - root (on the host)
  - Docker Compose 2 (on the host), where Marzban runs in a container
options:
  state:
    description:
      - V(present) installs the add-on. V(absent) removes it, and its tables from the database.
      - On a panel that does not start with the add-on any more, V(absent) brings the panel back without it, and leaves
        the tables where they can't be reached. V(present) does the same where a restart does not help, and fails.
    type: str
    choices: [present, absent]
    default: present
  installation:
    description:
      - How Marzban runs. V(auto) finds out, and refuses a host that has both.
      - V(compose) is how Marzban's installation script does it, with one service in O(compose_file).
      - V(systemd) is a folder with a Python environment, run by the unit O(service).
    type: str
    choices: [auto, compose, systemd]
    default: auto
  compose_file:
    description:
      - The file with Marzban's service. Its C(.env) is beside it.
    type: path
    default: /opt/marzban/docker-compose.yml
  compose_project:
    description:
      - The name of the Compose project.
    type: str
    default: marzban
  service:
    description:
      - The name of the systemd unit.
    type: str
    default: marzban
  directory:
    description:
      - The folder of the add-on's files, on the host and in the container alike. Nothing else may be in it.
    type: str
    default: /var/lib/marzban/tunnels
  source:
    description:
      - A folder on the controller with your own add-on. The default is the collection's.
    type: path
  settings:
    description:
      - The add-on's settings, by their names in the environment, as C(TUNNEL_IPV4_POOL), C(TUNNEL_IPV6_POOL) and
        C(TUNNEL_PORT_RANGE). They are written into Marzban's C(.env).
    type: dict
    default: {}
  backup_directory:
    description:
      - The folder for copies of files before they are changed, and of records before they are deleted. For root only.
    type: str
    default: /var/backups/marzban-tunnels
  health_timeout:
    description:
      - How long to wait until the panel answers after its restart, in seconds. After that everything is put back.
    type: int
    default: 60
  versions:
    description:
      - The versions of Marzban that the add-on is known to work with. Others are refused.
    type: list
    elements: str
    default: [0.8.4]
  any_version:
    description:
      - Whether to try with any version of Marzban.
    type: bool
    default: false
  remove_records:
    description:
      - Whether V(absent) deletes tunnels that the panel still has. They are written to O(backup_directory) before.
      - Without it V(absent) is refused while there are tunnels.
    type: bool
    default: false
  packages_first:
    description:
      - Whether V(present) changes nothing, and answers RV(packages), where E(TUNNEL_METRICS_KEY) is in Marzban's
        environment and this host lacks the library for metrics. Without it the add-on is installed without metrics.
    type: bool
    default: false
  archive:
    description:
      - Set by the action plugin. Leave it out.
    type: str
attributes:
  check_mode:
    support: full
    description: Checks everything, and reports what would be refused or changed.
  diff_mode:
    support: full
    description: Shows only the add-on's own lines of a file, because the others contain passwords.
  platform:
    platforms: linux
    support: full
    description: Linux.
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
"""

EXAMPLES = r"""
- name: Give the panel the tunnels API
  marzban.tunnels.panel_addon:

- name: With addresses of your own, in a Marzban that systemd runs
  marzban.tunnels.panel_addon:
    installation: systemd
    settings:
      TUNNEL_IPV4_POOL: 10.77.0.0/16

- name: Take it away again
  marzban.tunnels.panel_addon:
    state: absent
"""

RETURN = r"""
changes:
  description: What was changed, or would be in check mode.
  type: list
  elements: str
  returned: success
  sample: ["/opt/marzban/docker-compose.yml: command written", "/var/lib/marzban/tunnels: add-on written", "restarted"]
installation:
  description: How Marzban runs here, V(compose) or V(systemd); null where Marzban is not installed.
  type: str
  returned: success
  sample: compose
version:
  description: Marzban's version. Null with O(state=absent).
  type: str
  returned: success
  sample: 0.8.4
panel:
  description: The id by which the nodes know the panel's tunnels. Null where it does not answer with the add-on.
  type: str
  returned: success
  sample: 0d1f3b52-7c9e-4c8e-9b0f-3a2d5e6f7a81
packages:
  description:
    - The packages that bring the library for metrics, where E(TUNNEL_METRICS_KEY) is in Marzban's environment and this
      host lacks it. It is copied from this host beside the add-on, because Marzban's own Python does not have it.
  type: list
  elements: str
  returned: success
  sample: [python3-prometheus-client]
backups:
  description: The copies that were made of changed files, on the host.
  type: list
  elements: str
  returned: success
  sample: [/var/backups/marzban-tunnels/docker-compose.yml.20261125T101500Z]
records:
  description: The file on the host with the records that O(remove_records) has deleted, or null.
  type: str
  returned: success
  sample: /var/backups/marzban-tunnels/tunnels.json.20261125T101500Z
left:
  description:
    - What V(absent) could not remove from a panel that did not answer with the add-on any more, and why.
    - It is also a warning.
  type: str
  returned: success
  version_added: 0.3.0
  sample: null
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.marzban.tunnels.plugins.module_utils._installer.install import Run
from ansible_collections.marzban.tunnels.plugins.module_utils._installer.removal import Removal
from ansible_collections.marzban.tunnels.plugins.module_utils._module import run


def work(module: AnsibleModule) -> dict[str, Any]:
    """The module's answer."""
    kind = Run if module.params["state"] == "present" else Removal
    answer = kind(module.params, module.check_mode).run()
    if answer["left"]:
        module.warn(answer["left"])
    return answer


def main() -> None:
    """Hands the options over; what belongs to what is checked in ``work``."""
    run(
        work,
        {
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "installation": {"type": "str", "choices": ["auto", "compose", "systemd"], "default": "auto"},
            "compose_file": {"type": "path", "default": "/opt/marzban/docker-compose.yml"},
            "compose_project": {"type": "str", "default": "marzban"},
            "service": {"type": "str", "default": "marzban"},
            "directory": {"type": "str", "default": "/var/lib/marzban/tunnels"},
            "source": {"type": "path"},
            "settings": {"type": "dict", "default": {}},
            "backup_directory": {"type": "str", "default": "/var/backups/marzban-tunnels"},
            "health_timeout": {"type": "int", "default": 60},
            "versions": {"type": "list", "elements": "str", "default": ["0.8.4"]},
            "any_version": {"type": "bool", "default": False},
            "remove_records": {"type": "bool", "default": False},
            "packages_first": {"type": "bool", "default": False},
            "archive": {"type": "str", "no_log": True},  # long, and no business of a log
        },
    )


if __name__ == "__main__":
    main()
