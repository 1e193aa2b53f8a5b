#!/usr/bin/python
# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The status of a host's tunnels. The work is in module_utils/_node/health.py."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tunnel_health
short_description: Measure a node's tunnels
version_added: 0.1.0
description:
  - Returns the status of each tunnel of one host as the panel shows it, with the age of the handshake, the counters,
    and the round trip and loss of pings inside the tunnel. All tunnels are measured at the same time.
  - It can wait until traffic passes. When the time is over it returns what it measured, and does not fail.
  - It changes nothing.
author:
  - the marzban.tunnels authors (@marzban-tunnels)
requirements:
  - what M(marzban.tunnels.tunnel_apply) needs
options:
  views:
    description:
      - The tunnels as this host sees them, as M(marzban.tunnels.tunnel_views) answers them for one host.
    type: list
    elements: raw
    required: true
  panel:
    description:
      - The id of the panel that the views are from, as M(marzban.tunnels.tunnel_views) answers it.
    type: str
    required: true
  types:
    description:
      - The types of tunnels that this task handles.
    type: list
    elements: str
    choices: [wireguard, openvpn, ipsec]
    default: [wireguard, openvpn, ipsec]
  config_dir:
    description:
      - Where the host keeps one folder per tunnel.
      - The default is E(TUNNEL_CONFIG_DIR) of the controller, else V(/etc/marzban/tunnels).
    type: str
  wait:
    description:
      - Seconds to wait until every active tunnel is V(active), from 0 to 600.
      - It does not wait for tunnels that lack the other end's public half.
    type: int
    default: 0
attributes:
  check_mode:
    support: full
    description: It changes nothing in any case.
  diff_mode:
    support: none
    description: It changes nothing.
  platform:
    platforms: linux
    support: full
    description: Linux with systemd.
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
seealso:
  - module: marzban.tunnels.tunnel_apply
"""

EXAMPLES = r"""
# read is the answer of marzban.tunnels.tunnel_views; the first example of marzban.tunnels.tunnel_apply shows all steps.
- name: Wait until traffic passes in all tunnels
  marzban.tunnels.tunnel_health:
    panel: "{{ read.panel }}"
    views: "{{ read.views[inventory_hostname] }}"
    wait: 15
  register: health

- name: Insist on it
  ansible.builtin.assert:
    that: health.tunnels | rejectattr('status', 'in', ['active', 'inactive']) | length == 0
"""

RETURN = r"""
tunnels:
  description: One entry for each of the views of O(types).
  type: list
  elements: dict
  returned: success
  contains:
    uuid: {description: The tunnel's UUID. It and the next fields are null where the view has no such thing., type: str}
    id: {description: Its number on the panel., type: int}
    name: {description: Its name on the panel., type: str}
    version: {description: The version of the record., type: int}
    type: {description: Its protocol., type: str}
    interface: {description: Its network interface on this host., type: str}
    node: {description: This node., type: str}
    peer: {description: The node at the other end., type: str}
    role: {description: "V(source) or V(target), this end's role in the record.", type: str}
    status:
      description:
        - V(inactive), the record is not active.
        - V(connecting), it waits for the other end's public half, or had no handshake in the 3 minutes since it was
          started.
        - V(active), a ping inside the tunnel came back.
        - V(error), anything else.
      type: str
      sample: active
    error: {description: "What was expected, what was seen, and what to do. Null if nothing is wrong.", type: str}
    symptom:
      description:
        - What is wrong, in one word, which is the anchor of its row in docs/trouble.md. Null if nothing is wrong, or
          where the error says all there is.
        - One of V(not-installed), V(no-answer), V(keys), V(connecting), V(no-packets), V(large-packets), V(flapping),
          V(dies), V(taken-away), V(reinstalled), V(unreachable).
      type: str
      sample: no-answer
      version_added: 0.3.0
    refused: {description: Whether the view can't be used., type: bool}
    waiting_for: {description: "The node whose public half nobody knows yet, or null.", type: str}
    note:
      description: What else a tunnel that is V(connecting) waits for, or null.
      type: str
      version_added: 0.3.0
    measured:
      description: What was measured, or null for a tunnel that does not run.
      type: dict
      contains:
        handshake_age: {description: "Seconds since the last handshake, or null.", type: int}
        rx_bytes: {description: "Bytes received, or null.", type: int}
        tx_bytes: {description: "Bytes sent, or null.", type: int}
        rtt_ms: {description: "Milliseconds of a ping's way there and back, or null.", type: float}
        loss_percent: {description: "Percent of the pings that were lost, or null.", type: float}
        cipher: {description: "What encrypts, as negotiated, or null.", type: str}
        key_exchange: {description: "How the session's key was agreed on, or null.", type: str}
        post_quantum: {description: "Whether that holds against quantum computers, or null.", type: bool}
        data_path: {description: "V(kernel) or V(userspace), or null.", type: str}
        certificate_days: {description: "Days until this end's certificate ends, or null where it has none.", type: int}
        mtu: {description: "Bytes of the largest packet that passed in the last probe, or null.", type: int}
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.marzban.tunnels.plugins.module_utils._model import validators
from ansible_collections.marzban.tunnels.plugins.module_utils._model.validators import TYPES
from ansible_collections.marzban.tunnels.plugins.module_utils._module import run
from ansible_collections.marzban.tunnels.plugins.module_utils._node.health import health
from ansible_collections.marzban.tunnels.plugins.module_utils._node.host import Host
from ansible_collections.marzban.tunnels.plugins.module_utils._node.state import CONFIG_DIR, Folders


def work(module: AnsibleModule) -> dict[str, Any]:
    """The answer. Raises Error."""
    given = module.params
    folders = Folders(given["config_dir"] or CONFIG_DIR)
    wait = validators.integer(given["wait"], "wait", 0, 600)
    panel = validators.uuid(given["panel"], "panel")
    return dict(health(Host(check=True), folders, panel, given["types"], given["views"], wait))


def main() -> None:
    """Takes what tunnel_apply takes, but for what changes something."""
    run(
        work,
        {
            "views": {"type": "list", "elements": "raw", "required": True},
            "panel": {"type": "str", "required": True},
            "types": {"type": "list", "elements": "str", "choices": list(TYPES), "default": list(TYPES)},
            "config_dir": {"type": "str"},
            "wait": {"type": "int", "default": 0},
        },
    )


if __name__ == "__main__":
    main()
