#!/usr/bin/python
# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: tunnel
short_description: Record, change or delete a tunnel on the panel
version_added: 0.1.0
description:
  - Makes the panel's record of one tunnel match what is declared. Options that are not given stay as on the panel.
  - The module does not change the nodes. The playbook C(marzban.tunnels.apply) or M(marzban.tunnels.tunnel_apply) does
    that; where nodes have the node service, the panel does it within seconds.
  - A record that somebody else changes at the same time is not overwritten. The task fails, and can be run again.
author:
  - the marzban.tunnels authors (@marzban-tunnels)
extends_documentation_fragment:
  - marzban.tunnels.panel
  - marzban.tunnels.tunnel
attributes:
  check_mode:
    description: Answers what would change, and sends no write.
    support: full
  diff_mode:
    description: Shows what is declared, before and after.
    support: full
options:
  state:
    description: Whether the record exists.
    type: str
    choices: [present, absent]
    default: present
  new_name:
    description:
      - The name that the tunnel gets. Where it has that name already, nothing is renamed.
      - Its nodes keep its interface, addresses and keys, and no packet is lost.
    type: str
    version_added: 0.3.0
seealso:
  - module: marzban.tunnels.tunnel_set
  - module: marzban.tunnels.tunnel_info
"""

EXAMPLES = r"""
- name: Join two nodes
  marzban.tunnels.tunnel:
    url: https://panel.example.com:8000
    username: admin
    password: "{{ vault_marzban_password }}"
    name: de-fi
    source: de-1
    target: fi-1
    config:
      source:
        routes: [192.168.1.0/24]
  delegate_to: localhost
  become: false

- name: Join two nodes, one of them behind a NAT that maps port 443 to the node's port 20012
  marzban.tunnels.tunnel:
    url: https://panel.example.com:8000
    token: "{{ vault_marzban_token }}"
    name: de-ir
    source: de-1
    target: ir-1
    config:
      target:
        endpoint: 198.51.100.20
        endpoint_port: 443
        port: 20012
  delegate_to: localhost
  become: false

- name: Switch it off and change nothing else
  marzban.tunnels.tunnel:
    url: https://panel.example.com:8000
    token: "{{ vault_marzban_token }}"
    name: de-fi
    active: false
  delegate_to: localhost
  become: false

- name: Rename it
  marzban.tunnels.tunnel:
    url: https://panel.example.com:8000
    token: "{{ vault_marzban_token }}"
    name: de-fi
    new_name: frankfurt-helsinki
  delegate_to: localhost
  become: false

- name: Delete it
  marzban.tunnels.tunnel:
    url: https://panel.example.com:8000
    token: "{{ vault_marzban_token }}"
    name: de-fi
    state: absent
  delegate_to: localhost
  become: false
"""

RETURN = r"""
tunnel:
  description:
    - The record as it is now (in check mode, as it would be).
    - What the panel chooses is not known in check mode. So C(id) and C(uuid) of a new tunnel are null, and C(ends) is
      empty where the panel would choose new ones.
  returned: when O(state=present)
  type: dict
  contains:
    id: {description: "The panel's id of the tunnel. It is never used again.", type: int}
    uuid: {description: The tunnel's UUID., type: str}
    name: {description: "Its name, or null.", type: str}
    type: {description: Its protocol., type: str}
    active: {description: Whether it runs., type: bool}
    version: {description: An integer that grows with each change of the record., type: int}
    status: {description: "V(active), V(inactive), V(error) or V(connecting), as last reported.", type: str}
    source: {description: The name of one node., type: str}
    target: {description: The name of the other node., type: str}
    config: {description: What the operator chose for it., type: dict}
    ends:
      description: The source's end and the target's.
      type: list
      elements: dict
      contains:
        role: {description: V(source) or V(target)., type: str}
        node: {description: The name of its node., type: str}
        node_id: {description: The panel's id of that node., type: int}
        endpoint: {description: Host name or IP address where the other end reaches it., type: str}
        port: {description: The port where it listens., type: int}
        endpoint_port:
          description: The port that the other end dials at C(endpoint). It is C(port), or what a NAT maps to that.
          type: int
        addresses: {description: Its addresses inside the tunnel., type: list, elements: str}
        interface: {description: Its network interface., type: str}
        routes: {description: The networks behind it., type: list, elements: str}
        public:
          description: Its public half, or null.
          type: dict
          contains:
            public_key: {description: "Its public key, in base64.", type: str}
            next_public_key: {description: Of its next key., returned: while there is one, type: str}
            accepts_public_key: {description: The next key of its peer., returned: while there is one, type: str}
            psk_fingerprint: {description: Of its pre-shared key., returned: WireGuard with one, type: str}
            fingerprint: {description: Of its certificate., returned: OpenVPN, type: str}
            next_fingerprint: {description: Of its next certificate., returned: OpenVPN while it renews, type: str}
            accepts: {description: Of its peer's newest certificate., returned: OpenVPN with its peer's, type: str}
        status: {description: "The status that it reported last, or null.", type: str}
        error: {description: "The error that it reported, or null.", type: str}
        measured:
          description: What was measured there last, or null.
          type: dict
          contains:
            handshake_age: {description: "Seconds since the last handshake, or null.", type: int}
            rx_bytes: {description: "Bytes received, or null.", type: int}
            tx_bytes: {description: "Bytes sent, or null.", type: int}
            rtt_ms: {description: "Round-trip time of a ping in milliseconds, or null.", type: float}
            loss_percent: {description: "Percentage of lost pings, or null.", type: float}
            cipher: {description: "The negotiated cipher, or null.", type: str}
            key_exchange: {description: "The negotiated key exchange, or null.", type: str}
            post_quantum: {description: "Whether that resists quantum computers, or null.", type: bool}
            data_path: {description: "V(kernel) or V(userspace), or null.", type: str}
            certificate_days: {description: "Days until its certificate ends, or null.", type: int}
            mtu: {description: "Bytes of the largest packet that passed in the last probe, or null.", type: int}
        age: {description: "Seconds since its last report, or null.", type: float}
    error:
      description: Why the record can't be used, or null. Fields of such a record that are not valid are null.
      type: str
  sample:
    id: 3
    uuid: 1b4e28ba-2fa1-41d2-883f-0016d3cca427
    name: de-fi
    type: wireguard
    active: true
    version: 1
    status: connecting
    source: de-1
    target: fi-1
    config: {source: {routes: [192.168.1.0/24]}}
    ends:
      - role: source
        node: de-1
        node_id: 1
        endpoint: 203.0.113.7
        port: 20003
        endpoint_port: 20003
        addresses: [10.201.0.6/31, fd6d:7a00::6/127]
        interface: mz3
        routes: [192.168.1.0/24]
        public: null
        status: null
        error: null
        measured: null
        age: null
      - role: target
        node: fi-1
        node_id: 2
        endpoint: 198.51.100.9
        port: 20003
        endpoint_port: 20003
        addresses: [10.201.0.7/31, fd6d:7a00::7/127]
        interface: mz3
        routes: []
        public: null
        status: null
        error: null
        measured: null
        age: null
    error: null
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.marzban.tunnels.plugins.module_utils._model import desired, records, validators
from ansible_collections.marzban.tunnels.plugins.module_utils._model.names import by_look, check_alike, composed
from ansible_collections.marzban.tunnels.plugins.module_utils._module import run
from ansible_collections.marzban.tunnels.plugins.module_utils._panel.client import Panel
from ansible_collections.marzban.tunnels.plugins.module_utils._panel_module import open_panel, panel_argument_spec


def delete(module: AnsibleModule, panel: Panel) -> dict[str, Any]:
    raw = desired.find(panel.tunnels(), module.params["name"])
    if raw and not module.check_mode:
        panel.delete_tunnel(raw["id"], desired.version(raw))
    return {"changed": raw is not None, "diff": {"before": desired.declared(raw) if raw else {}, "after": {}}}


def work(module: AnsibleModule) -> dict[str, Any]:
    options = module.params
    panel = open_panel(module)
    if options["state"] == "absent":
        return delete(module, panel)
    named = any(options[role] is not None for role in validators.ROLES)
    nodes = desired.Nodes(panel.nodes()) if named else None
    want = desired.from_options(options, nodes)
    field, raws = "name", panel.tunnels()
    if options["new_name"] is None:
        raw = desired.find(raws, want["name"])
    else:
        raw = desired.find_to_rename(raws, want["name"], options["new_name"])
        field, want["name"] = "new_name", validators.tunnel_name(composed(options["new_name"]), "new_name")
    before = desired.declared(raw) if raw else {}
    body = desired.body_to_update(want, raw) if raw else desired.body_to_create(want)
    if raw and not body:
        return {"changed": False, "tunnel": records.info(raw), "diff": {"before": before, "after": before}}
    panel.check_known(body)
    after = desired.declared({**(raw or {}), **body}, nodes)
    if module.check_mode:
        if "name" in body and panel.refuses_alike_names():
            check_alike(want["name"], field, by_look(other.get("name") for other in raws if other is not raw))
        tunnel = desired.predicted(raw, body, nodes)
    elif raw:
        sent = desired.to_wire(body)
        tunnel = records.info(panel.update_tunnel(raw["id"], sent, desired.version(raw)))
    else:
        tunnel = records.info(panel.create_tunnel(desired.to_wire(body)))
    return {"changed": True, "tunnel": tunnel, "diff": {"before": before, "after": after}}


def main() -> None:
    state = {"type": "str", "choices": ["present", "absent"], "default": "present"}
    more = {"state": state, "new_name": {"type": "str"}}
    run(work, {**panel_argument_spec(), **desired.tunnel_argument_spec(), **more})


if __name__ == "__main__":
    main()
