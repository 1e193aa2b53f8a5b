#!/usr/bin/python
# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: tunnel_report
short_description: Report the status of the tunnels to the panel and the operator
version_added: 0.1.0
description:
  - Makes a table of the tunnels from the answers of the hosts of a run. A tunnel is one row, also when both its ends
    answered. The task prints the table, and returns it as well.
  - In the table, C(path) is what carries the packets, the kernel or a process (userspace), and C(pq) whether the key
    exchange was post-quantum, both as measured and not as configured. Without C(-v) they are there only where tunnels
    differ in them, and the table fits 80 columns. Notes are at the end of a row, or below it.
  - Sends the measurements to the panel, all in one request. That does not count as a change.
  - It works on the controller and needs neither C(delegate_to) nor a Python of a host.
author:
  - the marzban.tunnels authors (@marzban-tunnels)
extends_documentation_fragment:
  - marzban.tunnels.panel
attributes:
  check_mode:
    description: Makes the table and sends nothing.
    support: full
  diff_mode:
    description: It changes no record.
    support: none
options:
  results:
    description:
      - What M(marzban.tunnels.tunnel_apply) or M(marzban.tunnels.tunnel_health) answered on each host,
        from inventory host to answer.
      - Exactly one of O(results) and O(answers) is needed.
    type: dict
  answers:
    description:
      - The name of the variable in which each host of the play has registered its answer, instead of O(results).
      - O(nodes) and O(unreachable) are then found out, where they are not given.
    type: str
    version_added: 0.3.0
  unreachable:
    description:
      - Inventory hosts that could not be reached.
      - With O(answers) it is found out which hosts could not be reached, and which ones failed and why.
    type: list
    elements: str
  read:
    description:
      - The name of the variable in which M(marzban.tunnels.tunnel_views) was registered. The table then also has the
        tunnels whose ends are all at hosts that could not be reached.
    type: str
    version_added: 0.3.0
  broken:
    description: The records that can't be used, as M(marzban.tunnels.tunnel_views) answers them.
    type: list
    elements: dict
    default: []
  nodes:
    description:
      - The hosts and the names of their nodes, from inventory host to node name. An empty name means the host's own
        name.
      - With it, a host can report for its own node only.
    type: dict
  columns:
    description:
      - More columns for the table, before its last one. From the column's name to a dictionary from a tunnel's uuid
        to the text.
    type: dict
    default: {}
  strict:
    description:
      - Statuses with which a tunnel is a failure. The task prints the table and tells the panel, and fails then.
      - V(connecting) is also a tunnel that waits for its other end, V(broken) a record that can't be used.
    type: list
    elements: str
    choices: [error, connecting, inactive, broken]
    default: []
    version_added: 0.3.0
  post:
    description: Whether to send the measurements to the panel. Without it, the panel's options are not needed.
    type: bool
    default: true
seealso:
  - module: marzban.tunnels.tunnel_apply
  - module: marzban.tunnels.tunnel_health
"""

EXAMPLES = r"""
# read is the answer of marzban.tunnels.tunnel_views; the first example of marzban.tunnels.tunnel_apply shows all steps.
- name: Make each host match its view
  marzban.tunnels.tunnel_apply:
    panel: "{{ read.panel }}"
    views: "{{ read.views[inventory_hostname] }}"
  register: applied

- name: Report
  marzban.tunnels.tunnel_report:
    url: https://panel.example.com:8000
    username: admin
    password: "{{ vault_marzban_password }}"
    answers: applied
  run_once: true
  register: report

- name: Show what somebody has to look at
  ansible.builtin.debug:
    msg: "{{ report.problems }}"
  run_once: true
"""

RETURN = r"""
table:
  description: The lines of the table.
  returned: success, and failure to tell the panel
  type: list
  elements: str
  sample:
    - "name   ends          type       status      handshake  rtt     loss"
    - "de-fi  de-1 -> fi-1  wireguard  active      5 s        0.5 ms  0 %"
    - "de-us  de-1 -> us-1  openvpn    connecting  -          -       -"
    - "    waiting for us-1"
problems:
  description: A sentence for each thing that somebody has to look at.
  returned: success, and failure to tell the panel
  type: list
  elements: str
  sample:
    - >-
      us-1 could not be reached: the table shows what other nodes reported. No traffic to it in de-us.
reported:
  description: How many ends the panel took a report for. 0 in check mode and without O(post).
  returned: success, and failure to tell the panel
  type: int
  sample: 3
unreached:
  description: The hosts that the task of O(answers) could not reach. Empty without O(answers).
  returned: success, and failure to tell the panel
  type: list
  elements: str
  sample: []
rejected:
  description: Reports that the panel did not take. A record may have changed during the run.
  returned: success, and failure to tell the panel
  type: list
  elements: dict
  contains:
    uuid: {description: "The tunnel's UUID, or null.", type: str}
    node: {description: "The name of the node, or null.", type: str}
    detail: {description: Why., type: str}
  sample: []
"""
