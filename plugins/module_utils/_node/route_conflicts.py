# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a tunnel must leave alone: the operator's way in, the ways of tunnels' own packets, what the host has. Pure."""

from __future__ import annotations

import ipaddress

from .._errors import FieldError
from .net import covers


class Guard:
    """Checks the addresses and routes of one tunnel after the other.

    ``controllers`` are addresses, ``endpoints`` ``{address: name of the tunnel that sends its packets there}``,
    ``routes`` the host's ``[(network, interface, by the kernel)]``, ``addresses`` its ``[(address with prefix,
    interface)]``; both without what our own tunnels are about to give up.
    """

    def __init__(self, controllers, endpoints, routes, addresses):
        self._controllers, self._endpoints, self._routes, self._addresses = controllers, endpoints, routes, addresses
        self._taken = {}  # route: name of the tunnel that has it in this run

    def check(self, view, name, ours):
        """Refuses what would cut somebody off. ``ours``: the interfaces that are this tunnel's. Raises FieldError."""
        for address in view["local"]["addresses"]:
            found = ipaddress.ip_interface(address)
            for other, interface in self._addresses:
                if interface not in ours and ipaddress.ip_interface(other).ip == found.ip:
                    hint = "This host has it already, on %s: choose other addresses for the tunnel."
                    raise FieldError("addresses", address, hint % interface)
            self._check_network("addresses", address, str(found.network), name, ours)
        for route in view["routes"]:
            if route in self._taken:
                raise FieldError("routes", route, "The tunnel %s takes it already." % self._taken[route])
            self._check_network("routes", route, route, name, ours)

    def take(self, view, name):
        """From now on these routes are this tunnel's."""
        self._taken.update((route, name) for route in view["routes"])

    def _check_network(self, field, value, network, name, ours):
        hint = "name the networks behind the peer only." if field == "routes" else "choose a smaller network."
        address = covers(network, self._controllers)
        if address:
            seen = "It covers %s, from where this host is driven: the connection would be cut; %s" % (address, hint)
            raise FieldError(field, value, seen)
        address = covers(network, self._endpoints)
        if address:
            other = self._endpoints[address]
            whose = "the tunnel's own packets" if other == name else "the packets of the tunnel %s" % other
            raise FieldError(field, value, "It covers %s, where %s go: %s" % (address, whose, hint))
        for there, interface, _kernel in self._routes:
            if there == network and interface not in ours:
                seen = "This host has this route already, by %s: remove it there, or take it out of the record."
                raise FieldError(field, value, seen % (interface or "hand"))
