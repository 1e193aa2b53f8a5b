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
    exchange was post-quantum, both as measured and not as configured.
  - Sends the measurements to the panel, all in one request. That does not count as a change.
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
    type: dict
    required: true
  unreachable:
    description: Inventory hosts that could not be reached.
    type: list
    elements: str
    default: []
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
    results: "{{ dict(ansible_play_hosts | zip(ansible_play_hosts | map('extract', hostvars, 'applied'))) }}"
    nodes: {de-1: de-1, fi-1: fi-1}
    unreachable: "{{ ansible_play_hosts_all | difference(ansible_play_hosts) }}"
  run_once: true
  delegate_to: localhost
  become: false
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
    - "name   ends          type       status      handshake  rtt     loss  path    pq   note"
    - "de-fi  de-1 -> fi-1  wireguard  active      5 s        0.5 ms  0 %   kernel  yes"
    - "de-us  de-1 -> us-1  openvpn    connecting  -          -       -     -       -    waiting for us-1"
problems:
  description: A sentence for each thing that somebody has to look at.
  returned: success, and failure to tell the panel
  type: list
  elements: str
  sample:
    - "us-1 could not be reached, or failed on the way: what is told of its ends comes from the others."
reported:
  description: How many ends the panel took a report for. 0 in check mode and without O(post).
  returned: success, and failure to tell the panel
  type: int
  sample: 3
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

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import Error, FieldError, printable
from ansible_collections.marzban.tunnels.plugins.module_utils._model import answers, validators, views
from ansible_collections.marzban.tunnels.plugins.module_utils._model import table as model_table
from ansible_collections.marzban.tunnels.plugins.module_utils._model.answers import words
from ansible_collections.marzban.tunnels.plugins.module_utils._module import open_panel, run


def checked_end(end, field, own):
    """One end of an answer, as far as the table and the panel want it. A node may be compromised: all is checked."""
    validators.mapping(end, field)
    measured = validators.measured(end.get("measured") or {}, field + ".measured")
    checked = {
        "uuid": validators.uuid(end.get("uuid"), field + ".uuid"),
        "id": validators.integer(end.get("id"), field + ".id", 1, 2**31 - 1),
        "name": None if end.get("name") is None else validators.tunnel_name(end["name"], field + ".name"),
        "version": validators.integer(end.get("version"), field + ".version", 0, 2**63 - 1),
        "type": validators.tunnel_type(end.get("type"), field + ".type"),
        "node": validators.node_name(end.get("node"), field + ".node"),
        "peer": validators.node_name(end.get("peer"), field + ".peer"),
        "role": None if end.get("role") is None else validators.choice(end["role"], field + ".role", validators.ROLES),
        "status": validators.choice(end.get("status"), field + ".status", validators.STATUSES),
        "error": words(end.get("error") or None),
        "waiting_for": words(end.get("waiting_for") or None, 128),
        "measured": {key: value for key, value in measured.items() if value is not None},
    }
    if own is not None and checked["node"] != own:
        raise FieldError(field + ".node", checked["node"], "This host is the node %s, and speaks for that only." % own)
    return checked


def checked_orphan(orphan, field, own):
    """What is told of a tunnel that is on a host and in no view."""
    validators.mapping(orphan, field)
    return dict(views.seen(orphan), uuid=validators.uuid(orphan.get("uuid"), field + ".uuid"))


def checked_answer(answer, own):
    """``(answer, errors)``: what of a host's answer can be used, and a sentence for each part that can't."""
    checked, errors = {}, []
    for key, check in (("tunnels", checked_end), ("orphans", checked_orphan)):
        checked[key] = []
        try:
            listed = answers.entries(answer, key)
        except FieldError as error:
            errors.append(str(error))
            continue
        for number, one in enumerate(listed):
            try:
                checked[key].append(check(one, "%s[%d]" % (key, number), own))
            except FieldError as error:
                # A tunnel that the node refused may lack what it can't tell; it says why.
                said = one.get("error") if isinstance(one, dict) else None
                errors.append(words(said) if said else str(error))
    return checked, errors


def checked_results(results, nodes):
    """``(results, problems)`` of all hosts. A node may be compromised: its answer can hold anything."""
    checked, problems = {}, []
    for host, answer in results.items():
        checked[host], errors = checked_answer(answer, None if nodes is None else nodes.get(host) or host)
        problems += ["%s: %s" % (host, error) for error in dict.fromkeys(errors)]
    return checked, problems


def reports_of(results):
    """The body of the panel's call."""
    return [
        dict({key: end[key] for key in ("uuid", "node", "version", "status", "error")}, measured=end["measured"])
        for ends in model_table.merge(results)
        for end in ends
    ]


def work(module):
    results, problems = checked_results(module.params["results"], module.params["nodes"])
    broken = [dict(one, error=printable(str(one.get("error") or "broken"))) for one in module.params["broken"]]
    columns = {
        printable(name, 32): validators.mapping(texts, "columns.%s" % name)
        for name, texts in (module.params["columns"] or {}).items()
    }
    table, found = model_table.report(results, module.params["unreachable"], broken, module.params["nodes"], columns)
    problems = found + problems
    answer = {"changed": False, "table": table, "problems": problems, "reported": 0, "rejected": []}
    reports = reports_of(results)
    if not (module.params["post"] and reports and not module.check_mode):
        return answer
    try:
        answer["reported"], answer["rejected"] = open_panel(module).post_status(reports)
    except Error as error:
        # The table is what the operator came for: it is told with the failure.
        module.fail_json(msg="The panel was not told: %s" % error, **answer)
    for one in answer["rejected"]:
        problems.append("The panel did not take the report of {node} about {uuid}: {detail}".format(**one))
    return answer


def main():
    run(
        work,
        {
            "results": {"type": "dict", "required": True},
            "unreachable": {"type": "list", "elements": "str", "default": []},
            "broken": {"type": "list", "elements": "dict", "default": []},
            "nodes": {"type": "dict"},
            "columns": {"type": "dict"},
            "post": {"type": "bool", "default": True},
        },
    )


if __name__ == "__main__":
    main()
