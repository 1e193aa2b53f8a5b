#!/usr/bin/python
# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: tunnel_round
short_description: Decide what a run of all hosts does next
version_added: 0.3.0
description:
  - A run has rounds. In each one, hosts do what this task gives them to do, and then this task decides again. The role
    C(marzban.tunnels.tunnels) is such a run, and calls this task.
  - The first call reads the records and gives each host its part. Each further call takes what the hosts have answered,
    publishes the public halves that the panel lacks, reads the records again, and says who has to do what.
  - The last call prints the table and tells the panel how the tunnels are, as M(marzban.tunnels.tunnel_report) does.
  - It works on the controller, once for all hosts (C(run_once)), and needs neither C(delegate_to) nor a Python of a
    host.
author:
  - the marzban.tunnels authors (@marzban-tunnels)
extends_documentation_fragment:
  - marzban.tunnels.panel
attributes:
  check_mode:
    description: It says what would be done, and sends nothing.
    support: full
  diff_mode:
    description: Shows the public halves that are published.
    support: full
options:
  answers:
    description:
      - The name of the variable in which each host has registered what it answered in the round that has ended.
      - If it is not given, a run begins.
    type: str
  previous:
    description: The name of the variable in which the round before was registered.
    type: str
    default: tunnels_round
  records:
    description:
      - A hand-written list of tunnels, instead of a panel, as in M(marzban.tunnels.tunnel_views).
      - An empty text is the same as not given.
    type: raw
  list_name:
    description: The name of that list. What a list of another name has put on a node is left alone.
    type: str
    default: local
  post_quantum:
    description:
      - Key exchange that holds against quantum computers, for tunnels whose record does not choose.
      - V(auto), where both ends can. V(require), no tunnel without it. V(off), none.
    type: str
    choices: [auto, require, "off"]
    default: auto
  wait:
    description: For how many seconds the hosts wait for the traffic of new tunnels. It is only named in sentences.
    type: int
    default: 15
  strict:
    description:
      - Statuses with which a tunnel is a failure, and is in RV(failures). Not in check mode.
      - V(connecting) is also a tunnel that waits for its other end, V(broken) a record that can't be used.
    type: list
    elements: str
    choices: [error, connecting, inactive, broken]
    default: []
  unreachable:
    description:
      - The message of a task that ends as one that could not reach its host, so that the host leaves the play.
      - For the hosts in RV(unreached), without C(run_once). No other option counts then.
    type: str
  installed:
    description:
      - The names of the variables in which a host has registered, after the step V(install), what updated its package
        lists (the first one) and what installed its packages.
      - What is still missing then is in RV(failures), with their words.
    type: list
    elements: str
    default: [tunnels_lists, tunnels_apt, tunnels_dnf]
seealso:
  - module: marzban.tunnels.tunnel_views
  - module: marzban.tunnels.tunnel_apply
  - module: marzban.tunnels.tunnel_publish
  - module: marzban.tunnels.tunnel_report
"""

EXAMPLES = r"""
- name: Begin
  marzban.tunnels.tunnel_round:
  run_once: true
  register: tunnels_round

- name: Make each host match its view
  marzban.tunnels.tunnel_apply:
    panel: "{{ tunnels_round.panel }}"
    views: "{{ tunnels_round.views[inventory_hostname] }}"
  register: tunnels_answer

- name: Decide
  marzban.tunnels.tunnel_round:
    answers: tunnels_answer
  run_once: true
  register: tunnels_round

- name: Say what comes next
  ansible.builtin.debug:
    msg: "{{ tunnels_round.step }} on {{ tunnels_round.parts | join(', ') }}"
  run_once: true
"""

RETURN = r"""
step:
  description:
    - What the hosts in RV(parts) do next. V(install) packages and apply, V(apply) what is new, V(wait) for traffic.
    - With V(done) nothing is left to do.
  returned: success
  type: str
  sample: apply
panel_addresses:
  description: The IP addresses of the panel, for M(marzban.tunnels.tunnel_apply). Empty without a panel.
  type: list
  elements: str
  returned: success
parts:
  description: For each host that has something to do, its part.
  returned: success
  type: dict
  contains:
    inventory_hostname:
      description: What this host has to do.
      type: dict
      contains:
        remove:
          description: UUIDs of tunnels that are confirmed as deleted.
          returned: V(apply)
          type: list
          elements: str
        paired:
          description: UUIDs of the tunnels whose ends switch in this round.
          returned: V(apply)
          type: list
          elements: str
        new_keys:
          description: UUIDs of those of them for which a key was made in this run.
          returned: V(apply)
          type: list
          elements: str
        uuids: {description: UUIDs of the tunnels to wait for., returned: V(wait), type: list, elements: str}
        packages: {description: The packages that it lacks., returned: V(install), type: list, elements: str}
        manager: {description: What installs them., returned: V(install), type: str}
unreached:
  description:
    - The hosts that the last step could not reach, and that are still in the play because of its C(ignore_unreachable).
    - Without that, nobody would be left to report where none could be reached.
  returned: success
  type: list
  elements: str
panel:
  description: The id of the panel, or of the hand-written list.
  returned: success
  type: str
  sample: 9d2f3c1e-4b5a-4c6d-8e7f-0a1b2c3d4e5f
views:
  description: For each host of the play its tunnels, as in M(marzban.tunnels.tunnel_views).
  returned: success
  type: dict
broken:
  description: Records that can't be used, as in M(marzban.tunnels.tunnel_views).
  returned: success
  type: list
  elements: dict
list_digest:
  description: A digest of O(records), or null where a panel was read.
  returned: success
  type: str
nodes:
  description: The hosts of the play and the names of their nodes.
  returned: success
  type: dict
  sample: {de-1: de-1}
answers:
  description: For each host that could be reached, its newest answer, as in M(marzban.tunnels.tunnel_apply).
  returned: success
  type: dict
progress:
  description: What was done so far, for the next round.
  returned: success
  type: dict
failures:
  description: For each host where something could not be done, the sentences about it. Empty until the step is V(done).
  returned: success
  type: dict
  sample: {fi-1: ["tunnel de-fi on fi-1: interface: 'mz3' can't be used. Another tunnel has it on this host."]}
without_traffic:
  description:
    - For each host the sentences about its tunnels that have both ends in this run and carry no traffic.
    - Empty until the step is V(done).
  returned: success
  type: dict
table:
  description: The lines of the table.
  returned: when the step is V(done)
  type: list
  elements: str
done:
  description: A line for each tunnel that was set up, changed or removed, or would have been in check mode.
  returned: when the step is V(done)
  type: list
  elements: str
  sample: ["+ de-fi: set up on de-1, fi-1", "- exit-o: removed from fi-1 (there is no record of it that ends there)"]
problems:
  description: A sentence for each thing that somebody has to look at.
  returned: when the step is V(done)
  type: list
  elements: str
reported:
  description: How many ends the panel took a report for. 0 in check mode, and for a hand-written list.
  returned: when the step is V(done)
  type: int
rejected:
  description: Reports that the panel did not take, as in M(marzban.tunnels.tunnel_report).
  returned: when the step is V(done)
  type: list
  elements: dict
"""
