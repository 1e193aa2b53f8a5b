# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    # The options that declare one tunnel, in M(marzban.tunnels.tunnel)
    DOCUMENTATION = r"""
options:
  name:
    description: The tunnel's name. Case counts.
    type: str
    required: true
  source:
    description:
      - Name or id of one node (case counts). A name comes first, so C("7") is the node of that name, if it
        exists.
      - Needed to create a tunnel.
    type: str
  target:
    description: Name or id of the other node, as in O(source).
    type: str
  type:
    description: The protocol. The default for a new tunnel is V(wireguard).
    type: str
    choices: [wireguard, openvpn, ipsec]
  config:
    description:
      - What you choose for the tunnel instead of the panel; docs/records.md lists it - C(mtu),
        C(keepalive), C(dial), C(transport), C(post_quantum), and for each end under C(source) and C(target)
        C(endpoint), C(port), C(endpoint_port) (version 4 of the panel's tunnels API), C(addresses), C(interface) and
        C(routes).
      - It replaces the panel's config as a whole. Keys that this version doesn't know are passed on.
      - Numbers have to be numbers. In a template write C("{{ port | int }}").
    type: dict
  active:
    description: Whether the tunnel is active. A new tunnel is, unless this says otherwise.
    type: bool
"""
