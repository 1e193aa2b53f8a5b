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
    type: dict
    required: true
  records:
    description:
      - A list of tunnels, instead of a panel. Each has C(name), C(id), C(source), C(target) (names of nodes) and
        C(config), and may have C(type), C(active) and C(public).
      - C(config.source) and C(config.target) have C(endpoint), C(port) (not for C(ipsec)) and C(addresses).
    type: list
    elements: dict
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
        from inventory host to a list of C(id) and C(uuid). The panel is asked for each one by itself.
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
  delegate_to: localhost
  become: false
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
  delegate_to: localhost
  become: false
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
            port: {description: Its port., type: int}
            addresses: {description: Its addresses inside the tunnel., type: list, elements: str}
            routes: {description: The networks behind it., type: list, elements: str}
            public:
              description: Its public half, or null.
              type: dict
              contains:
                public_key: {description: "Its public key, in base64.", type: str}
                psk_fingerprint: {description: Of its pre-shared key., returned: WireGuard with one, type: str}
                fingerprint: {description: Of its certificate., returned: OpenVPN, type: str}
                next_fingerprint: {description: Of its next certificate., returned: OpenVPN with one, type: str}
                accepts: {description: Of its peer's newest certificate., returned: OpenVPN with one, type: str}
        peer: {description: The other end. It has the same keys as C(local)., type: dict}
gone:
  description: For each host of O(orphans) those that the panel itself says it does not have there.
  returned: success
  type: dict
  contains:
    inventory_hostname: {description: Their UUIDs., type: list, elements: str}
  sample: {de-1: [1b4e28ba-2fa1-41d2-883f-0016d3cca427]}
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
      error: "source.port: 99999 can't be used. Give a whole number from 1 to 65535 (without quotes)."
"""

import functools

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import FieldError, PanelError
from ansible_collections.marzban.tunnels.plugins.module_utils._model import handwritten, validators
from ansible_collections.marzban.tunnels.plugins.module_utils._model import records as model_records
from ansible_collections.marzban.tunnels.plugins.module_utils._model import views as model_views
from ansible_collections.marzban.tunnels.plugins.module_utils._module import open_panel, run


def orphans_of(listed):
    """``({host: [(id, uuid)]}, problems)`` of the option. A node may be compromised: it spoils its own part only."""
    checked, problems = {}, []
    for host, orphans in listed.items():
        field = "orphans[%s]" % host
        checked[host] = []
        for orphan in orphans if isinstance(orphans, list) else [orphans]:
            try:
                validators.mapping(orphan, field)
                number = validators.integer(orphan.get("id"), field + ".id", 1, model_records.MAX_ID)
                checked[host].append((number, validators.uuid(orphan.get("uuid"), field + ".uuid")))
            except FieldError as error:
                problems.append(str(error))
    return checked, problems


def publish(records, published, nodes):
    """``(records, problems)`` with the public halves that the hosts told of, each by itself for the same reason."""
    problems = []
    for host, keys in published.items():
        try:
            records = model_views.publish(records, {host: keys}, nodes)
        except FieldError as error:
            problems.append(str(error))
    return records, problems


@functools.lru_cache(maxsize=1)
def node_names(panel):
    """The names of the panel's nodes, asked for once."""
    return {node.get("name") for node in panel.nodes()}


def is_gone(panel, number, uuid, node):
    """Whether the panel says that this tunnel is not, or does not end at ``node``. In doubt it is not gone."""
    try:
        raw = panel.tunnel(number)
    except PanelError as error:
        if error.kind == "not_found":
            return True
        raise
    if raw.get("uuid") != uuid:
        # Its id belongs to another tunnel now: that is a "not found" too, if the answer is sane.
        try:
            return validators.uuid(raw.get("uuid")) != uuid
        except FieldError:
            return False
    try:
        elsewhere = model_views.role_of(model_records.parse(raw), node) is None
    except FieldError:
        return False
    # Where the panel knows no node of this name, the node got another one, and its tunnels are still its own.
    return elsewhere and node in node_names(panel)


def is_out(records, broken, uuid, node):
    """The same for a hand-written list. An empty one, or one that holds a tunnel without a name, proves nothing."""
    if not records or any(one["uuid"] is None or one["uuid"] == uuid for one in broken):
        return False
    return all(one["uuid"] != uuid or model_views.role_of(one, node) is None for one in records)


def work(module):
    nodes = {host: name or host for host, name in module.params["nodes"].items()}
    orphans, problems = orphans_of(module.params["orphans"])
    panel = None
    if module.params["records"] is not None:
        place = handwritten.panel_id(module.params["list_name"])
        records, broken = handwritten.from_list(module.params["records"], module.params["list_name"])
        records, more = publish(records, module.params["published"], nodes)
        problems += more
    else:
        panel = open_panel(module)
        records, broken = model_records.parse_all(panel.tunnels())
        place = panel.id
    for problem in problems:
        module.warn("Left out: %s" % problem)
    views = model_views.views(records, nodes, place, module.params["post_quantum"])
    gone = {}
    for host, found in orphans.items():
        node = nodes.get(host, host)
        # What is in the host's view is not an orphan, even if the host reports it.
        seen = {view["uuid"] for view in views.get(host, [])}
        gone[host] = [
            uuid
            for number, uuid in found
            if uuid not in seen
            and (is_gone(panel, number, uuid, node) if panel else is_out(records, broken, uuid, node))
        ]
    return {"changed": False, "panel": place, "views": views, "gone": gone, "broken": broken}


def main():
    run(
        work,
        {
            "nodes": {"type": "dict", "required": True},
            "records": {"type": "list", "elements": "dict"},
            "list_name": {"type": "str", "default": "local"},
            "published": {"type": "dict", "default": {}},
            "orphans": {"type": "dict", "default": {}},
            "post_quantum": {"type": "str", "choices": ["auto", "require", "off"], "default": "auto"},
        },
    )


if __name__ == "__main__":
    main()
