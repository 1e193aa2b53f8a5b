#!/usr/bin/python
# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: tunnel_set
short_description: Record many tunnels on the panel in one call
version_added: 0.1.0
description:
  - Makes the panel's records of many tunnels match what is declared. The nodes and the tunnels are read once. Each
    difference is one request. Up to 100 new tunnels share a request where the panel has version 3 of its tunnels API.
    An option that is not given for a tunnel is left as it is on the panel.
  - All tunnels are checked before the first one is written. One that the panel refuses does not stop the others. The
    task then fails at its end, and reports what was done.
author:
  - the marzban.tunnels authors (@marzban-tunnels)
extends_documentation_fragment:
  - marzban.tunnels.panel
attributes:
  check_mode:
    description: Answers what would change, and sends no write.
    support: full
  diff_mode:
    description: Shows what is declared, before and after, for each tunnel that differs.
    support: full
options:
  tunnels:
    description: The tunnels.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: The tunnel's name. Case counts.
        type: str
        required: true
      source:
        description: Name or id of one node. Required to create a tunnel.
        type: str
      target:
        description: Name or id of the other node. Required to create a tunnel.
        type: str
      type:
        description: The protocol. The default for a new tunnel is V(wireguard).
        type: str
        choices: [wireguard, openvpn, ipsec]
      config:
        description: What you choose for it, as in M(marzban.tunnels.tunnel). It replaces the panel's as a whole.
        type: dict
      active:
        description: Whether the tunnel is active. A new tunnel is, unless this says otherwise.
        type: bool
  purge:
    description: Whether to delete the panel's tunnels that are not in O(tunnels), also those without a name.
    type: bool
    default: false
  purge_all:
    description: Whether O(purge) may delete every tunnel of the panel when O(tunnels) is empty.
    type: bool
    default: false
seealso:
  - module: marzban.tunnels.tunnel
"""

EXAMPLES = r"""
- name: A ring of three nodes, and nothing else
  marzban.tunnels.tunnel_set:
    url: https://panel.example.com:8000
    username: admin
    password: "{{ vault_marzban_password }}"
    tunnels:
      - {name: de-fi, source: de-1, target: fi-1}
      - {name: fi-us, source: fi-1, target: us-1}
      - {name: us-de, source: us-1, target: de-1, config: {mtu: 1380}}
    purge: true
  delegate_to: localhost
  become: false
"""

RETURN = r"""
tunnels:
  description: What was done (in check mode, would be done) for each of O(tunnels), then for those that were deleted.
  returned: success, and failure to write one of them
  type: list
  elements: dict
  contains:
    name: {description: "The tunnel's name, or null.", type: str}
    change: {description: "V(created), V(updated), V(unchanged), V(deleted) or V(failed).", type: str}
    error: {description: "Why it failed, or null.", type: str}
    tunnel:
      description: The record, as M(marzban.tunnels.tunnel) answers it. Null if it was deleted or failed.
      type: dict
      contains:
        id: {description: "The panel's id of the tunnel. It is never used again.", type: int}
        uuid: {description: The tunnel's UUID., type: str}
        name: {description: "Its name, or null.", type: str}
        type: {description: Its protocol., type: str}
        active: {description: Whether it runs., type: bool}
        version: {description: An integer that grows with each change of the record., type: int}
        status: {description: "V(active), V(inactive), V(error) or V(connecting), as last reported.", type: str}
        source: {description: The name of one node., type: str}
        target: {description: The name of the other node., type: str}
        config: {description: What the operator chose for it., type: dict}
        ends:
          description: The source's end and the target's.
          type: list
          elements: dict
          contains:
            role: {description: V(source) or V(target)., type: str}
            node: {description: The name of its node., type: str}
            node_id: {description: The panel's id of that node., type: int}
            endpoint: {description: Host name or IP address where the other end reaches it., type: str}
            port: {description: The port where it listens., type: int}
            endpoint_port:
              description: The port that the other end dials at C(endpoint). It is C(port), or what a NAT maps to that.
              type: int
            addresses: {description: Its addresses inside the tunnel., type: list, elements: str}
            interface: {description: Its network interface., type: str}
            routes: {description: The networks behind it., type: list, elements: str}
            public:
              description: Its public half, or null.
              type: dict
              contains:
                public_key: {description: "Its public key, in base64.", type: str}
                next_public_key: {description: Of its next key., returned: while there is one, type: str}
                accepts_public_key: {description: The next key of its peer., returned: while there is one, type: str}
                psk_fingerprint: {description: Of its pre-shared key., returned: WireGuard with one, type: str}
                fingerprint: {description: Of its certificate., returned: OpenVPN, type: str}
                next_fingerprint: {description: Of its next certificate., returned: OpenVPN while it renews, type: str}
                accepts: {description: Of its peer's newest certificate., returned: OpenVPN with its peer's, type: str}
            status: {description: "The status that it reported last, or null.", type: str}
            error: {description: "The error that it reported, or null.", type: str}
            measured:
              description: What was measured there last, or null.
              type: dict
              contains:
                handshake_age: {description: "Seconds since the last handshake, or null.", type: int}
                rx_bytes: {description: "Bytes received, or null.", type: int}
                tx_bytes: {description: "Bytes sent, or null.", type: int}
                rtt_ms: {description: "Round-trip time of a ping in milliseconds, or null.", type: float}
                loss_percent: {description: "Percentage of lost pings, or null.", type: float}
                cipher: {description: "The negotiated cipher, or null.", type: str}
                key_exchange: {description: "The negotiated key exchange, or null.", type: str}
                post_quantum: {description: "Whether that resists quantum computers, or null.", type: bool}
                data_path: {description: "V(kernel) or V(userspace), or null.", type: str}
                certificate_days: {description: "Days until its certificate ends, or null.", type: int}
                mtu: {description: "Bytes of the largest packet that passed in the last probe, or null.", type: int}
            age: {description: "Seconds since its last report, or null.", type: float}
        error:
          description: Why the record can't be used, or null. Fields of such a record that are not valid are null.
          type: str
  sample:
    - name: de-fi
      change: deleted
      error: null
      tunnel: null
"""

from functools import partial
from typing import Any, Callable, Dict, Optional, Tuple

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import Error, FieldError, PanelError
from ansible_collections.marzban.tunnels.plugins.module_utils._model import desired, records
from ansible_collections.marzban.tunnels.plugins.module_utils._model.names import by_look, check_alike, composed
from ansible_collections.marzban.tunnels.plugins.module_utils._model.shapes import Raw
from ansible_collections.marzban.tunnels.plugins.module_utils._module import run
from ansible_collections.marzban.tunnels.plugins.module_utils._panel.client import ITS_OWN, Panel
from ansible_collections.marzban.tunnels.plugins.module_utils._panel_module import open_panel, panel_argument_spec

Plan = Tuple[Raw, Optional[Raw], Raw]  # what is desired, what the panel has, and the body to send
Entry = Dict[str, Any]  # one of RETURN's tunnels
NO_ANSWER = ("unreachable", "bad_answer")  # errors after which the panel may have done what was asked


def plans_of(items: list[Raw], raws: list[Raw], nodes: desired.Nodes) -> list[Plan]:
    """The plans of all tunnels, checked. Raises FieldError for the first that is wrong."""
    plans: list[Plan] = []
    known = by_name(raws)
    names = set()
    named: dict[str, str] = {}
    for index, item in enumerate(items):
        field = "tunnels[%d]." % index
        want = desired.from_options(item, nodes, field)
        if want["name"] in names:
            raise FieldError(field + "name", want["name"], "It is in the list twice: remove one.")
        names.add(want["name"])
        raw = desired.find(known.get(want["name"], []), want["name"])
        if raw is None:
            check_alike(want["name"], field + "name", named)
        body = desired.body_to_update(want, raw, field) if raw else desired.body_to_create(want, field)
        plans.append((want, raw, body))
    return plans


def by_name(raws: list[Raw]) -> dict[str, list[Raw]]:
    """The panel's tunnels that have a name."""
    found: dict[str, list[Raw]] = {}
    for raw in raws:
        if isinstance(raw.get("name"), str):
            found.setdefault(composed(raw["name"]), []).append(raw)
    return found


def update(panel: Panel, raw: Raw, body: Raw) -> dict[str, Any]:
    """Sends one difference; returns the record as it is then."""
    return records.info(panel.update_tunnel(raw["id"], desired.to_wire(body), desired.version(raw)))


def created(name: str, answer: Raw | PanelError) -> Entry:
    """What became of a new tunnel."""
    if isinstance(answer, PanelError):
        return {"name": name, "change": "failed", "error": str(answer), "tunnel": None}
    return {"name": name, "change": "created", "error": None, "tunnel": records.info(answer)}


def foreseen(name: str, tunnel: Raw, looks: dict[str, str]) -> Entry:
    """What would become of a new tunnel beside others; ``looks`` are their names (``by_look``)."""
    try:
        check_alike(name, "name", looks)
    except FieldError as error:
        return {"name": name, "change": "failed", "error": str(error), "tunnel": None}
    return {"name": name, "change": "created", "error": None, "tunnel": tunnel}


def create(panel: Panel, new: list[Plan], done: dict[str, Entry]) -> None:
    """Creates the tunnels of ``new``. ``done`` has what became of each, by name, also when an Error ends it."""
    start = 0
    for bodies in panel.batches([desired.to_wire(body) for _want, _raw, body in new]):
        sent = new[start : start + len(bodies)]
        start += len(bodies)
        try:
            answers = panel.create_tunnels(bodies)
        except PanelError as error:
            if error.kind not in NO_ANSWER:
                raise
            raise Error("%s %s" % (error, look_for(panel, sent, done))) from None
        stops = None
        for (want, _raw, _body), answer in zip(sent, answers):
            if isinstance(answer, PanelError) and answer.kind not in ITS_OWN:
                stops = answer  # as if each was a call of its own; the panel itself has tried no more after it
            else:
                done[want["name"]] = created(want["name"], answer)
        if stops:
            raise stops


def look_for(panel: Panel, sent: list[Plan], done: dict[str, Entry]) -> str:
    """After a request without an answer: which of its new tunnels the panel has. Returns a sentence about it."""
    try:
        known = by_name(panel.tunnels())
    except PanelError:
        return "Which of the new tunnels of this request it has (%d were sent) is not known: run again." % len(sent)
    found = 0
    for want, _raw, body in sent:
        for raw in known.get(want["name"], []):
            if not desired.body_to_update(body, raw):
                done[want["name"]] = created(want["name"], raw)
                found += 1
    return "Of %d new tunnels in this request the panel has %d: run again for the rest." % (len(sent), found)


def work(module: AnsibleModule) -> dict[str, Any]:
    items, purge = module.params["tunnels"], module.params["purge"]
    if purge and not items and not module.params["purge_all"]:
        raise FieldError("tunnels", items, "With purge this deletes every tunnel: confirm it with purge_all: true.")
    panel = open_panel(module)
    nodes = desired.Nodes(panel.nodes())
    raws = panel.tunnels()
    plans = plans_of(items, raws, nodes)
    for _want, _raw, body in plans:
        panel.check_known(body)
    new = [plan for plan in plans if plan[1] is None]
    named = {id(raw) for _want, raw, _body in plans}
    going = [raw for raw in raws if id(raw) not in named] if purge else []
    for raw in [*going, *(raw for _want, raw, body in plans if raw and body)]:
        desired.version(raw)  # checked before the first write
    diffs = [{"before": desired.declared(raw), "after": {}} for raw in going]
    done: dict[str, Entry] = {}
    deleted: list[Entry] = []

    def attempt(name: str | None, change: str, action: Callable[[], Any]) -> Entry:
        try:
            return {"name": name, "change": change, "error": None, "tunnel": None if module.check_mode else action()}
        except PanelError as error:
            if error.kind not in ITS_OWN:
                raise
            return {"name": name, "change": "failed", "error": str(error), "tunnel": None}

    def report() -> list[Entry]:
        return [done[want["name"]] for want, _raw, _body in plans if want["name"] in done] + deleted

    try:
        # First deletions, which may free what the others need; then changes, then new tunnels.
        for raw in going:
            name = raw.get("name")
            deleted.append(attempt(name, "deleted", partial(panel.delete_tunnel, raw["id"], raw["version"])))
        for want, now, body in plans:
            if now is None:
                continue
            name = want["name"]
            if not body:
                done[name] = {"name": name, "change": "unchanged", "error": None, "tunnel": records.info(now)}
                continue
            done[name] = attempt(name, "updated", partial(update, panel, now, body))
            diffs.append({"before": desired.declared(now), "after": desired.declared({**now, **body}, nodes)})
            if module.check_mode:
                done[name]["tunnel"] = desired.predicted(now, body, nodes)
        diffs += [{"before": {}, "after": desired.declared(body, nodes)} for _want, _raw, body in new]
        if module.check_mode:
            stay = [raw for raw in raws if not purge or id(raw) in named] if panel.refuses_alike_names() else []
            looks = by_look(raw.get("name") for raw in stay)
            for want, _raw, body in new:
                done[want["name"]] = foreseen(want["name"], desired.predicted(None, body, nodes), looks)
        else:
            create(panel, new, done)
    except Error as error:
        changed = any(entry["change"] not in ("unchanged", "failed") for entry in report())
        module.fail_json(msg=str(error), changed=changed, tunnels=report())
    result: dict[str, Any] = {"tunnels": report(), "diff": diffs}
    result["changed"] = any(entry["change"] not in ("unchanged", "failed") for entry in result["tunnels"])
    errors = ["%s: %s" % (entry["name"], entry["error"]) for entry in result["tunnels"] if entry["error"]]
    if errors:
        module.fail_json(msg="%d of %d failed. %s" % (len(errors), len(result["tunnels"]), " ".join(errors)), **result)
    return result


def main() -> None:
    run(
        work,
        {
            **panel_argument_spec(),
            "tunnels": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": desired.tunnel_argument_spec(),
            },
            "purge": {"type": "bool", "default": False},
            "purge_all": {"type": "bool", "default": False},
        },
    )


if __name__ == "__main__":
    main()
