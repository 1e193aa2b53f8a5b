#!/usr/bin/python
# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Gives a node the node service. The work is in module_utils/_installer, the packing in the action plugin."""

from __future__ import annotations

DOCUMENTATION = r"""
module: node_service
short_description: Give a node the node service, or remove it
version_added: 0.3.0
description:
  - Puts the service's files and the engine of M(marzban.tunnels.tunnel_apply) on the node, with settings, systemd units
    and a certificate that is made there, and starts what was changed.
  - V(absent) removes all of it. The tunnels stay as they are.
  - Debian 12 and 13 only. Other systems are refused before any change.
  - The role P(marzban.tunnels.node_api#role) calls this module.
author:
  - the marzban.tunnels authors (@marzban-tunnels)
requirements:
  - Debian 12 or 13 with systemd (on the host)
  - root (on the host)
  - python3-aiohttp, python3-jinja2 and python3-cryptography (on the host)
  - python3-prometheus-client for metrics (on the host)
options:
  state:
    description:
      - V(present) installs the service, and lets O(panel) in.
      - V(absent) removes what lets O(panel) in, and the service with it unless it serves other panels as well.
    type: str
    choices: [present, absent]
    default: present
  panel:
    description:
      - The id of the panel, as M(marzban.tunnels.node_access) answers it. It is required, except with O(all_panels).
    type: str
  all_panels:
    description:
      - Whether V(absent) removes the service although it serves other panels, for panels that do not exist any more.
      - Whether V(present) may change O(port), O(types), O(config_dir), O(post_quantum), O(ipsec_data_path) or
        O(templates) although other panels use the service with them. There is one service for all panels.
    type: bool
    default: false
  node:
    description:
      - The UUID that the panel has given this node, as M(marzban.tunnels.node_access) answers it. V(present) needs it.
    type: str
  hashes:
    description:
      - SHA-256 of the access key of the panel, and of the next one, in hex. They let nobody in.
    type: list
    elements: str
    default: []
  certificate:
    description:
      - The certificate (PEM) that the panel shows instead of a key.
    type: str
  metrics_hash:
    description:
      - SHA-256 of the key that reads the metrics of O(panel), in hex. Without it the service answers no metrics to it.
    type: str
  port:
    description:
      - The TCP port of the service.
    type: int
    default: 62052
  types:
    description:
      - The protocols that the service handles. Tunnels of other types are left to runs.
    type: list
    elements: str
    choices: [wireguard, openvpn, ipsec]
    default: [wireguard, openvpn, ipsec]
  post_quantum:
    description:
      - Post-quantum key exchange, for tunnels whose record does not choose.
    type: str
    choices: [auto, require, "off"]
    default: auto
  ipsec_data_path:
    description:
      - What encrypts and forwards IPsec's packets, as in M(marzban.tunnels.tunnel_apply).
    type: str
    choices: [auto, kernel, userspace]
    default: auto
  config_dir:
    description:
      - The folder on the node that has a folder per tunnel.
      - Defaults to E(TUNNEL_CONFIG_DIR) of the controller, else V(/etc/marzban/tunnels).
    type: str
  templates:
    description:
      - Paths on the controller of your own templates, by type.
    type: dict
    default: {}
  panel_addresses:
    description:
      - The addresses of the panel, for the sentence about the firewall.
    type: list
    elements: str
    default: []
  source:
    description:
      - A folder on the controller with your own service. The default is the collection's.
    type: path
  archive:
    description:
      - Set by the action plugin. Leave it out.
    type: str
  engine:
    description:
      - Set by the action plugin. Leave it out.
    type: str
attributes:
  check_mode:
    support: full
    description: Checks everything, and reports what would be refused or changed, and which packages are missing.
  diff_mode:
    support: full
    description: Shows settings and units. The key of the certificate is never shown.
  platform:
    platforms: debian
    support: full
    description: Debian 12 and 13.
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
"""

EXAMPLES = r"""
- name: Ask the panel what lets it in
  marzban.tunnels.node_access:
  run_once: true
  register: access

- name: Give the node the service
  marzban.tunnels.node_service:
    panel: "{{ access.panel }}"
    node: "{{ access.hosts[inventory_hostname].node }}"
    hashes: "{{ access.hosts[inventory_hostname].hashes }}"
  register: service

- name: Tell the panel where it is
  marzban.tunnels.node_publish:
    access: "{{ access }}"
    answers: service
  run_once: true

- name: Take it away again
  marzban.tunnels.node_service:
    state: absent
    panel: "{{ access.panel }}"
"""

RETURN = r"""
changes:
  description: What was changed, or would be in check mode.
  type: list
  elements: str
  returned: success
  sample: ["certificate made", "/usr/local/lib/marzban-node: service written", "marzban-node-front.service started"]
pin:
  description: C(sha256:) and the SHA-256 of the certificate's public key in Base64. Null without a certificate.
  type: str
  returned: success
  sample: sha256:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=
engine:
  description: A digest of the engine, the same as that of the collection. Null with O(state=absent).
  type: str
  returned: success
  sample: 3f0a9c1e5b7d2468
port:
  description: The port on which the service answers. Null with O(state=absent).
  type: int
  returned: success
  sample: 62052
firewall:
  description:
    - Where ufw or firewalld rules the host and does not let the panel in, a sentence, and below it the rule that does,
      for each of the panel's addresses.
  type: str
  returned: success
  sample: null
panels:
  description: The ids of the panels that the service serves now.
  type: list
  elements: str
  returned: success
  sample: [0d1f3b52-7c9e-4c8e-9b0f-3a2d5e6f7a81]
missing:
  description: What the service and tunnels of O(types) need and this host lacks.
  type: list
  elements: str
  returned: success
  sample: [aiohttp, openvpn]
packages:
  description: The packages that bring it.
  type: list
  elements: str
  returned: success
  sample: [openvpn, python3-aiohttp]
metrics_packages:
  description: The packages that only the metrics need, where O(metrics_hash) is given and the host lacks them.
  type: list
  elements: str
  returned: success
  sample: [python3-prometheus-client]
unavailable:
  description: Sentences about what no package brings.
  type: list
  elements: str
  returned: success
  sample: []
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.marzban.tunnels.plugins.module_utils._installer import node_service
from ansible_collections.marzban.tunnels.plugins.module_utils._module import run
from ansible_collections.marzban.tunnels.plugins.module_utils._node import packages
from ansible_collections.marzban.tunnels.plugins.module_utils._node.files import read
from ansible_collections.marzban.tunnels.plugins.module_utils._node.host import Host
from ansible_collections.marzban.tunnels.plugins.module_utils._node.state import CONFIG_DIR, Folders
from ansible_collections.marzban.tunnels.plugins.module_utils._protocols.registry import TYPES, protocol


def lacking(given: dict[str, Any]) -> dict[str, Any]:
    """What this host lacks for the service and for the types, and which packages bring it."""
    needs = [(node_service.OWN, node_service.missing())]
    for kind in given["types"]:
        options = {"data_path": given["ipsec_data_path"]} if kind == "ipsec" else {}
        found = protocol(kind)(Host(check=True), Folders(given["config_dir"]), **options)
        needs.append((found.packages, found.missing()))
    release, python = read(packages.OS_RELEASE) or "", packages.own_python()
    chosen = packages.choose(release, needs, python)
    names = list(dict.fromkeys(name for _packages, lacks in needs for name in lacks))
    own = [(node_service.METRICS, node_service.missing_for_metrics() if given["metrics_hash"] else [])]
    metrics = packages.choose(release, own, python)["packages"]
    answer = {"missing": names, "packages": chosen["packages"], "metrics_packages": metrics}
    return {**answer, "unavailable": chosen["unavailable"]}


def work(module: AnsibleModule) -> dict[str, Any]:
    """The module's answer."""
    given = dict(module.params, config_dir=module.params["config_dir"] or CONFIG_DIR)
    nothing: dict[str, Any] = {"missing": [], "packages": [], "metrics_packages": [], "unavailable": []}
    answer = node_service.Run(given, module.check_mode).run()
    return {**answer, **(lacking(given) if given["state"] == "present" else nothing)}


def main() -> None:
    """Hands the options over; what belongs to what is checked in ``work``."""
    run(
        work,
        {
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "panel": {"type": "str"},
            "all_panels": {"type": "bool", "default": False},
            "node": {"type": "str"},
            "hashes": {"type": "list", "elements": "str", "default": [], "no_log": False},
            "certificate": {"type": "str"},
            "metrics_hash": {"type": "str", "no_log": False},
            "port": {"type": "int", "default": 62052},
            "types": {"type": "list", "elements": "str", "choices": list(TYPES), "default": list(TYPES)},
            "post_quantum": {"type": "str", "choices": ["auto", "require", "off"], "default": "auto"},
            "ipsec_data_path": {"type": "str", "choices": ["auto", "kernel", "userspace"], "default": "auto"},
            "config_dir": {"type": "str"},
            "templates": {"type": "dict", "default": {}},
            "panel_addresses": {"type": "list", "elements": "str", "default": []},
            "source": {"type": "path"},
            "archive": {"type": "str", "no_log": True},  # long, and no business of a log
            "engine": {"type": "str"},
        },
        required_if=[("state", "present", ("node",))],
    )


if __name__ == "__main__":
    main()
