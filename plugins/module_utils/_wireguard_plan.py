# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What has to happen to one WireGuard tunnel: what is wanted, compared with what is there. Pure."""

from __future__ import annotations

import ipaddress

from ansible_collections.marzban.tunnels.plugins.module_utils import _wireguard_text as text
from ansible_collections.marzban.tunnels.plugins.module_utils._errors import Error, FieldError


class Before:
    """What the last run left: the texts on the disk (None: no such file), and ``applied`` of the state."""

    def __init__(self, rules=None, conf=None, applied=None):
        self.rules, self.conf, self.applied = rules, conf, applied or {}
        try:
            self.parsed = text.parse_conf(conf) if conf else None
        except Error:  # somebody broke it: then it says nothing
            self.parsed = None


class Plan:
    """What has to happen. ``changes`` says it to a person, the rest to ``WireGuard.do``."""

    def __init__(self, view, conf):
        self.view, self.conf, self.interface = view, conf, view["interface"]
        self.files = []  # (path, before or None, after)
        self.enable = False  # the unit
        self.start = False  # the unit, and all that follows is done by that
        self.unlink = False  # an interface in the way of the start
        self.load = False  # the rules
        self.sync = False  # what `wg syncconf` sets
        self.first = []  # commands that give up what another tunnel may get in this run
        self.hot = []  # commands
        self.changes = []

    def write(self, path, before, after):
        """A file that has to hold ``after``."""
        if before != after:
            self.files.append((path, before, after))

    def command(self, change, *argv):
        """A command, and what it changes."""
        self.changes.append(change)
        self.hot.append(argv)


def compare(plan, before, public, live, routes, resolved):
    """Fills ``plan``, whose files are known. ``public`` is this end's key (None: not made yet). Raises Error.

    ``live`` is what ``WireGuard.look`` said, ``routes`` those of the main table, ``resolved`` ``{host: [addresses]}``.
    """
    name, conf = plan.interface, plan.conf
    for path, old, _new in plan.files:
        if path.endswith(".conf"):
            plan.changes.append("conf written" if old is None else "conf changed")
    service = live["units"].get(name, {})
    if not service.get("enabled"):
        plan.enable = True
        plan.changes.append("enabled")
    link, wg = live["links"].get(name), live["wg"].get(name)
    if link is None or wg is None or service.get("active") != "active":
        plan.start, plan.unlink = True, link is not None
        plan.changes.append("started")
    else:
        _compare_rules(plan, before, live)
        shaken = _compare_link(plan, link, before)
        there = [network for network, device, _kernel in routes if device == name]
        _compare_routes(plan, before, there, shaken)
        wrong = text.differences(conf, wg, public, before.parsed, resolved, live["now"])
        plan.sync = bool(wrong)
        plan.changes += wrong
    if conf["port"] in live["ports"] and (plan.start or wg["port"] != conf["port"]):
        mend = "Another program on this host listens there (see ss -ulnp): stop it, or choose another port."
        raise FieldError("local.port", conf["port"], mend)
    if plan.start or plan.sync:
        for peer in conf["peers"].values():
            if peer["endpoint"] and not resolved.get(peer["endpoint"][0], True):
                mend = "This host can't resolve the name: correct it, or the host's DNS."
                raise FieldError("peer.endpoint", peer["endpoint"][0], mend)


def _compare_rules(plan, before, live):
    listed = live["tables"].get(text.table(plan.view["uuid"]))
    written = any(path.endswith(".nft") for path, _old, _new in plan.files)
    if written or listed is None or listed != before.applied.get("rules"):
        plan.load = True
        plan.changes.append("firewall rules loaded")


def _compare_link(plan, link, before):
    """The interface itself: what we put there, or put there once. What somebody else added is left alone.

    Answers whether the routes have to be put back afterwards.
    """
    name, conf = plan.interface, plan.conf
    if not link["up"]:
        plan.command("link up", "ip", "link", "set", "dev", name, "up")
    if conf["mtu"] and link["mtu"] != conf["mtu"]:
        change = "MTU %d instead of %s" % (conf["mtu"], link["mtu"])
        plan.command(change, "ip", "link", "set", "dev", name, "mtu", str(conf["mtu"]))
    # First those that come: with its last address an interface loses its routes.
    for address in conf["addresses"]:
        if address not in link["addresses"]:
            plan.command("address %s added" % address, "ip", "addr", "add", address, "dev", name)
    shaken = False
    ours = set(before.applied.get("addresses") or []) | set(before.parsed["addresses"] if before.parsed else [])
    for address in link["addresses"]:
        if address in ours and address not in conf["addresses"]:
            plan.command("address %s removed" % address, "ip", "addr", "del", address, "dev", name)
            # Where another one is of the same network, the kernel may take it along, and all routes with it.
            network = ipaddress.ip_interface(address).network
            for other in conf["addresses"]:
                if ipaddress.ip_interface(other).network == network:
                    plan.hot.append(("ip", "addr", "replace", other, "dev", name))
                    shaken = True
    return shaken


def _compare_routes(plan, before, there, again):
    name, wanted = plan.interface, plan.view["routes"]
    for route in wanted:
        if route not in there:
            plan.command("route %s added" % route, "ip", "route", "add", route, "dev", name)
        elif again:
            plan.hot.append(("ip", "route", "replace", route, "dev", name))
    for route in before.applied.get("routes") or []:
        if route in there and route not in wanted:
            plan.changes.append("route %s removed" % route)
            plan.first.append(("ip", "route", "del", route, "dev", name))
