# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What leads packets to charon on its userspace data path: its device, a routing rule, and routes in its table. Pure.

charon adds the rule when it starts and the routes when a session comes up, and does not look after them. So who takes
them away (systemd-networkd, an ``ip rule flush``) ends all tunnels, though their sessions go on.
"""

from __future__ import annotations

import ipaddress
import json
import re
from typing import Any, Iterable, List, NamedTuple

from ..._errors import Error
from ..._node.netdev import Live
from . import swanctl

FAMILIES = {4: "-4", 6: "-6"}
_SETTING = re.compile(r"^\s*(routing_table|routing_table_prio|install_routes)\s*=\s*(\S+)", re.MULTILINE)


class Settings(NamedTuple):
    """strongswan.conf(5) on routes, of which these are the defaults."""

    table: int = 220
    priority: int = 220
    routes: bool = True  # whether charon installs any


class Found(NamedTuple):
    """What is there."""

    settings: Settings
    rules: List[int]  # families (4, 6) with the rule
    routes: List[str]  # networks that the table sends to charon's device


def settings_of(texts: Iterable[str]) -> Settings:
    """What the owner's files say; ``texts`` in the order in which charon reads them."""
    found = {key: value for text in texts for key, value in _SETTING.findall(text)}
    defaults = Settings()

    def number(key: str, default: int) -> int:
        return int(found[key]) if found.get(key, "").isdigit() else default

    return Settings(
        number("routing_table", defaults.table),
        number("routing_table_prio", defaults.priority),
        found.get("install_routes") not in ("no", "false", "0"),
    )


def queries(settings: Settings) -> list[tuple[str, ...]]:
    """The commands whose outputs ``found`` takes, in this order."""
    # Those of the table only: in what is printed it may have a name (rt_tables).
    rules = [("ip", "-j", flag, "rule", "show", "table", str(settings.table)) for flag in FAMILIES.values()]
    tables = [("ip", "-j", flag, "route", "show", "table", str(settings.table)) for flag in FAMILIES.values()]
    return [*rules, *tables]


def found(settings: Settings, outputs: list[str | None]) -> Found:
    """What the commands said. A table without routes does not exist, and its command fails: None."""
    lists = [_json(text) for text in outputs]
    rules = [
        family
        for family, listed in zip(FAMILIES, lists)
        if any(rule.get("priority") == settings.priority for rule in listed)
    ]
    everything = ("0.0.0.0/0", "::/0")
    routes = [
        _canonical(default if route.get("dst") == "default" else route.get("dst"))
        for default, listed in zip(everything, lists[2:])
        for route in listed
        if route.get("dev") == swanctl.USERSPACE_DEVICE
    ]
    return Found(settings, rules, routes)


def _json(text: str | None) -> list[dict[str, Any]]:
    try:
        return [item for item in json.loads(text or "[]") if isinstance(item, dict)]
    except ValueError:
        raise Error("ip -j rule gave no JSON: iproute2 4.17 or newer is needed") from None


def _canonical(network: object) -> str:
    try:
        return str(ipaddress.ip_network(str(network)))
    except ValueError:
        return ""


class Lacking(NamedTuple):
    """What a tunnel needs and is not there."""

    device: str | None  # "missing" or "down"
    rules: List[int]  # families
    routes: List[str]  # networks

    def sentences(self, settings: Settings) -> list[str]:
        """The same for a person."""
        device = ["the device %s%s" % (swanctl.USERSPACE_DEVICE, " (down)" if self.device == "down" else "")]
        rules = ["the routing rule %d (IPv%d)" % (settings.priority, family) for family in self.rules]
        routes = ["the route %s in table %d" % (network, settings.table) for network in self.routes]
        return [*(device if self.device else []), *rules, *routes]


def lacking(live: Live, name: str, addresses: Iterable[str], seen: Found) -> Lacking:
    """What of it the tunnel of an interface lacks. ``addresses``: its own, of the families that this host has."""
    link = live["links"].get(swanctl.USERSPACE_DEVICE)
    device = "missing" if link is None else None if link["up"] else "down"
    if not seen.settings.routes:
        return Lacking(device, [], [])
    families: list[int] = sorted({ipaddress.ip_interface(address).version for address in addresses})
    rules = [family for family in families if family not in seen.rules]
    ike, children = swanctl.session(live["sas"].get(name, []))
    peer = (ike or {}).get("remote-host", "")
    wanted = {_canonical(network) for child in children for network in child.get("remote-ts", [])} - {""}
    routes = [
        network
        for network in sorted(wanted - set(seen.routes))
        if ipaddress.ip_network(network).version in families and not _holds(network, peer)
    ]
    return Lacking(device, rules, routes)


def _holds(network: str, address: str) -> bool:
    """Whether the session itself goes there: charon makes no such route, which would lead its packets into itself."""
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(network)
    except ValueError:
        return False


def add_rule(settings: Settings, family: int) -> tuple[str, ...]:
    """The command that puts the rule back."""
    return ("ip", FAMILIES[family], "rule", "add", "priority", str(settings.priority), "table", str(settings.table))


def add_route(settings: Settings, network: str, addresses: Iterable[str]) -> tuple[str, ...]:
    """The command that puts a route back as charon makes it, so that charon takes it away with the session."""
    version = ipaddress.ip_network(network).version
    own = next(a.ip for a in map(ipaddress.ip_interface, addresses) if a.version == version)
    place = ("dev", swanctl.USERSPACE_DEVICE, "table", str(settings.table), "proto", "static", "src", str(own))
    # Without it charon would not find an IPv4 route to be its own, and leave it.
    scope = ("scope", "global") if version == 4 else ()
    return ("ip", FAMILIES[version], "route", "replace", network, *place, *scope)
