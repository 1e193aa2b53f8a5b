# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""WireGuard on a node: wg-quick's stock unit, its conf, a table of nftables. The interface of a protocol is in _apply.

``wg show all dump`` prints private keys: its output goes into ``parse_dump`` and nowhere else.
"""

from __future__ import annotations

import glob
import hashlib
import os
import platform
import re
import time

from ansible_collections.marzban.tunnels.plugins.module_utils import _files, _host, _keys, _render
from ansible_collections.marzban.tunnels.plugins.module_utils import _wireguard_plan as _plan
from ansible_collections.marzban.tunnels.plugins.module_utils import _wireguard_text as text
from ansible_collections.marzban.tunnels.plugins.module_utils._errors import Error, FieldError

CONF_DIR = "/etc/wireguard"
IPV6_OFF = "/proc/sys/net/ipv6/conf/default/disable_ipv6"  # what a new interface gets
RULES = "rules.nft"
START_TIMEOUT = 60  # seconds, and some more for each tunnel
_UNIT_NAME = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.-]*\Z")
OUTSIDE = {4: 60, 6: 80}  # bytes that WireGuard and the outer packet take
LEAST, USUAL, MOST = 1280, 1420, 9200  # bytes of an MTU


def unit(interface):
    """The stock unit of an interface."""
    return "wg-quick@%s.service" % interface


def conf_path(interface):
    """Where wg-quick looks for the conf of an interface."""
    return os.path.join(CONF_DIR, interface + ".conf")


def kernel_has_wireguard(root="/"):
    """Whether this kernel has WireGuard, found out without making an interface."""
    if os.path.isdir(os.path.join(root, "sys/module/wireguard")):
        return True
    modules = os.path.join(root, "lib/modules", platform.release())
    for name in ("modules.dep", "modules.builtin"):
        try:
            with open(os.path.join(modules, name), encoding="utf-8", errors="replace") as stream:
                if any("/wireguard.ko" in line.partition(":")[0] for line in stream):
                    return True
        except OSError:
            continue
    return False


class WireGuard:
    """The protocol ``wireguard``."""

    name = "wireguard"

    def __init__(self, host, folders):
        self.host = host
        self.folders = folders
        self._path_mtus = {}  # by address: many tunnels may go to one place

    # What is there

    def missing(self):
        """The capabilities that a tunnel needs and this host lacks."""
        has = self.host.has
        lacks = [] if _keys.HAS_CRYPTOGRAPHY else ["cryptography"]
        if not (has("wg") and has("wg-quick")):
            lacks.append("wireguard-tools")
        if not has("wireguard-go") and not kernel_has_wireguard():
            lacks.append("wireguard-go")
        return lacks + [
            name for name, program in (("nftables", "nft"), ("ping", "ping"), ("iproute2", "ip")) if not has(program)
        ]

    def check(self, view):
        """Refuses a view that this protocol can't run. Raises FieldError."""
        if not _UNIT_NAME.match(view["interface"]):
            mend = "systemd can't run wg-quick@ for a name with = or +: choose one such as mz%d." % view["id"]
            raise FieldError("interface", view["interface"], mend)
        if view["transport"] != "udp":
            raise FieldError(
                "transport", view["transport"], "WireGuard speaks udp only: change it, or the tunnel's type."
            )
        if view["post_quantum"] == "require":
            mend = "WireGuard has no post-quantum key exchange in this version: use auto or off."
            raise FieldError("post_quantum", view["post_quantum"], mend)

    def load_key(self, uuid):
        """``(there, public half?)``; the half is None too where ``cryptography`` is missing. Raises BrokenKey."""
        folder = self.folders.path(uuid)
        if not os.path.lexists(os.path.join(folder, _keys.FILE)):
            return False, None
        if not _keys.HAS_CRYPTOGRAPHY:
            return True, None
        return True, {"public_key": _keys.load(folder)[1]}

    def make_key(self, uuid):
        """Makes a private half and answers the public one."""
        return {"public_key": _keys.make(self.folders.path(uuid))[1]}

    def key_path(self, uuid):
        """Where the private half stands."""
        return self.folders.path(uuid, _keys.FILE)

    def fingerprint(self, public):
        """What a diff shows of a public half."""
        return "public key %s" % _keys.fingerprint(public["public_key"])

    def look(self, interfaces):
        """The live state, each thing asked for once. ``interfaces`` are the names that units are looked up for."""
        live = self.look_briefly(interfaces)
        ours = {live["wg"][name]["port"] for name in interfaces if name in live["wg"]}
        return dict(
            live,
            links=_host.look_links(self.host),
            tables=self._look_tables(),
            ports=_host.udp_ports(self.host) - ours,  # that others listen at
        )

    def look_briefly(self, interfaces):
        """What changes by itself: whether the tunnels run, handshakes and counters."""
        names = {unit(name): name for name in interfaces}
        units = {names[one]: found for one, found in _host.look_units(self.host, sorted(names)).items() if one in names}
        wg = self._look_wg()
        if not all(name in wg for name, found in units.items() if found["active"] == "active"):
            wg = self._look_wg()  # wg may stumble over an interface that somebody takes down at this moment
        return {
            "wg": wg,
            "units": units,
            "now": time.time(),
        }

    def _look_wg(self):
        # The shell, because wg tells of the other interfaces even if it fails on one.
        return text.parse_dump(self.host.look("sh", "-c", "wg show all dump || true") or "")

    def _look_tables(self):
        """``{table: digest of what nft lists}`` of our tables. Its form differs between releases: nothing parses it."""
        # All tables of the family: nft 1.0.6 fails on a script that lists two by their names.
        listing = self.host.look("nft", "-s", "list", "ruleset", "inet") or ""
        found = {}
        for part in re.split(r"^(?=table inet )", listing, flags=re.MULTILINE):
            if re.match(r"table inet marzban-[0-9a-f-]{36} ", part):
                found[part.split()[2]] = hashlib.sha256(part.strip().encode("utf-8")).hexdigest()
        return found

    def stands(self, live, interface):
        """What on this host already bears the name of an interface, as a text, or None."""
        if interface in live["links"]:
            return "the interface %s" % interface
        if os.path.lexists(conf_path(interface)):
            return conf_path(interface)
        return None

    # What is to be done

    def plan(self, view, template, public, peer_public, state, live, routes, resolved):
        """What has to happen so that this host matches an active ``view``. Reads, and changes nothing. Raises Error.

        ``template`` is the rendered text with its tokens, ``public`` this end's half (None: check mode, no key yet),
        ``state`` the tunnel's state (or None), ``live`` what ``look`` said, ``routes`` those of the main table.
        """
        if _files.read(IPV6_OFF) != "0\n":
            view, template = text.without_ipv6(view, template)
        uuid, interface = view["uuid"], view["interface"]
        stood = bool(state) and state["interface"] == interface
        if not stood:
            # What bears the name now is another tunnel of ours, which leaves before this one comes.
            live = {key: _without(found, interface) for key, found in live.items()}
        before = _plan.Before(
            rules=_files.read(self.folders.path(uuid, RULES)),
            conf=_files.read(conf_path(interface)) if stood else None,
            applied=(state or {}).get("applied") or {},
        )
        values = {
            "dir": self.folders.path(uuid),
            "mtu": self._mtu(view, live, resolved, before),
            "peer_public_key": peer_public["public_key"],
        }
        conf_text = _render.fill(template, values)
        conf = text.parse_conf(conf_text)
        rules = text.rules(view, conf["mtu"] or values["mtu"])
        plan = _plan.Plan(view, conf)
        plan.write(self.folders.path(uuid, RULES), before.rules, rules)
        plan.write(conf_path(interface), before.conf, conf_text)
        _plan.compare(plan, before, public and public["public_key"], live, routes, resolved)
        return plan

    def _mtu(self, view, live, resolved, before):
        if view["mtu"] is not None:
            return view["mtu"]
        found = []
        for address in resolved.get(view["peer"]["endpoint"]) or []:
            if address not in self._path_mtus:
                self._path_mtus[address] = _host.path_mtu(self.host, address, live["links"])
            size = self._path_mtus[address]
            if size:
                found.append(min(size, MOST) - OUTSIDE[6 if ":" in address else 4])
        if found:
            return max(LEAST, min(found))
        return (before.parsed and before.parsed["mtu"]) or USUAL  # no route now: leave it, or be careful

    # Doing it

    def do(self, plans):
        """Carries the plans out: what runs is changed hot, the rest started together. Failed: ``{uuid: Error}``."""
        failed = {}
        for step in (self._do_first, self._do_files, self._do_hot):
            for plan in plans:
                try:
                    step(plan)
                except Error as error:
                    failed[plan.view["uuid"]] = error
            plans = [plan for plan in plans if plan.view["uuid"] not in failed]
        failed.update(self._start(plans))
        return failed

    def _do_first(self, plan):
        for argv in plan.first:
            self.host.run(*argv)

    def _do_files(self, plan):
        if not os.path.isdir(CONF_DIR):
            os.mkdir(CONF_DIR, 0o700)
        for path, _before, after in plan.files:
            _files.write(path, after)

    def _do_hot(self, plan):
        # The rules first: an address is never there without what guards it.
        if plan.load:
            self.host.run("nft", "-f", self.folders.path(plan.view["uuid"], RULES))
        if plan.sync:
            private = _keys.load(self.folders.path(plan.view["uuid"]))[0]
            # With the key in it the text stays in memory: it goes through a pipe, and no error shows it.
            stdin = text.sync_text(plan.conf, private)
            self.host.run("wg", "syncconf", plan.interface, "/dev/stdin", stdin=stdin, secret=True)
        for argv in plan.hot:
            self.host.run(*argv)

    def _start(self, plans):
        """Starts and enables what is to be, all in one go."""
        starts = [plan for plan in plans if plan.start]
        for plan in starts:
            if plan.unlink:
                self.host.attempt("ip", "link", "delete", "dev", plan.interface)
        disabled = self._enable([unit(plan.interface) for plan in plans if plan.enable])
        failed = {p.view["uuid"]: disabled[unit(p.interface)] for p in plans if unit(p.interface) in disabled}
        if not starts:
            return failed
        names = [unit(plan.interface) for plan in starts]
        self.host.attempt("systemctl", "reset-failed", *names)
        try:
            self.host.run("systemctl", "restart", *names, timeout=START_TIMEOUT + 2 * len(names))
        except Error:  # of one of them, and the units say of which
            units = _host.look_units(self.host, names)
            for plan in starts:
                name = unit(plan.interface)
                if units.get(name, {}).get("active") != "active":
                    said = _host.last_words(self.host, name, "wg-quick")
                    failed.setdefault(plan.view["uuid"], Error("%s did not start: %s" % (name, said)))
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
            "rules": live["tables"].get(text.table(view["uuid"])),
        }

    def release(self, places):
        """Takes ``{interface: uuid}`` down and removes what belongs to them. What failed: ``{interface: Error}``."""
        failed: dict = {}
        if not places:
            return failed
        units = [unit(name) for name in sorted(places)]
        # What didn't come down is looked at below.
        self.host.attempt("systemctl", "stop", *units, timeout=START_TIMEOUT + 2 * len(units))
        self.host.attempt("systemctl", "disable", "--quiet", *units)
        self.host.attempt("systemctl", "reset-failed", *units)
        live = self.look(list(places))
        for name, uuid in places.items():
            try:
                if name in live["links"]:
                    self.host.run("ip", "link", "delete", "dev", name)
                if text.table(uuid) in live["tables"]:
                    self.host.run("nft", "delete", "table", "inet", text.table(uuid))
                for link in glob.glob("/etc/systemd/system/*.wants/" + glob.escape(unit(name))):
                    _files.remove(link)  # where the packages, and with them the unit, are gone already
                _files.remove(conf_path(name))
                _files.remove(self.folders.path(uuid, RULES))
            except Error as error:
                failed[name] = error
        return failed

    # Measuring

    def measured(self, view, live, ping):
        """MEASURED of one end. ``ping`` is what the probe said."""
        age = rx = tx = None
        wg = live["wg"].get(view["interface"])
        if wg:
            peers = wg["peers"].values()
            ages = [text.handshake_age(peer, live["now"]) for peer in peers]
            age = min((one for one in ages if one is not None), default=None)
            rx, tx = sum(peer["rx"] for peer in peers), sum(peer["tx"] for peer in peers)
        return dict(ping, handshake_age=age, rx_bytes=rx, tx_bytes=tx)

    def service(self, interface):
        """The name of what runs an interface."""
        return unit(interface)

    def up(self, view, live):
        """Whether the tunnel's service and interface are there, and for how many seconds (or None)."""
        service = live["units"].get(view["interface"], {})
        there = view["interface"] in live["wg"] and service.get("active") == "active"
        since = service.get("since")
        return there, None if since is None else time.monotonic() - since


def _without(found, name):
    """A part of the live state without one interface."""
    return {key: value for key, value in found.items() if key != name} if isinstance(found, dict) else found
