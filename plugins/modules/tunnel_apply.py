#!/usr/bin/python
# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Makes a host match its views. The work is in module_utils/_node/reconcile.py, the rendering in the action plugin."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tunnel_apply
short_description: Make a node match its tunnels
version_added: 0.1.0
description:
  - Makes missing keys, writes configurations, starts, changes, stops and removes tunnels, all of one host in one call.
  - It compares the live state too. What somebody changed by hand is put back, and RV(tunnels[].changes) names it.
  - A tunnel that can't be applied gets an RV(tunnels[].error), and the others go on. The task does not fail for it.
  - What is not in O(views) stays as it is. Only O(remove) and O(remove_all) remove something, and only
    what runs for this panel made.
  - Private keys stay on the host. They are in no argument, return value, diff or log.
author:
  - the marzban.tunnels authors (@marzban-tunnels)
requirements:
  - systemd
  - Python 3.8 or newer, and its cryptography (on the host)
  - nftables, iproute2 and ping (on the host)
  - WireGuard's tunnels want wireguard-tools, and a kernel with WireGuard or wireguard-go (on the host).
  - OpenVPN's want openvpn 2.6 or newer (on the host).
  - IPsec's want charon-systemd, swanctl, and a kernel with ESP and XFRM interfaces or the plugin kernel-libipsec
    (on the host). RV(missing) says which of all these are not there.
options:
  views:
    description:
      - The tunnels as this host sees them, as M(marzban.tunnels.tunnel_views) answers them for one host.
      - An empty list is a list. Anything else, such as an undefined variable, is refused.
    type: list
    elements: raw
    required: true
  panel:
    description:
      - The id of the panel that the views are from, as M(marzban.tunnels.tunnel_views) answers it.
    type: str
    required: true
  node:
    description:
      - This host's node. The default is the one in O(views).
      - It counts where O(views) is empty, for O(remove_all). Where another node is the same machine, that one's tunnels
        stay. Without it all of the panel's go.
    type: str
    version_added: 0.3.0
  types:
    description:
      - The types of tunnels that this task handles. Tunnels of other types are left alone.
    type: list
    elements: str
    choices: [wireguard, openvpn, ipsec]
    default: [wireguard, openvpn, ipsec]
  remove:
    description:
      - The uuids of tunnels that are confirmed as deleted from the panel. What isn't there is fine.
    type: list
    elements: str
    default: []
  remove_all:
    description:
      - Removes everything of this panel, this O(node) and O(types) from the host. O(views) must then be empty.
      - It fails where the host has the node service for this panel, which would have it made again.
    type: bool
    default: false
  config_dir:
    description:
      - Where the host keeps one folder per tunnel.
      - The default is E(TUNNEL_CONFIG_DIR) of the controller, else V(/etc/marzban/tunnels).
    type: str
  templates:
    description:
      - Templates of your own, by type, as paths on the controller.
      - They see C(view) and C(node), and Jinja2's own filters only. RV(tunnels[].error) says what is wrong with one.
    type: dict
    default: {}
  probe:
    description:
      - Whether to send pings through the tunnels that run. Without them no tunnel is called V(active).
    type: bool
    default: true
  paired:
    description:
      - The uuids of tunnels whose other end is applied in the same round. What both ends have to switch at the same
        time is switched for these only.
    type: list
    elements: str
    default: []
    aliases: [together]
    version_added: 0.2.0
  new_keys:
    description:
      - The uuids of those of O(paired) for which a key was made in this run. No traffic can have passed with it
        before, so both ends switch one round earlier.
    type: list
    elements: str
    default: []
    version_added: 0.3.0
  panel_addresses:
    description:
      - The panel's IP addresses. No tunnel takes this host's way there, as none takes that to its gateway, its name
        servers and its package manager's proxy. A role takes them from M(marzban.tunnels.tunnel_round).
    type: list
    elements: str
    default: []
    version_added: 0.3.0
  ipsec_data_path:
    description:
      - Who carries IPsec's packets. V(auto) takes the kernel where it has ESP and XFRM interfaces, else strongSwan's
        own userspace implementation.
      - With V(kernel) a tunnel is refused where the kernel can't.
    type: str
    choices: [auto, kernel, userspace]
    default: auto
    version_added: 0.2.0
  post_quantum:
    description:
      - What the run has chosen for the records that do not choose. O(views) have it already. It is compared with what
        the node service of this host does, where there is one.
    type: str
    choices: [auto, require, "off"]
    version_added: 0.3.0
  accept_older:
    description:
      - Whether to apply records that are older than what this host has, and to make again what was removed within a
        day. That is so after the panel's database was restored from a backup.
      - Without it such a tunnel is refused, and RV(tunnels[].error) says both versions.
    type: bool
    default: false
    version_added: 0.3.0
  rendered:
    description:
      - Set by the action plugin. Leave it out.
    type: list
    elements: dict
  alike:
    description:
      - Set by the action plugin. Leave it out.
    type: dict
    version_added: 0.3.0
  handed:
    description:
      - Set by the action plugin. Leave it out.
    type: dict
    default: {}
    version_added: 0.2.0
  records:
    description:
      - This host's hand-written list of tunnels, where the views were made from one.
      - The host is refused unless it is the list that O(list_digest) is of. An empty text is the same as not given.
    type: raw
    version_added: 0.3.0
  list_digest:
    description:
      - What M(marzban.tunnels.tunnel_views) has answered as RV(marzban.tunnels.tunnel_views#module:list_digest).
    type: str
    version_added: 0.3.0
attributes:
  check_mode:
    support: full
    description: Says what would be done, also on a host that has none of the packages yet.
  diff_mode:
    support: full
    description: Shows files before and after, and of a new key its fingerprint.
  platform:
    platforms: linux
    support: full
    description: Linux with systemd.
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
seealso:
  - module: marzban.tunnels.tunnel_views
  - module: marzban.tunnels.tunnel_health
  - module: marzban.tunnels.tunnel_keys
"""

EXAMPLES = r"""
# What the role marzban.tunnels.tunnels does, without its further rounds: read, apply, publish, report.
# The panel's address and login are in the environment.
- name: Read the records
  marzban.tunnels.tunnel_views:
  run_once: true
  register: read

- name: Make each host match them
  marzban.tunnels.tunnel_apply:
    panel: "{{ read.panel }}"
    views: "{{ read.views[inventory_hostname] }}"
    remove: "{{ read.confirmed_deleted[inventory_hostname] | default([]) }}"
  register: applied

- name: Publish the public keys that the hosts made
  marzban.tunnels.tunnel_publish:
    answers: applied
  run_once: true

- name: Report
  marzban.tunnels.tunnel_report:
    answers: applied
  run_once: true

# By itself, not after the tasks above.
- name: Remove everything of this panel from a host
  marzban.tunnels.tunnel_apply:
    panel: "{{ read.panel }}"
    views: []
    remove_all: true
"""

RETURN = r"""
missing:
  description: Capabilities that the tunnels need and this host lacks. Nothing is applied until they are there.
  type: list
  elements: str
  returned: success
  sample: [cryptography, wireguard-tools, wireguard-go, nftables, ping, iproute2]
packages:
  description:
    - The packages of this host's system that bring what is RV(missing), sorted.
    - None of a type that needs something without a package; RV(unavailable) says so.
  type: list
  elements: str
  returned: success
  sample: [nftables, wireguard-tools]
  version_added: 0.2.0
unavailable:
  description: Sentences about what is RV(missing) and has no package on this host's system, and what to do.
  type: list
  elements: str
  returned: success
  sample:
    - >-
      Debian 11 has no package for openvpn. OpenVPN 2.6 or newer is needed (Debian 12, Ubuntu 24.04): upgrade the host,
      or choose another type.
  version_added: 0.2.0
package_manager:
  description: V(apt) or V(dnf), or null where nothing is missing or the system is of another family.
  type: str
  returned: success
  sample: apt
  version_added: 0.2.0
tunnels:
  description: One entry for each of the views of O(types).
  type: list
  elements: dict
  returned: success
  contains:
    uuid: {description: The tunnel's UUID. It and the next fields are null where the view has no such thing., type: str}
    id: {description: Its number on the panel., type: int}
    name: {description: Its name on the panel., type: str}
    version: {description: The version of the record., type: int}
    type: {description: Its protocol., type: str}
    interface: {description: Its network interface on this host., type: str}
    node: {description: This node., type: str}
    peer: {description: The node at the other end., type: str}
    role: {description: "V(source) or V(target), this end's role in the record.", type: str}
    status: {description: "V(active) (a ping came back), V(inactive), V(connecting) or V(error).", type: str}
    error: {description: "What was expected, what was seen, and what to do. Null if nothing is wrong.", type: str}
    symptom:
      description:
        - What is wrong, in one word, which is the anchor of its row in docs/trouble.md. Null if nothing is wrong, or
          where the error says all there is.
        - One of V(not-installed), V(no-answer), V(keys), V(connecting), V(no-packets), V(large-packets), V(flapping),
          V(dies), V(taken-away), V(reinstalled), V(unreachable).
      type: str
      sample: no-answer
      version_added: 0.3.0
    refused: {description: Whether it could not be applied. Without that an error is about the traffic., type: bool}
    waiting_for: {description: "The node whose public half nobody knows yet, or null.", type: str}
    note:
      description: What else a tunnel that is V(connecting) waits for, or null.
      type: str
      version_added: 0.3.0
    public:
      description: The public half of this end, or null.
      type: dict
      contains:
        public_key: {description: A public key., type: str}
        next_public_key: {description: "Of the key that will take its place, while there is one.", type: str}
        accepts_public_key: {description: "The next key of its peer, while there is one.", type: str}
        psk_fingerprint: {description: "Of the pre-shared key (WireGuard, where there is one).", type: str}
        fingerprint: {description: Of the certificate (OpenVPN)., type: str}
        next_fingerprint: {description: "Of the certificate that takes its place (OpenVPN, where it is).", type: str}
        accepts: {description: Of the newest certificate of the peer that this end lets in (OpenVPN)., type: str}
    publish: {description: "Whether the panel lacks this public half, or has another.", type: bool}
    needs_peer:
      description: Whether both ends have to be applied once more, for something that they share.
      type: bool
      version_added: 0.2.0
    hand: {description: "The same as RV(tunnels[].needs_peer), until version 1.0.", type: bool}
    new: {description: Whether nothing of it was on this host before., type: bool, version_added: 0.3.0}
    had_session:
      description: Whether it had a session with its peer before something of it was changed here.
      type: bool
      version_added: 0.3.0
    changes:
      description: What was changed, or would be in check mode.
      type: list
      elements: str
      sample: [key made, conf written, enabled, started]
    measured:
      description: What was measured, or null for a tunnel that does not run.
      type: dict
      contains:
        handshake_age: {description: "Seconds since the last handshake, or null.", type: int}
        rx_bytes: {description: "Bytes received, or null.", type: int}
        tx_bytes: {description: "Bytes sent, or null.", type: int}
        rtt_ms: {description: "Milliseconds of a ping's way there and back, or null.", type: float}
        loss_percent: {description: "Percent of the pings that were lost, or null.", type: float}
        cipher: {description: "What encrypts, as negotiated, or null.", type: str}
        key_exchange: {description: "How the session's key was agreed on, or null.", type: str}
        post_quantum: {description: "Whether that holds against quantum computers, or null.", type: bool}
        data_path: {description: "V(kernel) or V(userspace), or null.", type: str}
        certificate_days: {description: "Days until this end's certificate ends, or null where it has none.", type: int}
        mtu: {description: "Bytes of the largest packet that passed in the last probe, or null.", type: int}
removed:
  description: What was taken off, or would be in check mode.
  type: list
  elements: dict
  returned: success
  contains:
    id: {description: "Its number on the panel, or null.", type: int}
    uuid: {description: The tunnel's UUID., type: str}
    node: {description: "The node that it was made for, or null where a version before 0.3.0 made it.", type: str}
    name: {description: "Its name, or null.", type: str}
    type: {description: Its protocol., type: str}
    interface: {description: "Its network interface, or null where it has none.", type: str}
    error: {description: "Why it could not be taken off, or null.", type: str}
orphans:
  description: Tunnels of this panel that are on the host and in none of the views. They are left as they are.
  type: list
  elements: dict
  returned: success
  contains:
    id: {description: "Its number on the panel, or null.", type: int}
    uuid: {description: The tunnel's UUID., type: str}
    node: {description: "The node that it was made for, or null where a version before 0.3.0 made it.", type: str}
    name: {description: "Its name, or null.", type: str}
    type: {description: Its protocol., type: str}
    interface: {description: "Its network interface, or null where it has none.", type: str}
foreign:
  description: Folders of other panels, or with a state that can't be read. They are never touched.
  type: list
  elements: dict
  returned: success
  contains:
    uuid: {description: The folder's name., type: str}
    panel: {description: "The panel that it belongs to, or null.", type: str}
    interface: {description: "Its network interface, or null.", type: str}
machine:
  description:
    - A hash of what tells machines apart, the machine id and the boot id, or null. Two hosts that answer the same are
      one machine.
  type: str
  returned: success
  version_added: 0.3.0
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import Error, FieldError
from ansible_collections.marzban.tunnels.plugins.module_utils._model import validators
from ansible_collections.marzban.tunnels.plugins.module_utils._model.validators import TYPES
from ansible_collections.marzban.tunnels.plugins.module_utils._module import run
from ansible_collections.marzban.tunnels.plugins.module_utils._node import preflight
from ansible_collections.marzban.tunnels.plugins.module_utils._node.host import Host
from ansible_collections.marzban.tunnels.plugins.module_utils._node.kept import (
    Terms,
    check_alike,
    check_no_manager,
    settings,
)
from ansible_collections.marzban.tunnels.plugins.module_utils._node.reconcile import Apply
from ansible_collections.marzban.tunnels.plugins.module_utils._node.state import CONFIG_DIR, Folders


def work(module: AnsibleModule) -> dict[str, Any]:
    """The answer. Raises Error."""
    given = module.params
    preflight.require_root()
    if given["views"]:
        preflight.require_systemd()
    views, rendered = given["views"], given["rendered"]
    if rendered is None or len(rendered) != len(views):
        raise Error("The controller did not render the templates: call this as marzban.tunnels.tunnel_apply.")
    if given["remove_all"] and views:
        raise FieldError("remove_all", True, "The list of views is not empty: pass views: [], or leave remove_all out.")
    folders = Folders(given["config_dir"] or CONFIG_DIR)
    panel = validators.uuid(given["panel"], "panel")
    node = None if given["node"] is None else validators.node_name(given["node"], "node")
    options = {"ipsec": {"data_path": given["ipsec_data_path"]}}
    addresses = [validators.ip_address(text, "panel_addresses") for text in given["panel_addresses"]]
    if given["remove_all"]:
        check_no_manager(panel)
    if given["alike"] is not None:
        check_alike(settings(), dict(given["alike"], config_dir=folders.root, post_quantum=given["post_quantum"]))
    terms = Terms(given["accept_older"])
    apply = Apply(
        *(Host(module.check_mode), folders, panel, given["types"], given["probe"], options, node, addresses),
        terms=terms,
    )
    exchanged = {name: given[name] for name in ("handed", "paired", "new_keys")}
    answer = apply.run(views, rendered, given["remove"], given["remove_all"], **exchanged)
    for sentence in answer["warnings"]:
        module.warn(sentence)
    result = {key: value for key, value in answer.items() if key != "warnings"}  # Ansible adds them
    if module.check_mode:
        return result
    needing = [tunnel["uuid"] for tunnel in answer["tunnels"] if tunnel["needs_peer"] and tunnel["uuid"]]
    return dict(result, sealed=apply.sealed(needing))  # taken out by the action plugin before anybody sees it


def main() -> None:
    """The types are of the protocols, so that those who need a type are told by the module itself."""
    run(
        work,
        {
            "views": {"type": "list", "elements": "raw", "required": True},
            "panel": {"type": "str", "required": True},
            "node": {"type": "str"},
            "types": {"type": "list", "elements": "str", "choices": list(TYPES), "default": list(TYPES)},
            "remove": {"type": "list", "elements": "str", "default": []},
            "remove_all": {"type": "bool", "default": False},
            "config_dir": {"type": "str"},
            "templates": {"type": "dict", "default": {}},
            "probe": {"type": "bool", "default": True},
            "paired": {"type": "list", "elements": "str", "default": [], "aliases": ["together"]},
            "new_keys": {"type": "list", "elements": "str", "default": [], "no_log": False},
            "panel_addresses": {"type": "list", "elements": "str", "default": []},
            "ipsec_data_path": {"type": "str", "choices": ["auto", "kernel", "userspace"], "default": "auto"},
            "post_quantum": {"type": "str", "choices": ["auto", "require", "off"]},
            "accept_older": {"type": "bool", "default": False},
            "rendered": {"type": "list", "elements": "dict"},
            "alike": {"type": "dict"},
            "handed": {"type": "dict", "default": {}, "no_log": True},
            "records": {"type": "raw"},
            "list_digest": {"type": "str"},
        },
    )


if __name__ == "__main__":
    main()
