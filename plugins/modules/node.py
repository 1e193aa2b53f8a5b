#!/usr/bin/python
# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: node
short_description: Record, change or delete a node on the panel
version_added: 0.1.0
description:
  - Makes the panel's record of one node match what is declared. Options that are not given stay as on the panel.
  - The panel reconnects to a node with each change of its record, so nothing is sent when nothing differs.
  - A new node gets no subscription hosts (C(add_as_new_host) is false).
author:
  - the marzban.tunnels authors (@marzban-tunnels)
extends_documentation_fragment:
  - marzban.tunnels.panel
attributes:
  check_mode:
    description: Answers what would change, and sends no write.
    support: full
  diff_mode:
    description: Shows what is declared, before and after.
    support: full
options:
  name:
    description: The node's name. Case counts.
    type: str
    required: true
  state:
    description:
      - Whether the node exists. With V(absent) the panel also deletes the tunnels that end at it.
    type: str
    choices: [present, absent]
    default: present
  new_name:
    description: The new name of the node. Nothing changes when the node has this name already.
    type: str
  address:
    description: Host name or IP address of the node. Required to create it.
    type: str
  port:
    description: Port of the node's service. A new node gets the panel's default, 62050.
    type: int
  api_port:
    description: Port of the node's Xray API. A new node gets the panel's default, 62051.
    type: int
  usage_coefficient:
    description: The factor by which the node's traffic is counted, above 0. A new node gets the panel's default, 1.
    type: float
  status:
    description: Whether the panel uses the node.
    type: str
    choices: [enabled, disabled]
seealso:
  - module: marzban.tunnels.node_info
"""

EXAMPLES = r"""
- name: Record a node
  marzban.tunnels.node:
    url: https://panel.example.com:8000
    username: admin
    password: "{{ vault_marzban_password }}"
    name: de-1
    address: 203.0.113.1
  delegate_to: localhost
  become: false

- name: Take it out of use
  marzban.tunnels.node:
    url: https://panel.example.com:8000
    token: "{{ vault_marzban_token }}"
    name: de-1
    status: disabled
  delegate_to: localhost
  become: false
"""

RETURN = r"""
node:
  description: The node as it is now (in check mode, as it would be).
  returned: when O(state=present)
  type: dict
  contains:
    id: {description: "The panel's id of the node. Null in check mode for a node that would be created.", type: int}
    name: {description: Its name., type: str}
    address: {description: Where the panel reaches it., type: str}
    port: {description: Port of its service., type: int}
    api_port: {description: Port of its Xray API., type: int}
    status: {description: "V(connected), V(connecting), V(error) or V(disabled).", type: str}
    usage_coefficient: {description: The factor by which traffic through it counts., type: float}
    xray_version: {description: "The version of its Xray, or null.", type: str}
    message: {description: "The panel's message about it, or null.", type: str}
  sample:
    id: 1
    name: de-1
    address: 203.0.113.1
    port: 62050
    api_port: 62051
    status: connecting
    usage_coefficient: 1.0
    xray_version: null
    message: null
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import FieldError
from ansible_collections.marzban.tunnels.plugins.module_utils._model import nodes, records, validators
from ansible_collections.marzban.tunnels.plugins.module_utils._model.shapes import Raw
from ansible_collections.marzban.tunnels.plugins.module_utils._module import run
from ansible_collections.marzban.tunnels.plugins.module_utils._panel.client import Panel
from ansible_collections.marzban.tunnels.plugins.module_utils._panel_module import open_panel, panel_argument_spec


def find(raws: list[Raw], name: str, new_name: str | None) -> tuple[Raw | None, str]:
    """``(node or None, its name after this call)``. Raises FieldError where the new name is another node's."""
    by_name = {raw["name"]: raw for raw in raws if isinstance(raw.get("name"), str)}
    if new_name is None or new_name == name:
        return by_name.get(name), name
    if name in by_name and new_name in by_name:
        # The panel answers this with a 500.
        raise FieldError("new_name", new_name, "Another node has this name: choose another, or delete that node.")
    if name not in by_name and new_name not in by_name:
        raise FieldError("name", name, "The panel has no such node to rename.")
    return by_name.get(name) or by_name[new_name], new_name


def change(module: AnsibleModule, panel: Panel, raw: Raw, want: Raw) -> tuple[bool, Raw]:
    """Makes the node ``raw`` what is wanted; answers ``(changed, node)``."""
    status = module.params["status"]
    body = nodes.difference(want, raw)
    was_disabled = raw.get("status") == "disabled"
    disabled = was_disabled if status is None else status == "disabled"
    if not body and disabled == was_disabled:
        return False, raw
    if disabled:
        body["status"] = "disabled"  # left out, the panel enables the node
    if module.check_mode:
        return True, dict(raw, **body, **({} if disabled else {"status": "connecting"}))
    return True, panel.update_node(validators.integer(raw.get("id"), "id", 1, records.MAX_ID), body)


def create(module: AnsibleModule, panel: Panel, want: Raw) -> Raw:
    """The new node. What the panel does not take at creation is sent afterwards."""
    if "address" not in want:
        raise FieldError("address", None, "The node does not exist yet: give its address to create it.")
    if module.check_mode:
        node = dict(nodes.DEFAULTS, status="connecting")
        node.update(want)
    else:
        sent = {key: value for key, value in want.items() if key != "usage_coefficient"}
        node = panel.create_node(dict(sent, add_as_new_host=False))
    return change(module, panel, node, want)[1]


def work(module: AnsibleModule) -> dict[str, Any]:
    options = module.params
    panel = open_panel(module)
    want = nodes.from_options(options)
    raw, name = find(panel.nodes(), options["name"], options["new_name"])
    before = nodes.declared(raw) if raw else {}
    if options["state"] == "absent":
        if raw and not module.check_mode:
            panel.delete_node(validators.integer(raw.get("id"), "id", 1, records.MAX_ID))
        return {"changed": raw is not None, "diff": {"before": before, "after": {}}}
    if raw is None or raw.get("name") != name:
        want["name"] = validators.node_name(name, "name" if options["new_name"] is None else "new_name")
    changed, node = change(module, panel, raw, want) if raw else (True, create(module, panel, want))
    return {
        "changed": changed,
        "node": nodes.info(node),
        "diff": {"before": before, "after": nodes.declared(node)},
    }


def main() -> None:
    run(
        work,
        {
            **panel_argument_spec(),
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "new_name": {"type": "str"},
            "address": {"type": "str"},
            "port": {"type": "int"},
            "api_port": {"type": "int"},
            "usage_coefficient": {"type": "float"},
            "status": {"type": "str", "choices": ["enabled", "disabled"]},
        },
    )


if __name__ == "__main__":
    main()
