#!/usr/bin/python
# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: node_access
short_description: Ask the panel what lets it into the node services
version_added: 0.3.0
description:
  - Asks the panel, once for all hosts of the play, for what M(marzban.tunnels.node_service) has to store on each node,
    so that the panel can call it. The access keys themselves never leave the panel.
  - A panel that knows a node for the first time gives it a UUID of its own.
author:
  - the marzban.tunnels authors (@marzban-tunnels)
extends_documentation_fragment:
  - marzban.tunnels.panel
attributes:
  check_mode:
    description:
      - The panel stores nothing. A node that it does not know yet gets another UUID, and so another key, than it will
        have later.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
options:
  nodes:
    description:
      - The hosts and the names of their nodes, from inventory host to node name; an empty name means the host's own
        name. The default is all hosts of the play.
    type: dict
  without_key:
    description:
      - Whether a panel that has no key for the nodes is fine, as where the service is removed. It fails otherwise.
    type: bool
    default: false
seealso:
  - module: marzban.tunnels.node_service
  - module: marzban.tunnels.node_publish
"""

EXAMPLES = r"""
- name: Ask the panel what lets it in
  marzban.tunnels.node_access:
    url: https://panel.example.com:8000
    username: admin
    password: "{{ vault_marzban_password }}"
  run_once: true
  register: access
"""

RETURN = r"""
panel:
  description: The panel's id.
  returned: success
  type: str
  sample: 0d1f3b52-7c9e-4c8e-9b0f-3a2d5e6f7a81
manager:
  description: Whether the panel sees to nodes.
  returned: success
  type: dict
  contains:
    state: {description: "V(on), V(off), or V(elsewhere) where another process with this database does.", type: str}
    detail: {description: "Why it is so, or null.", type: str}
hosts:
  description: From inventory host to what its node stores.
  returned: success
  type: dict
  sample:
    de-1:
      node: 1b4e28ba-2fa1-41d2-883f-0016d3cca427
      generation: 1
      hashes: [5feceb66ffc86f38d952786c6d696c79c2dbc239dd4e91b46729d73a27fb57e9]
      certificate: null
      metrics_hash: null
refused:
  description: From inventory host to a sentence, for the hosts whose node the panel does not have.
  returned: success
  type: dict
  sample: {}
panel_addresses:
  description: The panel's addresses as the controller sees them.
  returned: success
  type: list
  elements: str
  sample: [203.0.113.1]
"""
