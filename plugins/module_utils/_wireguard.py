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
from ansible_collections.marzban.tunnels.plugins.module_utils import _wireguard_text as text
from ansible_collections.marzban.tunnels.plugins.module_utils._errors import Error, FieldError

CONF_DIR = "/etc/wireguard"
RULES = "rules.nft"
PORT_TAKEN = "UDP %d is taken by another program on this host (see ss -ulnp): stop it, or choose another port for the tunnel."
START_TIMEOUT = 60  # seconds, and some more for each tunnel
_UNIT_NAME = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.-]*\Z")
OUTSIDE = {4: 60, 6: 80}  # bytes that WireGuard and the outer packet take


def unit(interface):
    """The stock unit of an interface."""
    return "wg-quick@%s.service" % interface


def conf_path(interface):
    """Where wg-quick looks for the conf of an interface."""
    return os.path.join(CONF_DIR, interface + ".conf")


def kernel_has_wireguard():
    """Whether this kernel has WireGuard, found out without making an interface."""
    if os.path.isdir("/sys/module/wireguard"):
        return True
    modules = os.path.join("/lib/modules", platform.release())
    for name in ("modules.dep", "modules.builtin"):
        try:
            with open(os.path.join(modules, name), encoding="utf-8", errors="replace") as stream:
                if any("/wireguard.ko" in line.partition(":")[0] for line in stream):
                    return True
        except OSError:
            continue
    return False


class Plan:
    """What has to happen to one tunnel. ``hot`` are commands, in order; the flags say what else."""

    def __init__(self, view):
        self.view = view
        self.interface = view["interface"]
        self.files = []  # (path, before or None, after)
        self.enable = self.start = self.unlink = self.sync = self.load = False
        self.hot = []
        self.conf = None
        self.changes = []


class WireGuard:
    """The protocol ``wireguard``."""

    name = "wireguard"

    def __init__(self, host, folders):
        self.host = host
        self.folders = folders

    # What is there

    def missing(self):
        """The capabilities that a tunnel needs and this host lacks."""
        has = self.host.has
        lacks = [] if _keys.HAS_CRYPTOGRAPHY else ["cryptography"]
        if not (has("wg") and has("wg-quick")):
            lacks.append("wireguard-tools")
        if not has("wireguard-go") and not kernel_has_wireguard():
            lacks.append("wireguard-go")
        return lacks + [name for name, program in (("nftables", "nft"), ("ping", "ping"), ("iproute2", "ip")) if not has(program)]

    def check(self, view):
        """Refuses a view that this protocol can't run. Raises FieldError."""
        if not _UNIT_NAME.match(view["interface"]):
            mend = "systemd can't run wg-quick@ for a name with = or +: choose one such as mz%d." % view["id"]
            raise FieldError("interface", view["interface"], mend)
        if view["transport"] != "udp":
            raise FieldError("transport", view["transport"], "WireGuard speaks udp only: change it, or the tunnel's type.")
        if view["post_quantum"] == "require":
            mend = "WireGuard has no post-quantum key exchange in this version: use auto or off."
            raise FieldError("post_quantum", view["post_quantum"], mend)

    def load_key(self, uuid):
        """``(there, public half or None)``; the half is None too where ``cryptography`` is missing. Raises BrokenKey."""
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
        units = _host.look_units(self.host, sorted(names))
        return {
            "wg": text.parse_dump(self.host.look("wg", "show", "all", "dump") or ""),
            "units": {names[one]: found for one, found in units.items() if one in names},
            "now": time.time(),
        }

    def _look_tables(self):
        """``{table: digest of what nft lists}`` of our tables. nft's own form differs between releases, so it is not parsed."""
        tables = []
        listed = self.host.look("nft", "list", "tables") or ""
        for line in listed.splitlines():
            words = line.split()
            if words[:2] == ["table", "inet"] and re.match(r"marzban-[0-9a-f-]{36}\Z", words[-1]):
                tables.append(words[-1])
        if not tables:
            return {}
        script = "".join("list table inet %s\n" % name for name in tables)
        listing = self.host.look("nft", "-s", "-f", "-", stdin=script) or ""
        found = {}
        for part in re.split(r"^(?=table inet )", listing, flags=re.MULTILINE):
            if part.startswith("table inet "):
                found[part.split()[2]] = hashlib.sha256(part.strip().encode("utf-8")).hexdigest()
        return found

    def stands(self, live, interface):
        """What on this host already bears the name of an interface, as a text, or None."""
        if interface in live["links"]:
            return "the interface %s" % interface
        if os.path.lexists(conf_path(interface)):
            return conf_path(interface)
        return None

    # What is wanted

    def values(self, view, peer_public, live, resolved, conf_before):
        """What the template's tokens stand for."""
        return {
            "dir": self.folders.path(view["uuid"]),
            "mtu": self._mtu(view, live, resolved, conf_before),
            "peer_public_key": peer_public["public_key"],
        }

    def _mtu(self, view, live, resolved, conf_before):
        if view["mtu"] is not None:
            return view["mtu"]
        found = []
        for address in resolved.get(view["peer"]["endpoint"]) or []:
            size = _host.path_mtu(self.host, address, live["links"])
            if size:
                found.append(min(size, 9200) - OUTSIDE[6 if ":" in address else 4])
        if found:
            return max(1280, min(found))
        return (conf_before and conf_before["mtu"]) or 1420  # no route now: leave it, or be careful

    def plan(self, view, template, public, peer_public, state, live, routes, resolved):
        """What has to happen so that this host matches an active ``view``. Changes nothing. Raises Error.

        ``template`` is the rendered text with its tokens, ``public`` this end's half (None in check mode without a key),
        ``state`` the tunnel's state (or None), ``live`` what ``look`` said, ``routes`` those of the main table.
        """
        plan = Plan(view)
        name, applied = view["interface"], (state or {}).get("applied") or {}
        same_place = bool(state) and state["interface"] == name
        conf_before = _files.read(conf_path(name)) if same_place else None
        before = _parsed(conf_before)
        values = self.values(view, peer_public, live, resolved, before)
        wanted_text = _render.fill(template, values)
        plan.conf = conf = text.parse_conf(wanted_text)
        rules = text.rules(view, conf["mtu"] or values["mtu"])
        rules_path = self.folders.path(view["uuid"], RULES)
        rules_before = _files.read(rules_path)
        plan.files = [
            (path, old, new)
            for path, old, new in ((rules_path, rules_before, rules), (conf_path(name), conf_before, wanted_text))
            if old != new
        ]
        if conf_before != wanted_text:
            plan.changes.append("conf written" if conf_before is None else "conf changed")

        link, wg = live["links"].get(name), live["wg"].get(name)
        service = live["units"].get(name, {})
        plan.enable = not service.get("enabled")
        if plan.enable:
            plan.changes.append("enabled")
        if wg is None or link is None or service.get("active") != "active":
            plan.start, plan.unlink = True, link is not None
            plan.changes.append("started")
            if conf["port"] in live["ports"]:
                raise Error(PORT_TAKEN % conf["port"])
        else:
            self._plan_hot(plan, link, wg, public, before, applied, routes, resolved, live)
            stands = live["tables"].get(text.table(view["uuid"]))
            if rules_before != rules or stands is None or stands != applied.get("rules"):
                plan.load = True
                plan.changes.append("firewall rules loaded")
        dials = [peer["endpoint"][0] for peer in conf["peers"].values() if peer["endpoint"]]
        if plan.start or plan.sync:
            for host in dials:
                if not resolved.get(host, True):
                    raise FieldError("peer.endpoint", host, "This host can't resolve the name: correct it, or the host's DNS.")
        return plan

    def _plan_hot(self, plan, link, wg, public, before, applied, routes, resolved, live):
        """What differs on an interface that runs."""
        name, conf, view = plan.interface, plan.conf, plan.view

        def hot(change, *argv):
            plan.changes.append(change)
            plan.hot.append(("ip",) + argv)

        if not link["up"]:
            hot("link up", "link", "set", "dev", name, "up")
        if conf["mtu"] and link["mtu"] != conf["mtu"]:
            hot("MTU %d instead of %s" % (conf["mtu"], link["mtu"]), "link", "set", "dev", name, "mtu", str(conf["mtu"]))
        for address in conf["addresses"]:
            if address not in link["addresses"]:
                hot("address %s added" % address, "addr", "add", address, "dev", name)
        ours = list(applied.get("addresses") or []) + (before["addresses"] if before else [])
        for address in link["addresses"]:
            if address in ours and address not in conf["addresses"]:
                hot("address %s removed" % address, "addr", "del", address, "dev", name)
        there = [network for network, device, _kernel in routes if device == name]
        for route in view["routes"]:
            if route not in there:
                hot("route %s added" % route, "route", "add", route, "dev", name)
        for route in applied.get("routes") or []:
            if route in there and route not in view["routes"]:
                hot("route %s removed" % route, "route", "del", route, "dev", name)
        if public is not None:
            public = public["public_key"]
        wrong = text.differences(conf, wg, public, before, resolved, live["now"])
        if wrong:
            plan.sync = True
            plan.changes += wrong
            if conf["port"] != wg["port"] and conf["port"] in live["ports"]:
                raise Error(PORT_TAKEN % conf["port"])

    # Doing it

    def do(self, plans):
        """Carries the plans out: what runs is changed hot, what doesn't is started together. ``{uuid: Error}`` of what failed."""
        failed = {}
        for plan in plans:
            try:
                self._do_files(plan)
                self._do_hot(plan)
            except Error as error:
                failed[plan.view["uuid"]] = error
        plans = [plan for plan in plans if plan.view["uuid"] not in failed]
        failed.update(self._start(plans))
        return failed

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
        trouble = None
        try:
            enable = [unit(plan.interface) for plan in plans if plan.enable]
            if enable:
                self.host.run("systemctl", "enable", "--quiet", *enable)
            if starts:
                names = [unit(plan.interface) for plan in starts]
                self.host.attempt("systemctl", "reset-failed", *names)
                self.host.run("systemctl", "restart", *names, timeout=START_TIMEOUT + 2 * len(names))
        except Error as error:
            trouble = error  # of one of them, and the units say of which
        if trouble is None:
            return {}
        units = _host.look_units(self.host, [unit(plan.interface) for plan in plans])
        failed = {}
        for plan in plans:
            name = unit(plan.interface)
            found = units.get(name, {})
            if plan.start and found.get("active") != "active":
                failed[plan.view["uuid"]] = Error("%s did not start: %s" % (name, _host.last_words(self.host, name)))
            elif plan.enable and not found.get("enabled"):
                failed[plan.view["uuid"]] = Error("%s could not be enabled: %s" % (name, trouble))
        return failed

    def applied(self, view, live):
        """What goes into the state about what was applied, to tell later what is ours on the interface."""
        return {
            "addresses": list(view["local"]["addresses"]),
            "routes": list(view["routes"]),
            "rules": live["tables"].get(text.table(view["uuid"])),
        }

    def release(self, places):
        """Takes interfaces of ours down and removes what belongs to them: ``{interface: uuid}``. ``{interface: Error}``."""
        failed = {}
        if not places:
            return failed
        units = [unit(name) for name in sorted(places)]
        try:
            self.host.run("systemctl", "disable", "--quiet", "--now", *units, timeout=START_TIMEOUT + 2 * len(units))
        except Error:
            pass  # what didn't come down is looked at below
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


def _parsed(conf_text):
    """The conf written last, or None when somebody broke it: then it says nothing."""
    try:
        return text.parse_conf(conf_text) if conf_text else None
    except Error:
        return None
