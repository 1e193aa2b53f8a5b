#!/usr/bin/python
# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: tunnel_publish
short_description: Send the public halves of tunnels to the panel
version_added: 0.1.0
description:
  - Sends the public halves (never anything private) that nodes have made, all in one request. The other end of each
    tunnel gets them with its view.
  - What the panel has already is not sent again.
author:
  - the marzban.tunnels authors (@marzban-tunnels)
extends_documentation_fragment:
  - marzban.tunnels.panel
attributes:
  check_mode:
    description: Reports what it would publish, and sends nothing.
    support: full
  diff_mode:
    description: Shows the public halves before and after.
    support: full
options:
  results:
    description:
      - What M(marzban.tunnels.tunnel_apply) answered on each host, from inventory host to answer.
      - Published is what has C(publish) set there.
      - Exactly one of O(results), O(answers) and O(keys) is needed.
    type: dict
  answers:
    description:
      - The name of the variable in which each host of the play has registered its answer, instead of O(results).
      - O(nodes) is then found out, where it is not given.
    type: str
    version_added: 0.3.0
  nodes:
    description:
      - The hosts of O(results) and the names of their nodes, from inventory host to node name; an empty name means
        the host's own name. With it, a host can publish for its own node only.
    type: dict
  keys:
    description: The public halves themselves, instead of O(results).
    type: list
    elements: dict
    suboptions:
      uuid:
        description: The tunnel's UUID.
        type: str
        required: true
      node:
        description: The name of the node at that end.
        type: str
        required: true
      public:
        description: The public half. All types have C(public_key), OpenVPN C(fingerprint) as well.
        type: dict
        required: true
seealso:
  - module: marzban.tunnels.tunnel_apply
  - module: marzban.tunnels.tunnel_views
"""

EXAMPLES = r"""
# read is the answer of marzban.tunnels.tunnel_views; the first example of marzban.tunnels.tunnel_apply shows all steps.
- name: Make each host match its view
  marzban.tunnels.tunnel_apply:
    panel: "{{ read.panel }}"
    views: "{{ read.views[inventory_hostname] }}"
  register: applied

- name: Publish what the nodes of this play have made
  marzban.tunnels.tunnel_publish:
    url: https://panel.example.com:8000
    username: admin
    password: "{{ vault_marzban_password }}"
    answers: applied
  run_once: true
"""

RETURN = r"""
updated:
  description: How many public halves the panel took (in check mode, would take).
  returned: success
  type: int
  sample: 2
published:
  description: The public halves that were sent (in check mode, would be).
  returned: success
  type: list
  elements: dict
  contains:
    uuid: {description: The tunnel's UUID., type: str}
    node: {description: The name of the node at that end., type: str}
    public:
      description: The public half.
      type: dict
      contains:
        public_key: {description: "Its public key, in base64.", type: str}
        next_public_key: {description: Of its next key., returned: while there is one, type: str}
        accepts_public_key: {description: The next key of its peer., returned: while there is one, type: str}
        psk_fingerprint: {description: Of its pre-shared key., returned: WireGuard with one, type: str}
        fingerprint: {description: Of its certificate., returned: OpenVPN, type: str}
        next_fingerprint: {description: Of its next certificate., returned: OpenVPN with one, type: str}
        accepts: {description: Of its peer's newest certificate., returned: OpenVPN with one, type: str}
  sample:
    - uuid: 1b4e28ba-2fa1-41d2-883f-0016d3cca427
      node: de-1
      public: {public_key: 3yRcvhYNOUBQWBvdqO3OjQuWm5yu4kwZLZCQ4U1wWGo=}
rejected:
  description: What was not taken.
  returned: success
  type: list
  elements: dict
  contains:
    uuid: {description: "The tunnel's UUID, or null.", type: str}
    node: {description: "The name of the node, or null.", type: str}
    detail: {description: Why., type: str}
  sample:
    - uuid: 1b4e28ba-2fa1-41d2-883f-0016d3cca427
      node: us-1
      detail: The tunnel does not end at this node.
"""
