# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""IPsec on a node: strongSwan's charon and swanctl, one connection and one interface per tunnel.

The kernel's data path has an XFRM interface and takes whatever is routed there. The userspace one (kernel-libipsec, in
charon itself) has narrow selectors and routes of its own, and a device that nobody reads behind them.
"""

from __future__ import annotations

import contextlib
import glob
import ipaddress
import os
import platform
import re

from ..._errors import Error, FieldError, printable
from ..._model import render
from ..._node import files as node_files
from ..._node import netdev
from ..._node import units as node_units
from .. import x25519
from ..base import RULES, Protocol, ipv6_is_off
from . import ed25519, swanctl
from . import plan as planning
from .packages import PACKAGES
from .plan import CHARON

LINK = "link.ip"
UNITS = "/etc/systemd/system"
SCRIPT = "/usr/local/sbin/marzban-ipsec-call"
PLUGINS = ("/usr/lib/ipsec/plugins", "/usr/lib64/strongswan/plugins")
MODULES = ("esp4", "xfrm_user", "xfrm_interface")  # of a kernel that can carry the packets
ML_KEM = (6, 0, 2)  # the first version that finds it in OpenSSL
# Ends a tunnel's associations and calls anew, all tunnels at once. The target gives the source a moment to be first.
RENEW = """
for one in "$@"; do
    name=${one#*:}
    (
        swanctl --terminate --ike "$name" --timeout 2
        case $one in
            source:*) swanctl --initiate --child "$name" --timeout 1 ;;
            target:*) sleep 0.2; swanctl --initiate --child "$name" --timeout 1 ;;
        esac
    ) >/dev/null 2>&1 &
done
wait
"""


def unit(interface):
    """The unit of an interface."""
    return "marzban-ipsec-%s.service" % interface


def etc(*names):
    """A path below the place of strongSwan's configuration, which is another one on the RedHat family."""
    top = "/etc/strongswan" if os.path.isdir("/etc/strongswan/swanctl") else "/etc"
    return os.path.join(top, *names)


def conf_path(interface):
    """Where swanctl finds the connection."""
    return etc("swanctl", "conf.d", "marzban-%s.conf" % interface)


def key_copy(interface):
    """Where swanctl finds the private key: it may read nothing elsewhere (AppArmor)."""
    return etc("swanctl", "private", "marzban-%s.pem" % interface)


def kernel_lacks(root="/"):
    """The modules that this kernel would need to carry ESP through XFRM interfaces, found out without making one."""
    known = set()
    modules = os.path.join(root, "lib/modules", platform.release())
    for name in ("modules.dep", "modules.builtin"):
        with contextlib.suppress(OSError), open(
            os.path.join(modules, name), encoding="utf-8", errors="replace"
        ) as stream:
            known |= {os.path.basename(line.partition(":")[0].strip()).partition(".ko")[0] for line in stream}
    return [one for one in MODULES if one not in known and not os.path.isdir(os.path.join(root, "sys/module", one))]


def has_plugin(name):
    """Whether a plugin of strongSwan is installed."""
    return any(os.path.exists(os.path.join(folder, "libstrongswan-%s.so" % name)) for folder in PLUGINS)


class IPsec(Protocol):
    """The protocol ``ipsec``."""

    name = "ipsec"
    role = "strongswan"
    program = "ip"
    packages = PACKAGES
    # ESP's header, IV, padding and check, around it UDP and IP.
    outside = {4: 66, 6: 86}

    def __init__(self, host, folders, data_path="auto"):
        super().__init__(host, folders)
        self._wanted_path = data_path
        self._taken = {}  # {network: name of the tunnel} in this run, on the userspace data path
        self._asked = {}
        self._planned = False  # that a tunnel runs here after this run

    # What is there

    def missing(self):
        """The capabilities that a tunnel needs and this host lacks."""
        lacks = self.lacks([("strongswan", "charon-systemd"), ("swanctl", "swanctl")])
        if not has_plugin("openssl"):
            lacks.append("strongswan-openssl")
        userspace = self._wanted_path == swanctl.USERSPACE or (self._wanted_path == "auto" and kernel_lacks())
        if userspace and not has_plugin("kernel-libipsec"):
            lacks.append("kernel-libipsec")
        return lacks

    def check(self, view):
        """Refuses a view that this protocol can't run. Raises FieldError."""
        if view["transport"] != "udp":
            raise FieldError("transport", view["transport"], "IPsec speaks udp only: change it, or the tunnel's type.")
        lacks = kernel_lacks() if self._wanted_path == swanctl.KERNEL else []
        if lacks:
            hint = "This host's kernel has no %s: choose auto or userspace, or another kernel."
            raise FieldError("ipsec_data_path", swanctl.KERNEL, hint % ", ".join(lacks))
        if view["post_quantum"] == "require" and self.host.has("swanctl") and not self._has_ml_kem():
            hint = "strongSwan %s on this host has no ML-KEM (6.0.2 with OpenSSL 3.5 does): upgrade it, or choose auto."
            raise FieldError("post_quantum", "require", hint % ".".join(map(str, self._version())))

    def load_key(self, uuid):
        """``(there, public half?)``; the half is None too where ``cryptography`` is missing. Raises BrokenKey."""
        if not os.path.lexists(self.key_path(uuid)):
            return False, None
        if not x25519.HAS_CRYPTOGRAPHY:
            return True, None
        return True, {"public_key": ed25519.load(self.folders.path(uuid))}

    def make_key(self, uuid):
        """Makes a private half and answers the public one."""
        return {"public_key": ed25519.make(self.folders.path(uuid))}

    def units(self, interface):
        """The unit that makes the interface."""
        return [unit(interface)]

    def files(self, interface, uuid):
        """What belongs to a tunnel beside its folder, and what in it goes when it stops."""
        ours = [conf_path(interface), key_copy(interface), os.path.join(UNITS, unit(interface))]
        return [*ours, self.folders.path(uuid, LINK), *super().files(interface, uuid)]

    def look(self, interfaces):
        """The live state, each thing asked for once."""
        return dict(super().look(interfaces), conns=swanctl.by_name(self._ask("--list-conns") or []))

    def look_briefly(self, interfaces):
        """What changes by itself: units, associations, and which plugins charon runs with (None: it doesn't run)."""
        live = super().look_briefly(interfaces)
        live["units"].update(node_units.look_units(self.host, [swanctl.WATCH_UNIT]))
        stats = self._ask("--stats")
        plugins = stats[-1].get("plugins", []) if stats else None
        return dict(live, plugins=plugins, sas=swanctl.by_name(self._ask("--list-sas") or []))

    def stands(self, live, interface):
        """What on this host already bears the name of an interface, as a text, or None."""
        connection = "swanctl's connection %s" % interface if interface in live["conns"] else None
        return super().stands(live, interface) or connection

    def _ask(self, what):
        """What swanctl says, as dicts, or None where charon doesn't answer."""
        said = self.host.query("swanctl", what, "--raw") if self.host.has("swanctl") else None
        return None if said is None else swanctl.parse_raw(said)

    def _version(self):
        """strongSwan's, as numbers; () where it isn't installed."""
        if "version" not in self._asked:
            said = re.search(r"(\d+)\.(\d+)\.(\d+)", self.host.query("swanctl", "--version") or "")
            self._asked["version"] = tuple(int(one) for one in said.groups()) if said else ()
        return self._asked["version"]

    def _has_ml_kem(self):
        if "ml-kem" not in self._asked:
            said = self._ask("--list-algs")
            known = "ML_KEM_768" in said[-1].get("ke", {}) if said else self._version() >= ML_KEM
            self._asked["ml-kem"] = known
        return self._asked["ml-kem"]

    def _data_path(self, live):
        if self._wanted_path != "auto":
            return self._wanted_path
        # Where the host's owner has charon carry the packets itself, it stays so.
        ours = node_files.read(etc("strongswan.d", "marzban.conf")) == swanctl.settings(swanctl.USERSPACE)
        owners = "kernel-libipsec" in (live["plugins"] or []) and not ours
        return swanctl.USERSPACE if owners or kernel_lacks() else swanctl.KERNEL

    # What is to be done

    def plan(self, view, template, public, peer_public, state, live, routes, resolved):
        """What has to happen so that this host matches an active ``view``. Reads, and changes nothing. Raises Error.

        ``template`` is the rendered text with its tokens, ``public`` this end's half (None: check mode, no key yet),
        ``state`` the tunnel's state (or None), ``live`` what ``look`` said, ``routes`` those of the main table.
        """
        if ipv6_is_off():
            view = netdev.without_ipv6(view)
        uuid, interface = view["uuid"], view["interface"]
        stood = bool(state) and state["interface"] == interface
        if not stood:
            # What bears the name now is another tunnel of ours, which leaves before this one comes.
            live = netdev.leave_out(live, interface, self.units(interface))
        path = self._data_path(live)
        here, yonder = swanctl.selectors(view, path)
        if path == swanctl.USERSPACE:
            planning.check_selectors(view, self._taken, yonder, live["links"])
            self._taken.update((one, view["name"] or "#%d" % view["id"]) for one in yonder)
        folder = self.folders.path(uuid)
        mtu = self._mtu_inside(view, path, live, resolved)
        ike, esp = swanctl.proposals(view["post_quantum"], self._has_ml_kem())
        values = {
            "dir": folder,
            "mtu": mtu,
            "proposals": ike,
            "esp_proposals": esp,
            "local_ts": ", ".join(here),
            "remote_ts": ", ".join(yonder),
            "public_key": public["public_key"] if public else "?",
            "peer_public_key": peer_public["public_key"],
            "if_id": swanctl.if_id(uuid) if path == swanctl.KERNEL else 0,
        }
        conf = render.fill(template, values)
        plan = planning.Plan(view, unit(interface), path, conf)
        wanted = {
            self.folders.path(uuid, RULES): netdev.rules(
                view, mtu, swanctl.USERSPACE_DEVICE if path == swanctl.USERSPACE else None
            ),
            self.folders.path(uuid, LINK): swanctl.make_link(interface, path, swanctl.if_id(uuid))
            + netdev.batch(view, mtu),
            os.path.join(UNITS, unit(interface)): swanctl.unit(interface, folder, netdev.table(uuid)),
            conf_path(interface): conf,
            etc("strongswan.d", "marzban.conf"): swanctl.settings(path),
            SCRIPT: swanctl.script(etc("swanctl", "conf.d")),
            os.path.join(UNITS, swanctl.WATCH_UNIT): swanctl.watch(SCRIPT),
        }
        ours = self.files(interface, uuid)
        for place, after in wanted.items():
            plan.write(place, node_files.read(place) if stood or place not in ours else None, after)
        key, copy = node_files.read(self.key_path(uuid)) if public else None, key_copy(interface)
        there = key is not None and node_files.read(copy) == key
        before = planning.Before(
            key_there=there,
            key_open=there and node_files.open_to_others(copy),
            right_kind=os.path.exists("/sys/class/net/%s/tun_flags" % interface) == (path == swanctl.USERSPACE),
            applied=(state or {}).get("applied") or {},
        )
        planning.compare(plan, before, live, routes, mtu)
        if plan.give:
            netdev.check_endpoint(view, resolved)
        self._planned = True
        return plan

    def _mtu_inside(self, view, path, live, resolved):
        last = re.search(r" mtu (\d+)", node_files.read(self.folders.path(view["uuid"], LINK)) or "")
        mtu = self.mtu(view, live, resolved, int(last.group(1)) if last else None)
        return min(mtu, swanctl.USERSPACE_MTU) if path == swanctl.USERSPACE else mtu

    # Doing it

    def do(self, plans):
        """Carries the plans out: interfaces first, then what charon has to know of them. Failed: ``{uuid: Error}``."""
        failed = super().do(plans)
        plans = [plan for plan in plans if plan.view["uuid"] not in failed]
        if any(plan.watch for plan in plans):
            self.host.try_run("systemctl", "restart", swanctl.WATCH_UNIT)
        plans = [plan for plan in self._each(self._copy_key, plans, failed) if plan.give]
        if plans:
            failed.update(self._give(plans))
        return failed

    def ready(self, plans):
        """Lets systemd and charon read the files that they have. Failed: ``{uuid: Error}``."""
        try:
            if any(plan.units for plan in plans):
                self.host.run("systemctl", "daemon-reload")
            actions = {plan.charon for plan in plans if plan.charon}
            if actions:
                self.host.run("systemctl", min(actions), CHARON, timeout=60)
            elif any(plan.settings for plan in plans):
                self.host.run("sh", "-c", "swanctl --reload-settings 2>&1")
        except Error as error:
            return {plan.view["uuid"]: Error("strongSwan does not run: %s" % error) for plan in plans}
        return {}

    def _copy_key(self, plan):
        if plan.key:
            node_files.write(key_copy(plan.interface), node_files.read(self.key_path(plan.view["uuid"])) or "")

    def _give(self, plans):
        """Gives charon what is new. Connections and keys that are as they were stay as they are, and so do others'."""
        try:
            said = self._load()
        except Error as error:
            return {plan.view["uuid"]: error for plan in plans}
        conns = swanctl.by_name(self._ask("--list-conns") or [])
        failed = {}
        for plan in plans:
            wrong = [line for line in said.splitlines() if "failed" in line and _about(line, plan.interface)]
            if wrong or plan.interface not in conns:
                why = printable(" / ".join(wrong or said.splitlines()[-3:]))
                failed[plan.view["uuid"]] = Error("strongSwan did not take the connection: %s" % why)
        renew = [plan for plan in plans if plan.renew and plan.view["uuid"] not in failed]
        words = [
            "%s:%s" % (plan.view["local"]["role"] if plan.view["dial"] else "wait", plan.interface) for plan in renew
        ]
        if words:
            self.host.try_run("sh", "-c", RENEW, "sh", *words)
        return failed

    def _load(self):
        """Lets charon have what stands in the files; what swanctl says about it. Raises Error on a file that is none.

        Such a file would count as if nothing stood in any, and take away all connections. So the one kind of thing
        that tunnels and most others don't have is loaded first.
        """
        said = self.host.run("sh", "-c", "swanctl --load-authorities 2>&1 || true")
        if "invalid config file" in said:
            wrong = [line for line in said.splitlines() if "error" in line or "invalid" in line]
            hint = "swanctl can't read its configuration, so nothing was loaded: %s. Mend the file below %s."
            raise Error(hint % (printable(" / ".join(wrong)), etc("swanctl")))
        # It ends with an error for whatever of the owner's can't be loaded, too.
        return self.host.run("sh", "-c", "swanctl --load-all --noprompt 2>&1 || true")

    def applied(self, view, live):
        """What goes into the state about what was applied, with the connection that charon was given."""
        return dict(
            super().applied(view, live), conf=swanctl.digest(node_files.read(conf_path(view["interface"])) or "")
        )

    def released(self, places):
        """Takes the connections away from charon too, and with the last one whatever else is ours."""
        last = not self._planned and not glob.glob(etc("swanctl", "conf.d", swanctl.CONNECTIONS))
        if last:
            for path in (SCRIPT, os.path.join(UNITS, swanctl.WATCH_UNIT), etc("strongswan.d", "marzban.conf")):
                with contextlib.suppress(Error):
                    node_files.remove(path)
        self.host.try_run("systemctl", "daemon-reload")
        stats = self._ask("--stats")
        if not stats:
            return
        with contextlib.suppress(Error):
            self._load()
        for name in places:
            self.host.try_run("swanctl", "--terminate", "--ike", name, "--timeout", "2")
        if last and "kernel-libipsec" in stats[-1].get("plugins", []) and not (self._ask("--list-conns") or [])[:-1]:
            self.host.try_run("systemctl", "restart", CHARON, timeout=60)  # or its device would stay
        elif last:
            self.host.try_run("swanctl", "--reload-settings")

    # Measuring

    def ports(self, view, side):
        """Where a side of a view listens."""
        return "UDP %d" % side["port"]

    def ping_from(self, view):
        """The local address: on the userspace data path the interface itself leads nowhere."""
        version = 4 if ipv6_is_off() else ipaddress.ip_interface(view["peer"]["addresses"][0]).version
        found = [one for one in map(ipaddress.ip_interface, view["local"]["addresses"]) if one.version == version]
        return str(found[0].ip) if found else view["interface"]

    def measured(self, view, live, ping):
        """MEASURED of one end. ``ping`` is what the probe said."""
        path = swanctl.USERSPACE if "kernel-libipsec" in (live["plugins"] or []) else swanctl.KERNEL
        return dict(ping, **swanctl.measured(live["sas"].get(view["interface"], []), path))

    def up(self, view, live):
        """Whether the interface and charon are there, and for how many seconds the interface is (or None)."""
        there = live["plugins"] is not None and os.path.exists("/sys/class/net/%s" % view["interface"])
        return self.runs(view, live, there)


def _about(line, interface):
    """Whether swanctl speaks of a tunnel of ours."""
    return "'%s'" % interface in line or "marzban-%s." % interface in line
