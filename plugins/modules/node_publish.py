#!/usr/bin/python
# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: node_publish
short_description: Tell the panel where the node services are
version_added: 0.3.0
description:
  - Sends ports and pins of the node services to the panel, all in one request. From then on the panel calls them there,
    and only where it finds the key that the pin is of.
  - What the panel has already is not sent again.
author:
  - the marzban.tunnels authors (@marzban-tunnels)
extends_documentation_fragment:
  - marzban.tunnels.panel
attributes:
  check_mode:
    description: Reports what it would send, and sends nothing.
    support: full
  diff_mode:
    description: Shows ports and pins before and after.
    support: full
options:
  access:
    description:
      - The answer of M(marzban.tunnels.node_access).
    type: dict
    required: true
  results:
    description:
      - What M(marzban.tunnels.node_service) answered on each host, from inventory host to answer.
      - Exactly one of O(results) and O(answers) is needed.
    type: dict
  answers:
    description:
      - The name of the variable in which each host of the play has registered its answer, instead of O(results).
    type: str
  nodes:
    description:
      - The hosts and the names of their nodes, from inventory host to node name. The default is all hosts of the play.
    type: dict
seealso:
  - module: marzban.tunnels.node_access
  - module: marzban.tunnels.node_service
"""

EXAMPLES = r"""
# access is the answer of marzban.tunnels.node_access; the example of marzban.tunnels.node_service shows all steps.
- name: Tell the panel where the services are
  marzban.tunnels.node_publish:
    url: https://panel.example.com:8000
    username: admin
    password: "{{ vault_marzban_password }}"
    access: "{{ access }}"
    answers: service
  run_once: true
"""

RETURN = r"""
updated:
  description: How many services the panel took (in check mode, would take).
  returned: success
  type: int
  sample: 2
published:
  description: What was sent (in check mode, would be).
  returned: success
  type: list
  elements: dict
  contains:
    node: {description: The name of the node., type: str}
    uuid: {description: The UUID that the panel has given the node., type: str}
    port: {description: "The service's port; null where the node has no service any more.", type: int}
    pin: {description: "The service's pin; null where the node has no service any more.", type: str}
  sample:
    - node: de-1
      uuid: 1b4e28ba-2fa1-41d2-883f-0016d3cca427
      port: 62052
      pin: sha256:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=
rejected:
  description: What was not taken.
  returned: success
  type: list
  elements: dict
  contains:
    node: {description: The name of the node., type: str}
    detail: {description: Why., type: str}
  sample:
    - node: us-1
      detail: The panel has no such node.
refused:
  description: By host, a sentence about what was not taken.
  returned: success
  type: dict
  sample:
    us-1.example.com: >-
      us-1.example.com: the panel did not take where its service is, and can't call it: The panel has no such node.
"""
