#!/usr/bin/python
# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: tunnel_info
short_description: Read the panel's tunnels
version_added: 0.1.0
description:
  - Returns the panel's records of tunnels, all or one.
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
    description: Only the tunnel of this name (case counts).
    type: str
  id:
    description: Only the tunnel of this id.
    type: int
  only_ports:
    description: Return RV(ports) and RV(mapped_ports) without RV(tunnels), which is short enough to read.
    type: bool
    default: false
    version_added: 0.3.0
seealso:
  - module: marzban.tunnels.tunnel
"""

EXAMPLES = r"""
- name: Read all tunnels
  marzban.tunnels.tunnel_info:
    url: https://panel.example.com:8000
    username: admin
    password: "{{ vault_marzban_password }}"
  delegate_to: localhost
  become: false
  register: panel

- name: Open the ports of this node (its name is the host's)
  community.general.ufw:
    rule: allow
    port: "{{ item | split('/') | first }}"
    proto: "{{ item | split('/') | last }}"
  loop: "{{ panel.ports[inventory_hostname] | default([]) }}"

- name: Name those that are not active
  ansible.builtin.debug:
    msg: "{{ panel.tunnels | rejectattr('status', 'eq', 'active') | map(attribute='name') }}"
"""

RETURN = r"""
tunnels:
  description: The tunnels, ordered by id. Empty where no tunnel matches.
  returned: unless O(only_ports)
  type: list
  elements: dict
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
    - id: 3
      uuid: 1b4e28ba-2fa1-41d2-883f-0016d3cca427
      name: de-fi
      type: wireguard
      active: true
      version: 1
      status: active
      source: de-1
      target: fi-1
      config: {}
      error: null
      ends:
        - role: source
          node: de-1
          node_id: 1
          endpoint: 203.0.113.1
          port: 20003
          endpoint_port: 20003
          addresses: [10.201.0.6/31, fd6d:7a00::6/127]
          interface: mz3
          routes: []
          public: {public_key: 3yRcvhYNOUBQWBvdqO3OjQuWm5yu4kwZLZCQ4U1wWGo=}
          status: active
          error: null
          measured:
            handshake_age: 5
            rx_bytes: 1480
            tx_bytes: 1480
            rtt_ms: 0.5
            loss_percent: 0
            cipher: ChaCha20-Poly1305
            key_exchange: X25519
            post_quantum: false
            data_path: kernel
            certificate_days: null
            mtu: 1440
          age: 12
ports:
  description:
    - For each node, where its firewall has to let packets of these tunnels in, as C(ufw allow) and
      C(firewall-cmd --add-port) take it. Tunnels that are not active, and ends to which nobody dials, need none.
    - IPsec also needs the protocol ESP where both kernels carry it.
    - These are the ports at which the nodes listen. RV(mapped_ports) has those of a NAT in front of them.
  returned: success
  type: dict
  sample: {de-1: [4500/udp, 20003/udp], fi-1: [20004/udp]}
mapped_ports:
  description:
    - For each node with ends behind a NAT that has other ports for them (C(endpoint_port)), what that NAT has to map.
    - Tunnels that are not active, and ends to which nobody dials, need nothing.
  returned: success
  type: dict
  version_added: 0.3.0
  contains:
    node_name:
      description: What is to be mapped for the node of this name.
      type: list
      elements: dict
      contains:
        endpoint: {description: Host name or IP address of the NAT., type: str}
        endpoint_port: {description: Its port., type: int}
        protocol: {description: V(udp) or V(tcp)., type: str}
        port: {description: The port of the node that it has to lead to., type: int}
  sample: {fi-1: [{endpoint: 198.51.100.20, endpoint_port: 443, protocol: udp, port: 20004}]}
panel:
  description: The id of the panel.
  returned: success
  type: str
  sample: 9d2f3c1e-4b5a-4c6d-8e7f-0a1b2c3d4e5f
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import PanelError
from ansible_collections.marzban.tunnels.plugins.module_utils._model import records, validators
from ansible_collections.marzban.tunnels.plugins.module_utils._model.names import composed
from ansible_collections.marzban.tunnels.plugins.module_utils._module import run
from ansible_collections.marzban.tunnels.plugins.module_utils._panel_module import open_panel, panel_argument_spec


def work(module: AnsibleModule) -> dict[str, Any]:
    name, tunnel_id = module.params["name"], module.params["id"]
    panel = open_panel(module)
    if tunnel_id is not None:
        try:
            raws = [panel.tunnel(validators.integer(tunnel_id, "id", 1, records.MAX_ID))]
        except PanelError as error:
            if error.kind != "not_found":
                raise
            raws = []
    else:
        raws = [raw for raw in panel.tunnels() if name is None or composed(raw.get("name")) == composed(name)]
    good = records.parse_all(raws)[0]
    found = {"changed": False, "ports": records.ports(good), "mapped_ports": records.mapped_ports(good)}
    found["panel"] = panel.id
    if not module.params["only_ports"]:
        found["tunnels"] = [records.info(raw) for raw in raws]
    return found


def main() -> None:
    spec = dict(
        panel_argument_spec(), name={"type": "str"}, id={"type": "int"}, only_ports={"type": "bool", "default": False}
    )
    run(work, spec, mutually_exclusive=[("name", "id")])


if __name__ == "__main__":
    main()
