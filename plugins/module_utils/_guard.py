# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Routes that would cut somebody off are refused, and a route that the operator has is never replaced. Pure."""

from __future__ import annotations

from ansible_collections.marzban.tunnels.plugins.module_utils._host import covers


def route_refusal(route, controllers, endpoints, routes, ours):
    """Why ``route`` must not be sent into a tunnel, or None.

    ``controllers`` and ``endpoints`` are addresses, ``routes`` the host's ``[(network, interface, by the kernel)]``,
    ``ours`` the interfaces whose routes are this tunnel's own.
    """
    address = covers(route, controllers)
    if address:
        return (
            "It covers %s, from where this host is driven: the connection would be cut. Take it out of the record."
            % address
        )
    address = covers(route, endpoints)
    if address:
        return "It covers %s, where the tunnel's own packets go: name the networks behind the peer only." % address
    for network, interface, _kernel in routes:
        if network == route and interface not in ours:
            return "This host has this route already, by %s: remove it there, or take it out of the record." % (
                interface or "hand"
            )
    return None
