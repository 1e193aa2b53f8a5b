#!/usr/bin/python
# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: node_info
short_description: Read the panel's nodes
version_added: 0.1.0
description:
  - Returns the panel's nodes, all or one, as the panel has them. Nothing is checked, so invalid names are returned too.
author:
  - the marzban.tunnels authors (@marzban-tunnels)
extends_documentation_fragment:
  - marzban.tunnels.panel
attributes:
  check_mode:
    description: It only reads.
    support: full
  diff_mode:
    description: It changes nothing.
    support: none
options:
  name:
    description: Only the node of this name (case counts).
    type: str
seealso:
  - module: marzban.tunnels.node
"""

EXAMPLES = r"""
- name: Read all nodes
  marzban.tunnels.node_info:
    url: https://panel.example.com:8000
    username: admin
    password: "{{ vault_marzban_password }}"
  delegate_to: localhost
  become: false
  register: panel
"""

RETURN = r"""
nodes:
  description: The nodes, in the panel's order. Empty where no node matches.
  returned: success
  type: list
  elements: dict
  contains:
    id: {description: "The panel's id of the node. After it is deleted, another node may get this id.", type: int}
    name: {description: Its name., type: str}
    address: {description: Where the panel reaches it., type: str}
    port: {description: Port of its service., type: int}
    api_port: {description: Port of its Xray API., type: int}
    status: {description: "V(connected), V(connecting), V(error) or V(disabled).", type: str}
    usage_coefficient: {description: The factor by which traffic through it counts., type: float}
    xray_version: {description: "The version of its Xray, or null.", type: str}
    message: {description: "The panel's message about it, or null.", type: str}
  sample:
    - id: 1
      name: de-1
      address: 203.0.113.1
      port: 62050
      api_port: 62051
      status: connected
      usage_coefficient: 1.0
      xray_version: 1.8.24
      message: null
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.marzban.tunnels.plugins.module_utils._model import nodes as model_nodes
from ansible_collections.marzban.tunnels.plugins.module_utils._module import run
from ansible_collections.marzban.tunnels.plugins.module_utils._panel_module import open_panel, panel_argument_spec


def work(module: AnsibleModule) -> dict[str, Any]:
    name = module.params["name"]
    nodes = [model_nodes.info(raw) for raw in open_panel(module).nodes() if name is None or raw.get("name") == name]
    return {"changed": False, "nodes": nodes}


def main() -> None:
    run(work, dict(panel_argument_spec(), name={"type": "str"}))


if __name__ == "__main__":
    main()
