# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What every tunnel has on a host, whatever its protocol: an interface, addresses, routes, a table of nftables. Pure.

``compare_*`` fill a Plan with the difference between what is wanted and what is there; ``lacking`` names what others
have taken away. A protocol adds its own to both.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable

from .._errors import Error, FieldError
from .net import Route

if TYPE_CHECKING:
    from .._model.shapes import Applied, NarrowPath, View

LEAST, USUAL, MOST = 1280, 1420, 9200  # bytes of an MTU

#: What a protocol observed: ``units``, ``links``, ``tables``, ``now``, and its own
Live = Dict[str, Any]


class Plan:
    """What has to happen to one tunnel. ``changes`` says it to a person, the rest to ``Protocol.do``."""

    def __init__(self, view: View, unit: str) -> None:
        self.view, self.unit, self.interface = view, unit, view["interface"]
        self.files: list[tuple[str, str | None, str | None]] = []  # path, before, after; None: no such file
        self.units = False  # systemd has to read them again
        self.enable = False  # the unit
        self.start = False  # the unit, and all that follows is done by that
        self.unlink = False  # an interface in the way of the start
        self.load = False  # the rules
        self.first: list[tuple[str, ...]] = []  # commands that give up what another tunnel may get in this run
        self.hot: list[tuple[str, ...]] = []  # commands
        self.whole_host: dict[str, str] = {}  # path: text of the files that are not the tunnel's alone, for all to read
        self.narrow: NarrowPath | None = None  # the path, where the MTU is lower because of it
        self.changes: list[str] = []

    def write(self, path: str, before: str | None, after: str | None) -> bool:
        """A file that has to hold ``after`` (None: to be removed). Whether that is a change."""
        if before != after:
            self.files.append((path, before, after))
        return before != after

    def command(self, change: str, *argv: str) -> None:
        """A command, and what it changes."""
        self.changes.append(change)
        self.hot.append(argv)


def without_ipv6(view: View) -> View:
    """``view`` for a host where IPv6 is off: what is left of the tunnel. Raises FieldError when nothing is."""
    addresses = [address for address in view["local"]["addresses"] if ":" not in address]
    if not addresses:
        hint = "IPv6 is off on this host (net.ipv6.conf.default.disable_ipv6): switch it on, or add IPv4 addresses."
        raise FieldError("local.addresses", ", ".join(view["local"]["addresses"]), hint)
    left = view.copy()
    left["routes"] = [route for route in view["routes"] if ":" not in route]
    left["local"] = view["local"].copy()
    left["local"]["addresses"] = addresses
    return left


# The table of nftables


def table(uuid: str) -> str:
    """The name of the tunnel's own table in the family inet."""
    return "marzban-%s" % uuid


def rules(view: View, mtu: int, device: str | None = None) -> str:
    """What nft loads for a tunnel: it replaces the tunnel's own table in one transaction, and touches no other.

    Packets to the tunnel's address that come from elsewhere are dropped. The segment size is clamped for what is
    forwarded into the tunnel, and for what comes out of it. ``device`` is where packets come out of the tunnel, if
    that is not the view's interface.
    """
    name, device = table(view["uuid"]), device or view["interface"]
    lines = ["table inet %s" % name, "delete table inet %s" % name, "table inet %s {" % name, "\tchain guard {"]
    lines.append("\t\ttype filter hook prerouting priority raw; policy accept;")
    for address in view["local"]["addresses"]:
        found = ipaddress.ip_interface(address)
        family = "ip" if found.version == 4 else "ip6"
        lines.append('\t\tiifname != "%s" %s daddr %s fib saddr type != local drop' % (device, family, found.ip))
    lines += ["\t}", "\tchain clamp {", "\t\ttype filter hook forward priority mangle; policy accept;"]
    for family, headers in (("ipv4", 40), ("ipv6", 60)):
        for direction in ("iifname", "oifname"):
            lines.append(
                '\t\t%s "%s" meta nfproto %s tcp flags & (syn | rst) == syn tcp option maxseg size set %d'
                % (direction, device, family, mtu - headers)
            )
    return "\n".join([*lines, "\t}", "}"]) + "\n"


# The interface


def batch(view: View, mtu: int) -> str:
    """What `ip -batch` reads once the interface is there: addresses, MTU, up, routes."""
    name = view["interface"]
    lines = ["address add %s dev %s" % (address, name) for address in view["local"]["addresses"]]
    lines.append("link set dev %s mtu %d up" % (name, mtu))
    lines += ["route add %s dev %s" % (route, name) for route in view["routes"]]
    return "\n".join(lines) + "\n"


def compare_unit(plan: Plan, live: Live, there: bool) -> None:
    """Whether the unit has to be enabled, and started: it isn't active, or what it makes is not ``there``.

    Raises Error where somebody has masked it, which is done on purpose.
    """
    service = live["units"].get(plan.unit, {})
    if service.get("load") == "masked":
        raise Error("%s is masked on this host: run systemctl unmask %s, or deactivate it." % (plan.unit, plan.unit))
    if not service.get("enabled"):
        plan.enable = True
        plan.changes.append("enabled")
    if not there or service.get("active") != "active":
        plan.start, plan.unlink = True, plan.interface in live["links"]
        plan.changes.append("started")


def compare_rules(plan: Plan, applied: Applied, live: Live, written: bool) -> None:
    """The rules; ``written``: their file is new."""
    listed = live["tables"].get(table(plan.view["uuid"]))
    if written or listed is None or listed != applied.get("rules"):
        plan.load = True
        plan.changes.append("firewall rules loaded")


def compare_link(plan: Plan, link: dict[str, Any], addresses: list[str], mtu: int | None, ours: Iterable[str]) -> bool:
    """The interface itself: what we put there, or put there once. What somebody else added is left alone.

    ``addresses`` are wanted, ``ours`` those that we have put there (canonical texts). Answers whether the routes
    have to be put back afterwards.
    """
    name = plan.interface
    if not link["up"]:
        plan.command("link up", "ip", "link", "set", "dev", name, "up")
    if mtu and link["mtu"] != mtu:
        plan.command("MTU %d instead of %s" % (mtu, link["mtu"]), "ip", "link", "set", "dev", name, "mtu", str(mtu))
    if not link["ipv6"] and any(":" in address for address in addresses):
        path = "/proc/sys/net/ipv6/conf/%s/disable_ipv6" % name
        plan.command("IPv6 switched on", "sh", "-c", 'echo 0 > "$1"', "sh", path)
    # First those that come: with its last address an interface loses its routes.
    for address in addresses:
        if address not in link["addresses"]:
            plan.command("address %s added" % address, "ip", "addr", "add", address, "dev", name)
    routes_lost = False
    for address in link["addresses"]:
        if address in ours and address not in addresses:
            plan.command("address %s removed" % address, "ip", "addr", "del", address, "dev", name)
            # Where another one is of the same network, the kernel may take it along, and all routes with it.
            network = ipaddress.ip_interface(address).network
            for other in addresses:
                if ipaddress.ip_interface(other).network == network:
                    plan.hot.append(("ip", "addr", "replace", other, "dev", name))
                    routes_lost = True
    return routes_lost


def compare_routes(plan: Plan, routes: list[Route], applied: Applied, again: bool) -> None:
    """The routes into the interface; ``routes`` is the main table, ``again`` that all have to be put back."""
    name, wanted = plan.interface, plan.view["routes"]
    there = [network for network, device, _kernel in routes if device == name]
    for route in wanted:
        if route not in there:
            plan.command("route %s added" % route, "ip", "route", "add", route, "dev", name)
        elif again:
            plan.hot.append(("ip", "route", "replace", route, "dev", name))
    for route in applied.get("routes") or []:
        if route in there and route not in wanted:
            plan.changes.append("route %s removed" % route)
            plan.first.append(("ip", "route", "del", route, "dev", name))


def check_port(plan: Plan, port: int, taken: Iterable[int], listening: bool) -> None:
    """Refuses a port that others have. ``listening``: the tunnel's own process has it already. Raises FieldError."""
    if port in taken and not listening:
        hint = "Another program on this host listens there (see ss -lnp): stop it, or choose another port."
        raise FieldError("local.port", port, hint)


def check_endpoint(view: View, resolved: dict[str, list[str]]) -> None:
    """Refuses a peer whose name this host can't resolve. Raises FieldError."""
    if view["dial"] and not resolved.get(view["peer"]["endpoint"], True):
        hint = "This host can't resolve the name: correct it, or the host's DNS."
        raise FieldError("peer.endpoint", view["peer"]["endpoint"], hint)


def lacking(view: View, applied: Applied, live: Live, routes: list[Route], ipv6: bool) -> list[str]:
    """What of a tunnel that was applied is not there, for a person. ``ipv6``: whether this host has any."""
    name, link = view["interface"], live["links"].get(view["interface"])
    if link is None:  # then all of it is gone, and it does not run
        return []
    addresses = [a for a in applied.get("addresses") or [] if ipv6 or ":" not in a]
    there = [network for network, device, _kernel in routes if device == name]
    lacks = [] if link["up"] else ["the interface (down)"]
    lacks += ["the address %s" % address for address in addresses if address not in link["addresses"]]
    wanted = [route for route in applied.get("routes") or [] if ipv6 or ":" not in route]
    lacks += ["the route %s" % route for route in wanted if route not in there]
    if applied.get("rules") and table(view["uuid"]) not in live["tables"]:
        lacks.append("the firewall rules")
    return lacks


def leave_out(live: Live, interface: str, units: Iterable[str]) -> Live:
    """``live`` as if ``interface`` and its units were not there: another tunnel of ours leaves them in this run."""
    gone = {interface, *units}
    return {
        key: {name: value for name, value in found.items() if name not in gone} if isinstance(found, dict) else found
        for key, found in live.items()
    }


def parse_tables(listing: str, digest: Callable[[str], str]) -> dict[str, str]:
    """``{table: digest of what nft lists}`` of our tables. Its form differs between releases: nothing parses it."""
    found = {}
    for part in re.split(r"^(?=table inet )", listing, flags=re.MULTILINE):
        if re.match(r"table inet marzban-[0-9a-f-]{36} ", part):
            found[part.split()[2]] = digest(part.strip())
    return found
