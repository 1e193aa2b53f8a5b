# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the protocols share on a host: files, units, interfaces, tables of nftables; the words are those of netdev.

A protocol is a subclass in a file of its own, listed in ``registry.PROTOCOLS``, made with ``(host, folders)``. ``uuid``
names a tunnel's folder, a *public half* is a dict of docs/contract.md, ``?`` may be None. It gives:

- ``name``, ``session_limit`` (seconds after which a session without a new handshake is dead, or None)
- ``missing()`` → capabilities that this host lacks, ``packages`` (``_node.packages.Packages``) what brings them;
  ``check(view)`` raises FieldError for what it can't run
- ``load_key(uuid)`` → (there, public half?), raises BrokenKey; ``make_key(uuid)`` → public half;
  ``key_path(uuid)`` and ``fingerprint(public half)`` for diffs
- ``units(interface)`` → all units that may run it, ``unit(view)`` the one that does, ``files(interface, uuid)`` what
  ``release`` has to remove beside the folder
- ``look_briefly(interfaces)`` → what ``up`` and ``measured`` want, in one go, ``units`` among it
- ``plan(view, template, public?, peer_public, state?, live, routes, resolved)`` → a ``netdev.Plan`` (or a subclass)
- ``up(view, live)`` → (runs, seconds?); ``measured(view, live, ping)`` → MEASURED

and, where the defaults below don't do: ``exchange``, ``sealed``, ``acknowledge``, ``applied``, ``ports``,
``ping_from``, ``change``, ``ready``, ``released``.
"""

from __future__ import annotations

import glob
import hashlib
import os
import time
from collections import namedtuple

from .._errors import Error
from .._node import files as node_files
from .._node import net, netdev
from .._node import units as node_units
from .._node.packages import Packages
from . import x25519

IPV6_OFF = "/proc/sys/net/ipv6/conf/default/disable_ipv6"  # what a new interface gets
RULES = "rules.nft"
START_TIMEOUT = 60  # seconds, and some more for each tunnel

# What became of key material: the public half now, whether something sealed waits for the peer, texts for ``changes``.
Exchanged = namedtuple("Exchanged", "public hand changes")


def ipv6_is_off():
    """Whether a new interface of this host gets no IPv6."""
    return node_files.read(IPV6_OFF) != "0\n"


class Protocol:
    """The base of the protocols."""

    name = ""
    role = ""  # that installs what it needs, where it has another name
    session_limit: int | None = None
    packages: Packages
    outside = {4: 60, 6: 80}  # bytes that the protocol and the outer packet take
    program = ""  # whose last words in the journal say why a unit did not start

    def __init__(self, host, folders):
        self.host = host
        self.folders = folders
        self.together = set()  # uuids of the tunnels whose other end is applied in the same round
        self._path_mtus = {}  # by address: many tunnels may go to one place

    # Keys: one static X25519 key in the tunnel's folder

    def load_key(self, uuid):
        """``(there, public half?)``; the half is None too where ``cryptography`` is missing. Raises BrokenKey."""
        folder = self.folders.path(uuid)
        if not os.path.lexists(os.path.join(folder, x25519.FILE)):
            return False, None
        if not x25519.HAS_CRYPTOGRAPHY:
            return True, None
        return True, {"public_key": x25519.load(folder)[1]}

    def make_key(self, uuid):
        """Makes a private half and answers the public one."""
        return {"public_key": x25519.make(self.folders.path(uuid))[1]}

    def key_path(self, uuid):
        """Where the private half stands."""
        return self.folders.path(uuid, x25519.FILE)

    def fingerprint(self, public):
        """What a diff shows of a public half."""
        return "public key %s" % x25519.fingerprint(public["public_key"])

    def exchange(self, view, public, peer_public, state, handed):
        """What has to happen to key material now that both public halves are known: an Exchanged. Raises Error.

        ``handed`` is what the peer sealed for this end in this run, or None. In check mode nothing is written.
        """
        return Exchanged(public, False, [])

    def sealed(self, uuid):
        """What ``exchange`` has sealed for the peer, as a text, or None."""
        return

    def acknowledge(self, public, state):
        """``public`` with what it says about what was applied, which ``state`` (or None) remembers."""
        return public

    # Looking

    def units(self, interface):
        """All units that may run an interface; the first one for messages."""
        raise NotImplementedError

    def unit(self, view):
        """The unit that runs a view."""
        return self.units(view["interface"])[0]

    def files(self, interface, uuid):
        """What belongs to a tunnel beside its folder, and what in it goes when it stops."""
        return [self.folders.path(uuid, RULES)]

    def look(self, interfaces):
        """The live state, each thing asked for once. ``interfaces`` are the names that units are looked up for."""
        return dict(self.look_briefly(interfaces), links=net.look_links(self.host), tables=self._look_tables())

    def look_briefly(self, interfaces):
        """What changes by itself; each protocol adds its own to the units."""
        units = [unit for name in interfaces for unit in self.units(name)]
        return {"units": node_units.look_units(self.host, sorted(units)), "now": time.time()}

    def _look_tables(self):
        # All tables of the family: nft 1.0.6 fails on a script that lists two by their names.
        listing = self.host.query("nft", "-s", "list", "ruleset", "inet") or ""
        return netdev.parse_tables(listing, lambda text: hashlib.sha256(text.encode("utf-8")).hexdigest())

    def stands(self, live, interface):
        """What on this host already bears the name of an interface, as a text, or None."""
        if interface in live["links"]:
            return "the interface %s" % interface
        return next((path for path in self.files(interface, _NOBODY) if os.path.lexists(path)), None)

    def lacks(self, wanted):
        """The capabilities of ``wanted`` ``[(capability, program)]`` and of all protocols that are not there."""
        lacks = [] if x25519.HAS_CRYPTOGRAPHY else ["cryptography"]
        common = [("nftables", "nft"), ("ping", "ping"), ("iproute2", "ip")]
        return lacks + [name for name, program in [*wanted, *common] if not self.host.has(program)]

    def mtu(self, view, live, resolved, before=None):
        """The MTU inside: the view's, else that of the way to the peer less what the protocol takes.

        ``before`` is the one of the last run: it stays when there is no way now.
        """
        if view["mtu"] is not None:
            return view["mtu"]
        found = []
        for address in resolved.get(view["peer"]["endpoint"]) or []:
            if address not in self._path_mtus:
                self._path_mtus[address] = net.path_mtu(self.host, address, live["links"])
            size = self._path_mtus[address]
            if size:
                found.append(min(size, netdev.MOST) - self.outside[6 if ":" in address else 4])
        if found:
            return max(netdev.LEAST, min(found))
        return before or netdev.USUAL

    # Doing it

    def do(self, plans):
        """Carries the plans out: what runs is changed hot, the rest started together. Failed: ``{uuid: Error}``."""
        failed = {}
        for step in (self._do_first, self._do_files):
            plans = self._each(step, plans, failed)
        failed.update(self.ready(plans))
        plans = self._each(self._do_hot, [plan for plan in plans if plan.view["uuid"] not in failed], failed)
        failed.update(self._start(plans))
        return failed

    @staticmethod
    def _each(step, plans, failed):
        for plan in plans:
            try:
                step(plan)
            except Error as error:
                failed[plan.view["uuid"]] = error
        return [plan for plan in plans if plan.view["uuid"] not in failed]

    def _do_first(self, plan):
        for argv in plan.first:
            self.host.run(*argv)

    def _do_files(self, plan):
        for path, _before, after in plan.files:
            folder = os.path.dirname(path)
            try:
                os.makedirs(folder, 0o755 if folder.endswith(".service.d") else 0o700, exist_ok=True)
            except OSError as error:
                raise Error("%s can't be made: %s." % (folder, error.strerror)) from None
            node_files.write(path, after)

    def ready(self, plans):
        """What has to happen once, after the files of all ``plans`` are there. Failed: ``{uuid: Error}``."""
        return {}

    def change(self, plan):
        """Changes what runs and is the protocol's own."""

    def _do_hot(self, plan):
        # The rules first: an address is never there without what guards it.
        if plan.load:
            self.host.run("nft", "-f", self.folders.path(plan.view["uuid"], RULES))
        self.change(plan)
        for argv in plan.hot:
            self.host.run(*argv)

    def _start(self, plans):
        """Starts and enables what is to be, all in one go."""
        starts = [plan for plan in plans if plan.start]
        for plan in starts:
            if plan.unlink:
                self.host.try_run("ip", "link", "delete", "dev", plan.interface)
        disabled = self._enable([plan.unit for plan in plans if plan.enable])
        failed = {plan.view["uuid"]: disabled[plan.unit] for plan in plans if plan.unit in disabled}
        if not starts:
            return failed
        names = [plan.unit for plan in starts]
        self.host.try_run("systemctl", "reset-failed", *names)
        try:
            self.host.run("systemctl", "restart", *names, timeout=START_TIMEOUT + 2 * len(names))
        except Error:  # of one of them, and the units say of which
            units = node_units.look_units(self.host, names)
            for plan in starts:
                if units.get(plan.unit, {}).get("active") != "active":
                    said = node_units.last_words(self.host, plan.unit, self.program)
                    failed.setdefault(plan.view["uuid"], Error("%s did not start: %s" % (plan.unit, said)))
        return failed

    def _enable(self, names):
        """``{unit: Error}`` of those that can't be enabled: where one can't, systemd enables none of a list."""
        try:
            if names:
                self.host.run("systemctl", "enable", "--quiet", *names)
        except Error as error:
            if len(names) == 1:
                return {names[0]: Error("%s can't be enabled: %s" % (names[0], error))}
            return {name: why for one in names for name, why in self._enable([one]).items()}
        return {}

    def applied(self, view, live):
        """What goes into the state about what was applied, to tell later what is ours on the interface."""
        return {
            "addresses": list(view["local"]["addresses"]),
            "routes": list(view["routes"]),
            "rules": live["tables"].get(netdev.table(view["uuid"])),
        }

    def release(self, places):
        """Takes ``{interface: uuid}`` down and removes what belongs to them. What failed: ``{interface: Error}``."""
        failed: dict = {}
        if not places:
            return failed
        units = [unit for name in sorted(places) for unit in self.units(name)]
        # What didn't come down is looked at below.
        self.host.try_run("systemctl", "stop", *units, timeout=START_TIMEOUT + 2 * len(units))
        self.host.try_run("systemctl", "disable", "--quiet", *units)
        self.host.try_run("systemctl", "reset-failed", *units)
        live = self.look(list(places))
        for name, uuid in places.items():
            try:
                if name in live["links"]:
                    self.host.run("ip", "link", "delete", "dev", name)
                if netdev.table(uuid) in live["tables"]:
                    self.host.run("nft", "delete", "table", "inet", netdev.table(uuid))
                for unit in self.units(name):
                    for link in glob.glob("/etc/systemd/system/*.wants/" + glob.escape(unit)):
                        node_files.remove(link)  # where the packages, and with them the unit, are gone already
                for path in self.files(name, uuid):
                    node_files.remove(path)
            except Error as error:
                failed[name] = error
        self.released(places)
        return failed

    def released(self, places):
        """What has to happen once, after ``{interface: uuid}`` are down and their files are gone."""

    # Measuring

    def service(self, interface):
        """The name of what runs an interface, for messages."""
        return self.units(interface)[0]

    def ports(self, view, side):
        """Where a side of a view listens, as a text: ``UDP 20012``."""
        return "%s %d" % (view["transport"].upper(), side["port"])

    def ping_from(self, view):
        """What a ping inside the tunnel is bound to: an interface or an address."""
        return view["interface"]

    def runs(self, view, live, there):
        """``(runs, seconds?)`` out of the unit, and whether its interface is ``there``."""
        service = live["units"].get(self.unit(view), {})
        since = service.get("since")
        there = there and service.get("active") == "active"
        return there, None if since is None else time.monotonic() - since


_NOBODY = "00000000-0000-0000-0000-000000000000"  # a tunnel's uuid that nobody has: of files, its own are none
