#!/usr/bin/python
# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: tunnel_keys
short_description: Show or make the key of one end of a tunnel
version_added: 0.1.0
description:
  - Shows the public half of a tunnel's key on one host, and makes the key where it is missing.
  - The private half stays on the host, in a file that only root can read.
  - M(marzban.tunnels.tunnel_apply) makes missing keys itself. This module is for showing, repairing and changing a key.
    After a change the panel and the other end need the new public half, so run the apply playbook next.
author:
  - the marzban.tunnels authors (@marzban-tunnels)
requirements:
  - Python 3.8 or newer, and its cryptography (on the host)
options:
  uuid:
    description:
      - The tunnel's uuid.
    type: str
    required: true
  panel:
    description:
      - The id of the tunnel's panel. A folder of another panel is refused.
    type: str
    required: true
  id:
    description:
      - The tunnel's number on the panel. It is stored where the tunnel has no folder yet.
    type: int
  type:
    description:
      - The tunnel's protocol. The default is that of the tunnel's folder, and V(wireguard) where it has none yet.
    type: str
    choices: [wireguard, openvpn, ipsec]
  regenerate:
    description:
      - What happens to a key that is there. A missing key is made in any case.
      - Where what runs still has a key whose file is missing or broken, that key stays in use. Its file is written
        again (WireGuard, IPsec), or the next key is made, and the apply playbook lets both ends switch to it.
      - V(never) leaves it as it is, even if it is broken; RV(valid) says whether it is.
      - V(fail) fails the task for a broken key.
      - V(if_invalid) replaces a broken key.
      - V(always) replaces it at once, in each run, as after a leak. Traffic stops until both ends have been applied
        again.
    type: str
    choices: [never, fail, if_invalid, always]
    default: fail
  config_dir:
    description:
      - Where the host keeps one folder per tunnel.
      - The default is E(TUNNEL_CONFIG_DIR) of the controller, else V(/etc/marzban/tunnels).
    type: str
attributes:
  check_mode:
    support: full
    description: Makes no key. RV(public) is null where one would be made.
  diff_mode:
    support: full
    description: Shows the fingerprints of the public halves.
  platform:
    platforms: linux
    support: full
    description: Linux.
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
seealso:
  - module: marzban.tunnels.tunnel_apply
"""

EXAMPLES = r"""
- name: Show the public key of this end
  marzban.tunnels.tunnel_keys:
    uuid: 1b4e28ba-2fa1-41d2-883f-0016d3cca427
    panel: 0d1f3b52-7c9e-4c8e-9b0f-3a2d5e6f7a81
  check_mode: true
  register: key

- name: Replace a damaged key
  marzban.tunnels.tunnel_keys:
    uuid: 1b4e28ba-2fa1-41d2-883f-0016d3cca427
    panel: 0d1f3b52-7c9e-4c8e-9b0f-3a2d5e6f7a81
    regenerate: if_invalid
"""

RETURN = r"""
uuid:
  description: The tunnel's uuid.
  type: str
  returned: success
public:
  description: The public half. Null where it is not known (a broken key, or a key that check mode did not make).
  type: dict
  returned: success
  contains:
    public_key: {description: A public key., type: str}
    next_public_key: {description: "Of the key that will take its place, where there is one.", type: str}
    psk_fingerprint: {description: "Of the pre-shared key (WireGuard, if it has one).", type: str}
    fingerprint: {description: Of the certificate (OpenVPN)., type: str}
    next_fingerprint: {description: "Of its next certificate (OpenVPN, while it renews).", type: str}
  sample: {"public_key": "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="}
fingerprint:
  description: The fingerprint of the public half, as a diff shows it. Null where it is not known.
  type: str
  returned: success
  sample: public key SHA256:9b1yZ8Qx0TqfFJm7m0hJ4gVvGfK8sSeQY2lqJ0cVb0k
valid:
  description: Whether there is a usable key now.
  type: bool
  returned: success
"""

import contextlib
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import Error
from ansible_collections.marzban.tunnels.plugins.module_utils._model import next_key, validators
from ansible_collections.marzban.tunnels.plugins.module_utils._model.types import DEFAULT_TYPE, TYPES
from ansible_collections.marzban.tunnels.plugins.module_utils._module import run
from ansible_collections.marzban.tunnels.plugins.module_utils._node.files import file_diff
from ansible_collections.marzban.tunnels.plugins.module_utils._node.host import Host
from ansible_collections.marzban.tunnels.plugins.module_utils._node.keyring import keep
from ansible_collections.marzban.tunnels.plugins.module_utils._node.state import CONFIG_DIR, Folders, new_state
from ansible_collections.marzban.tunnels.plugins.module_utils._protocols import registry, x25519


def work(module: AnsibleModule) -> dict[str, Any]:
    """The answer. Raises Error."""
    given, check = module.params, module.check_mode
    if not x25519.HAS_CRYPTOGRAPHY and not check:
        raise Error(missing_required_lib("cryptography"))
    folders = Folders(given["config_dir"] or CONFIG_DIR)
    uuid, panel = validators.uuid(given["uuid"]), validators.uuid(given["panel"], "panel")
    with contextlib.ExitStack() as stack:
        if not check:
            stack.enter_context(folders.locked())
            folders.sweep()
        return answer(given, check, folders, uuid, panel)


def answer(given: dict[str, Any], check: bool, folders: Folders, uuid: str, panel: str) -> dict[str, Any]:
    """The answer, once nobody else changes this host. Raises Error."""
    known = folders.state(uuid)
    kind = given["type"] or (known["type"] if known else DEFAULT_TYPE)
    protocol = registry.protocol(kind)(Host(check), folders)
    state = folders.own(uuid, panel, kind)
    exists, before, broken = True, None, None
    try:
        exists, before = protocol.load_key(uuid)
    except x25519.BrokenKey as error:
        broken = error
        if given["regenerate"] == "fail":
            raise
    make = not exists or given["regenerate"] == "always" or bool(broken and given["regenerate"] == "if_invalid")
    public = None if make else before
    at_once = given["regenerate"] == "always"
    kept, changed = keep(protocol, state) if make and not at_once else (None, False)
    if kept:
        public = kept
    elif make and not check:
        if state is None:
            about = {"panel": panel, "id": given["id"], "uuid": uuid, "name": None, "type": kind, "version": 0}
            state = new_state(about)
            folders.write_state(state)
        public = protocol.make_key(uuid) if at_once else protocol.repair_key(uuid)
        # Or the next run would name this key as one that somebody else has put there.
        folders.write_state({**state, "public_key": public["public_key"]})
    old, new = (protocol.fingerprint(half) if half else None for half in (before, public))
    shown_old = old or ("a broken key" if broken else None)
    following = (kept or {}).get(next_key.NEXT)
    if kept and following:
        new = "%s, next: %s" % (new, protocol.fingerprint(dict(kept, public_key=following)))
    shown_new = new or ("a new key" if make else shown_old)
    return {
        "changed": changed if kept else make,
        "uuid": uuid,
        "public": public,
        "fingerprint": new,
        "valid": make or broken is None,
        "diff": [file_diff(protocol.key_path(uuid), *(text and text + "\n" for text in (shown_old, shown_new)))],
    }


def main() -> None:
    run(
        work,
        {
            "uuid": {"type": "str", "required": True},
            "panel": {"type": "str", "required": True},
            "id": {"type": "int"},
            "type": {"type": "str", "choices": list(TYPES)},
            "regenerate": {
                "type": "str",
                "choices": ["never", "fail", "if_invalid", "always"],
                "default": "fail",
                "no_log": False,
            },
            "config_dir": {"type": "str"},
        },
    )


if __name__ == "__main__":
    main()
