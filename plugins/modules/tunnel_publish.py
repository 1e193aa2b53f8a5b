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
      - Only those with C(publish) set are sent.
    type: dict
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
    results: "{{ dict(ansible_play_hosts | zip(ansible_play_hosts | map('extract', hostvars, 'applied'))) }}"
    nodes: {de-1: de-1, fi-1: fi-1}
  run_once: true
  delegate_to: localhost
  become: false
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

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import FieldError
from ansible_collections.marzban.tunnels.plugins.module_utils._model import answers, validators
from ansible_collections.marzban.tunnels.plugins.module_utils._model import records as model_records
from ansible_collections.marzban.tunnels.plugins.module_utils._model.answers import words
from ansible_collections.marzban.tunnels.plugins.module_utils._module import open_panel, run


def offered(results, nodes):
    """``(keys, rejected)`` out of the answers of tunnel_apply. A node may be compromised: they can hold anything."""
    keys, rejected = [], []
    for host, answer in results.items():
        own = host if nodes is None else nodes.get(host) or host
        try:
            ends = answers.entries(answer, "tunnels")
            ends = [validators.mapping(end, "tunnels[%d]" % number) for number, end in enumerate(ends)]
        except FieldError as error:
            rejected.append(refusal({"node": own}, error))
            continue
        for end in ends:
            if not end.get("publish") or not end.get("public"):
                continue
            if nodes is None or end.get("node") == own:
                keys.append({key: end.get(key) for key in ("uuid", "node", "public")})
            else:
                detail = "The host %s speaks for another node than its own: it may be compromised." % host
                rejected.append(refusal(end, detail))
    return keys, rejected


def refusal(key, detail):
    """An entry of ``rejected``. The public half is left out: a refused one may hold anything."""
    return {"uuid": words(key.get("uuid"), 128), "node": words(key.get("node"), 128), "detail": str(detail)}


def ends_of(records):
    """``{(uuid, node): (type, public half or None)}``."""
    return {
        (record["uuid"], end["node"]): (record["type"], end["public"])
        for record in records
        for end in record["ends"].values()
    }


def work(module):
    if module.params["keys"] is not None:
        keys, rejected = module.params["keys"], []
    else:
        keys, rejected = offered(module.params["results"], module.params["nodes"])
    news, before = [], []
    panel = open_panel(module)
    ends = ends_of(model_records.parse_all(panel.tunnels())[0]) if keys else {}
    for key in keys:
        try:
            uuid = validators.uuid(key["uuid"])
            node = validators.node_name(key["node"], "node")
            if (uuid, node) not in ends:
                raise FieldError("uuid", uuid, "The panel has no such tunnel that ends at %s and is in order." % node)
            kind, known = ends[uuid, node]
            public = validators.public_half(key["public"], "public", kind)
        except FieldError as error:
            rejected.append(refusal(key, error))
            continue
        if public != known:
            news.append({"uuid": uuid, "node": node, "public": public})
            before.append({"uuid": uuid, "node": node, "public": known})
    updated = len(news)
    if news and not module.check_mode:
        updated, refused = panel.post_keys(news)
        rejected += refused
    for one in rejected:
        module.warn("Not published for %s: %s" % (one["node"], one["detail"]))
    diff = {"before": {"keys": before}, "after": {"keys": news}}
    return {"changed": updated > 0, "updated": updated, "published": news, "rejected": rejected, "diff": diff}


def main():
    key = {
        "uuid": {"type": "str", "required": True},
        "node": {"type": "str", "required": True},
        "public": {"type": "dict", "required": True},
    }
    run(
        work,
        {
            "results": {"type": "dict"},
            "nodes": {"type": "dict"},
            "keys": {"type": "list", "elements": "dict", "options": key, "no_log": False},
        },
        required_one_of=[("results", "keys")],
        mutually_exclusive=[("results", "keys")],
    )


if __name__ == "__main__":
    main()
