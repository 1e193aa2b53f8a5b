# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a tunnel must leave alone: the operator's way in, the ways of tunnels' own packets, what the host has. Pure."""

from __future__ import annotations

import bisect
import ipaddress
from typing import TYPE_CHECKING, Callable, Collection, Iterable, Mapping, Sequence

from .._errors import Error, FieldError
from .net import Route, Session

if TYPE_CHECKING:
    from .._model.shapes import Applied, State, View


class Addresses:
    """Many addresses, among which those in a network are found without looking at all of them."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts: dict[tuple[int, int], str] = {}
        for text in texts:
            address = ipaddress.ip_address(text)
            self._texts.setdefault((address.version, int(address)), text)
        self._sorted = sorted(self._texts)

    def within(self, network: str) -> list[str]:
        """Those that are in the network, in order."""
        found = ipaddress.ip_network(network)
        first = bisect.bisect_left(self._sorted, (found.version, int(found.network_address)))
        last = bisect.bisect_right(self._sorted, (found.version, int(found.broadcast_address)))
        return [self._texts[key] for key in self._sorted[first:last]]


class Guard:
    """Checks the addresses and routes of one tunnel after the other.

    What a tunnel has already, it keeps: these checks are about what a change would do. ``sessions`` are those that
    drive this host, ``endpoints`` ``{address: names of the tunnels that send their packets there}``, ``routes`` the
    host's ``[(network, interface, by the kernel)]``, ``addresses`` its ``[(address with prefix, interface)]``; of both
    ``leaving`` is what our own tunnels are about to give up. ``lifelines`` answers ``{address: what is there}`` of what
    the host has to reach; it is asked only where something is new. ``ways``: the routes before this run took anything
    down, by which packets left until then (default: ``routes``).
    """

    def __init__(
        self,
        sessions: Iterable[Session],
        endpoints: Mapping[str, Collection[str]],
        routes: Iterable[Route],
        addresses: Iterable[tuple[str, str]],
        leaving: Collection[tuple[str, str | None]] = (),
        lifelines: Callable[[], Mapping[str, str]] = dict,
        ways: Iterable[Route] | None = None,
    ) -> None:
        self._find_lifelines = lifelines
        self._lifelines: Mapping[str, str] | None = None  # not asked yet
        self._sessions: dict[str, list[Session]] = {}
        for session in sessions:
            self._sessions.setdefault(session.address, []).append(session)
        self._controllers, self._endpoints, self._names = Addresses(self._sessions), Addresses(endpoints), endpoints
        self._routes: dict[str, list[str | None]] = {}
        self._addresses: dict[str, list[str]] = {}
        self._live: set[tuple[str, str | None]] = set()  # (network or address, interface)
        self._ways: dict[str, list[str | None]] = {}
        routes = list(routes)
        for network, interface, _kernel in routes if ways is None else ways:
            self._ways.setdefault(network, []).append(interface)
        for network, interface, _kernel in routes:
            if (network, interface) not in leaving:
                self._routes.setdefault(network, []).append(interface)
                self._live.add((network, interface))
        for address, name in addresses:
            if (address, name) not in leaving:
                self._addresses.setdefault(address.partition("/")[0], []).append(name)
                self._live.add((address, name))
        self._taken: dict[str, str] = {}  # route: name of the tunnel that has it in this run

    def check(self, view: View, name: str, ours: Collection[str | None], state: State | None = None) -> None:
        """Refuses what would cut somebody off. ``ours``: the interfaces that are this tunnel's. Raises Error."""
        tunnel = _Checked(view, name, ours, state)
        self._check_way(tunnel)
        for address in view["local"]["addresses"]:
            if not self._has(tunnel, address):
                for interface in self._addresses.get(address.partition("/")[0], []):
                    if interface not in ours:
                        hint = "This host has it already, on %s: choose other addresses for the tunnel."
                        raise FieldError("addresses", address, hint % interface)
            self._check_network(tunnel, "addresses", address)
        for route in view["routes"]:
            if route in self._taken:
                raise FieldError("routes", route, "The tunnel %s takes it already." % self._taken[route])
            self._check_network(tunnel, "routes", route)

    def take(self, view: View, name: str) -> None:
        """From now on these routes are this tunnel's."""
        self._taken.update((route, name) for route in view["routes"])

    def _has(self, tunnel: _Checked, text: str) -> bool:
        """Whether the tunnel has this address or route now, and by us."""
        return text in tunnel.applied and (text, tunnel.view["interface"]) in self._live

    def _through(self, tunnel: _Checked, session: Session) -> bool:
        """Whether a session comes through the tunnel: it lasts as long as the tunnel, and needs no other way.

        By its own address too: where the interface is lost, and is to be put back, the route is lost as well.
        """
        return session.own in tunnel.own or _way(session.address, self._ways)[0] in tunnel.interfaces

    def _check_way(self, tunnel: _Checked) -> None:
        """Refuses to take away the network through which this run itself comes. Raises Error."""
        leave = [text for text in tunnel.applied if text not in tunnel.wanted]
        stay = {text.partition("/")[0] for text in tunnel.wanted}
        driving = [s for its in self._sessions.values() for s in its if s.driving] if leave else []
        for session in filter(lambda session: self._through(tunnel, session), driving):
            covers = Addresses([session.address]).within
            kept = any(covers(_network(text)) for text in tunnel.wanted)
            for text in leave:
                own = text.partition("/")[0] == session.own and session.own not in stay
                if own or (covers(_network(text)) and not kept):
                    raise Error(
                        "This run comes through this tunnel, from %s. Without %s its connection would be cut, and the "
                        "change would stay half done: reach this host by another way for this change."
                        % (session.address, text)
                    )

    def _check_network(self, tunnel: _Checked, field: str, value: str) -> None:
        network, hint = _network(value), "name the networks behind the peer only."
        if field == "addresses":
            hint = "choose a smaller network, or other addresses."
        has = self._has(tunnel, value)
        for address in [] if has else self._controllers.within(network):
            # What was there before, and is put back, may be the very way of a session that lasts: only this run's own
            # is known to come by another way.
            counts = [s for s in self._sessions[address] if s.driving or value not in tunnel.applied]
            if not all(self._through(tunnel, session) for session in counts):
                seen = "It covers %s, where an SSH connection to this host comes from: it would be cut; %s" % (
                    address,
                    hint,
                )
                raise FieldError(field, value, seen)
        for address in self._endpoints.within(network):
            names = sorted(self._names[address])
            # A tunnel's own packets are lost in it at once; those of another one may go through this one since long.
            if tunnel.name in names or value not in tunnel.applied:
                other = "the packets of the tunnel %s" % names[0]
                whose = "the tunnel's own packets" if tunnel.name in names else other
                raise FieldError(field, value, "It covers %s, where %s go: %s" % (address, whose, hint))
        if value not in tunnel.applied:
            self._check_lifelines(tunnel, field, value, hint)
        for interface in [] if has else self._routes.get(network, []):
            if interface not in tunnel.ours:
                seen = "This host has this route already, by %s: remove it there, or take it out of the record."
                raise FieldError(field, value, seen % (interface or "hand"))

    def _check_lifelines(self, tunnel: _Checked, field: str, value: str, hint: str) -> None:
        """Refuses a network that would take the way to what this host has to reach. Raises FieldError."""
        if self._lifelines is None:
            self._lifelines = self._find_lifelines()
        network = ipaddress.ip_interface(value).network
        for address in Addresses(self._lifelines).within(str(network)):
            interface, length = _way(address, self._ways)
            if interface not in tunnel.interfaces and length <= network.prefixlen:  # or the present way stays
                seen = "It covers %s, %s, which could not be reached any more: %s"
                raise FieldError(field, value, seen % (address, self._lifelines[address], hint))


class _Checked:
    """A tunnel that is checked. ``applied``: addresses and routes that the last run left on its interface."""

    def __init__(self, view: View, name: str, ours: Collection[str | None], state: State | None) -> None:
        self.view, self.name, self.ours = view, name, ours
        self.interfaces = {view["interface"], *([state["interface"]] if state and state["interface"] else [])}
        here: Applied = state["applied"] if state and state["interface"] == view["interface"] else {}
        addresses = here.get("addresses") or []
        self.applied = [*addresses, *(here.get("routes") or [])]
        self.wanted = [*view["local"]["addresses"], *view["routes"]]
        self.own = {address.partition("/")[0] for address in [*addresses, *view["local"]["addresses"]]}


def _network(text: str) -> str:
    return str(ipaddress.ip_interface(text).network)


def _way(address: str, routes: Mapping[str, Sequence[str | None]]) -> tuple[str | None, int]:
    """The interface that packets to an address leave by, and the length of the prefix that says so; or (None, 0)."""
    found = ipaddress.ip_address(address)
    for length in range(found.max_prefixlen, -1, -1):
        interfaces = routes.get(str(ipaddress.ip_network((found, length), strict=False)))
        if interfaces:
            return interfaces[0], length
    return None, 0


def endpoints_of(tunnels: Iterable[tuple[View, str]], resolved: Mapping[str, list[str]]) -> dict[str, set[str]]:
    """``{address: names of the tunnels that send their packets there}``; ``tunnels``: views and names."""
    found: dict[str, set[str]] = {}
    for view, name in tunnels:
        for address in resolved.get(view["peer"]["endpoint"]) or []:
            found.setdefault(address, set()).add(name)
    return found


def given_up(tunnels: Iterable[tuple[View, State | None]]) -> set[tuple[str, str | None]]:
    """``{(network or address, interface)}``: what these tunnels had by their states, and have not by their views."""
    found: set[tuple[str, str | None]] = set()
    for view, state in tunnels:
        if state is None:
            continue
        keeps = {*view["routes"], *view["local"]["addresses"]}
        gone = {*(state["applied"].get("routes") or []), *(state["applied"].get("addresses") or [])} - keeps
        gone |= {str(ipaddress.ip_interface(text).network) for text in gone}
        found |= {(text, state["interface"]) for text in gone}
    return found
