#!/usr/bin/python
# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: tunnel_views
short_description: Read the tunnels as the nodes of a play see them
version_added: 0.1.0
description:
  - Reads all records of the panel once, and returns for each host the tunnels that end there, with everything that
    M(marzban.tunnels.tunnel_apply) needs.
  - When the panel can't be read completely, the task fails. A partial list is never returned.
  - It works on the controller and needs neither C(delegate_to) nor a Python of a host.
  - Instead of a panel, a list in O(records) can be read.
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
  nodes:
    description:
      - The hosts and the names of their nodes, from inventory host to node name.
      - An empty name means the host's own name.
      - If it is not given, the hosts of the play are taken, with the nodes that P(marzban.tunnels.nodes#inventory)
        gives them in C(marzban_node).
    type: dict
  records:
    description:
      - A list of tunnels, instead of a panel. Each has C(name), C(id), C(source), C(target) (names of nodes) and
        C(config), and may have C(type), C(active) and C(public).
      - C(config.source) and C(config.target) have C(endpoint), C(port) (not for C(ipsec)) and C(addresses),
        and may have C(endpoint_port).
      - An empty text is the same as not given.
    type: raw
  list_name:
    description: The name of that list. Tunnels of a list with another name are left alone.
    type: str
    default: local
  published:
    description:
      - With O(records), the public halves that the hosts of this run have made,
        from inventory host to a list of C(uuid) and C(public). Further keys are ignored.
    type: dict
    default: {}
  orphans:
    description:
      - Tunnels that M(marzban.tunnels.tunnel_apply) found on hosts and that are not in their views,
        from inventory host to a list of C(id), C(uuid) and C(node). The panel is asked for each one by itself.
      - C(node) is the node that the tunnel was made for on this host. A tunnel that exists and does not end there is
        deleted for it too; without C(node) only one that does not exist.
      - Invalid items of O(orphans) and O(published) are left out with a warning.
    type: dict
    default: {}
  post_quantum:
    description:
      - Post-quantum key exchange, for tunnels whose record does not choose.
      - V(auto) uses it where both ends can. V(require) refuses a tunnel without it. V(off) never uses it.
    type: str
    choices: [auto, require, "off"]
    default: auto
    version_added: 0.2.0
seealso:
  - module: marzban.tunnels.tunnel_apply
  - module: marzban.tunnels.tunnel_info
"""

EXAMPLES = r"""
- name: Read the tunnels of this play's hosts
  marzban.tunnels.tunnel_views:
    url: https://panel.example.com:8000
    username: admin
    password: "{{ vault_marzban_password }}"
    nodes: {de-1: de-1, fi-1: fi-1}
  run_once: true
  register: read

- name: The same without a panel
  marzban.tunnels.tunnel_views:
    nodes: {de-1: de-1, fi-1: fi-1}
    list_name: home
    records:
      - name: de-fi
        id: 1
        source: de-1
        target: fi-1
        config:
          source: {endpoint: 203.0.113.1, port: 20001, addresses: [10.201.0.0/31]}
          target: {endpoint: 203.0.113.2, port: 20001, addresses: [10.201.0.1/31]}
  run_once: true
"""

RETURN = r"""
panel:
  description: The id of the panel, or of the hand-written list.
  returned: success
  type: str
  sample: 9d2f3c1e-4b5a-4c6d-8e7f-0a1b2c3d4e5f
views:
  description: For each host of O(nodes) its tunnels, ordered by id.
  returned: success
  type: dict
  contains:
    inventory_hostname:
      description: The tunnels that end at this host's node, each as that node sees it.
      type: list
      elements: dict
      contains:
        panel: {description: The id of the panel., type: str}
        id: {description: The panel's number of the tunnel., type: int}
        uuid: {description: The tunnel's UUID., type: str}
        name: {description: "Its name, or null.", type: str}
        type: {description: Its protocol., type: str}
        active: {description: Whether it is to run., type: bool}
        version: {description: The version of the record., type: int}
        interface: {description: Its network interface on this host., type: str}
        mtu: {description: "Bytes, or null where the node finds it.", type: int}
        keepalive: {description: "Seconds between two packets that keep the way open, 0 for none.", type: int}
        dial: {description: Whether this end opens the connection., type: bool}
        dialed: {description: Whether the other end does., type: bool}
        transport: {description: V(udp) or V(tcp)., type: str}
        post_quantum: {description: "V(auto), V(require) or V(off).", type: str}
        routes: {description: What this host sends into the tunnel., type: list, elements: str}
        local:
          description: This end.
          type: dict
          contains:
            node: {description: The name of its node., type: str}
            role: {description: V(source) or V(target)., type: str}
            endpoint: {description: Host name or IP address where the other end finds it., type: str}
            port: {description: The port where it listens., type: int}
            endpoint_port:
              description: The port that the other end dials at C(endpoint). It is C(port), or what a NAT maps to that.
              type: int
            addresses: {description: Its addresses inside the tunnel., type: list, elements: str}
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
                next_fingerprint: {description: Of its next certificate., returned: OpenVPN with one, type: str}
                accepts: {description: Of its peer's newest certificate., returned: OpenVPN with one, type: str}
        peer: {description: The other end. It has the same keys as C(local)., type: dict}
confirmed_deleted:
  description: For each host of O(orphans) those that the panel itself says it does not have there.
  returned: success
  type: dict
  contains:
    inventory_hostname: {description: Their UUIDs., type: list, elements: str}
  sample: {de-1: [1b4e28ba-2fa1-41d2-883f-0016d3cca427]}
gone:
  description: The former name of RV(confirmed_deleted). It goes with 1.0.
  returned: success
  type: dict
list_digest:
  description: A digest of O(records), or null where a panel was read.
  returned: success
  type: str
broken:
  description: Records that can't be used. The others are not touched by that.
  returned: success
  type: list
  elements: dict
  contains:
    id: {description: "The panel's number of the tunnel, or null.", type: int}
    uuid: {description: "The tunnel's UUID, or null.", type: str}
    name: {description: "Its name, or null.", type: str}
    nodes: {description: The names of its nodes that can be told., type: list, elements: str}
    error: {description: Why it can't be used., type: str}
  sample:
    - id: 5
      uuid: 2f1c28ba-2fa1-41d2-883f-0016d3cca427
      name: de-us
      nodes: [de-1, us-1]
      error: "source.port: 99999 can't be used. Give an integer from 1 to 65535 (without quotes)."
"""
