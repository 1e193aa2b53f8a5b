# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a tunnel must leave alone: the operator's way in, the ways of tunnels' own packets, what the host has. Pure."""

from __future__ import annotations

import bisect
import ipaddress
from typing import Collection, Iterable

from .._errors import FieldError
from .._model.types import State, View
from .net import Route


class Addresses:
    """Many addresses, among which the first one in a network is found without looking at all of them."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts: dict[tuple[int, int], str] = {}
        for text in texts:
            address = ipaddress.ip_address(text)
            self._texts.setdefault((address.version, int(address)), text)
        self._sorted = sorted(self._texts)

    def within(self, network: str) -> str | None:
        """One that is in the network, or None."""
        found = ipaddress.ip_network(network)
        place = bisect.bisect_left(self._sorted, (found.version, int(found.network_address)))
        if place < len(self._sorted) and self._sorted[place] <= (found.version, int(found.broadcast_address)):
            return self._texts[self._sorted[place]]
        return None


class Guard:
    """Checks the addresses and routes of one tunnel after the other.

    ``controllers`` are addresses, ``endpoints`` ``{address: name of the tunnel that sends its packets there}``,
    ``routes`` the host's ``[(network, interface, by the kernel)]``, ``addresses`` its ``[(address with prefix,
    interface)]``; both without what our own tunnels are about to give up.
    """

    def __init__(
        self,
        controllers: Iterable[str],
        endpoints: dict[str, str],
        routes: Iterable[Route],
        addresses: Iterable[tuple[str, str]],
    ) -> None:
        self._controllers, self._endpoints, self._names = Addresses(controllers), Addresses(endpoints), endpoints
        self._routes: dict[str, list[str | None]] = {}
        for network, interface, _kernel in routes:
            self._routes.setdefault(network, []).append(interface)
        self._addresses: dict[str, list[str]] = {}
        for address, name in addresses:
            self._addresses.setdefault(address.partition("/")[0], []).append(name)
        self._taken: dict[str, str] = {}  # route: name of the tunnel that has it in this run

    def check(self, view: View, name: str, ours: Collection[str | None]) -> None:
        """Refuses what would cut somebody off. ``ours``: the interfaces that are this tunnel's. Raises FieldError."""
        for address in view["local"]["addresses"]:
            for interface in self._addresses.get(address.partition("/")[0], []):
                if interface not in ours:
                    hint = "This host has it already, on %s: choose other addresses for the tunnel."
                    raise FieldError("addresses", address, hint % interface)
            self._check_network("addresses", address, str(ipaddress.ip_interface(address).network), name, ours)
        for route in view["routes"]:
            if route in self._taken:
                raise FieldError("routes", route, "The tunnel %s takes it already." % self._taken[route])
            self._check_network("routes", route, route, name, ours)

    def take(self, view: View, name: str) -> None:
        """From now on these routes are this tunnel's."""
        self._taken.update((route, name) for route in view["routes"])

    def _check_network(self, field: str, value: str, network: str, name: str, ours: Collection[str | None]) -> None:
        hint = "name the networks behind the peer only." if field == "routes" else "choose a smaller network."
        address = self._controllers.within(network)
        if address:
            seen = "It covers %s, from where this host is driven: the connection would be cut; %s" % (address, hint)
            raise FieldError(field, value, seen)
        address = self._endpoints.within(network)
        if address:
            other = self._names[address]
            whose = "the tunnel's own packets" if other == name else "the packets of the tunnel %s" % other
            raise FieldError(field, value, "It covers %s, where %s go: %s" % (address, whose, hint))
        for interface in self._routes.get(network, []):
            if interface not in ours:
                seen = "This host has this route already, by %s: remove it there, or take it out of the record."
                raise FieldError(field, value, seen % (interface or "hand"))


def given_up(tunnels: Iterable[tuple[View, State | None]]) -> set[tuple[str, str | None]]:
    """``{(network or address, interface)}``: what these tunnels had, by their states, and their views have no more."""
    found: set[tuple[str, str | None]] = set()
    for view, state in tunnels:
        if state is None:
            continue
        keeps = {*view["routes"], *view["local"]["addresses"]}
        gone = {*(state["applied"].get("routes") or []), *(state["applied"].get("addresses") or [])} - keeps
        gone |= {str(ipaddress.ip_interface(text).network) for text in gone}
        found |= {(text, state["interface"]) for text in gone}
    return found
