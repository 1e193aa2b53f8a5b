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
import re
from typing import TYPE_CHECKING, Any, Collection, Iterable, Sequence

from ..._errors import Error, FieldError
from ..._model import render
from ..._node import files as node_files
from ..._node import netdev, networkd
from ..._node import units as node_units
from ..._node.host import Host
from ..._node.netdev import Live
from ..._node.observation import Observation
from ..._node.state import Folders
from .. import x25519
from ..base import RENEWED, RULES, DidNotStart, Held, Protocol, Situation, ipv6_is_off
from . import charon_routes, ed25519, swanctl
from . import plan as planning
from .charon import Charon, command, conf_path, etc, key_copy
from .installed import has_plugin, kernel_lacks
from .packages import PACKAGES
from .plan import CHARON

if TYPE_CHECKING:
    from ..._model.shapes import Applied, View

LINK = "link.ip"
PROGRAM = "charon-systemd"  # which the stock unit runs
SCRIPT = "/usr/local/sbin/marzban-ipsec-call"


def unit(interface: str) -> str:
    """The unit of an interface."""
    return "marzban-ipsec-%s.service" % interface


class IPsec(Protocol):
    """The protocol ``ipsec``."""

    name = "ipsec"
    forgets_sessions = True
    carries = False  # on the kernel's data path they go on until the peer misses charon
    role = "strongswan"
    program = "ip"
    packages = PACKAGES
    # ESP's header, IV, padding and check, around it UDP and IP.
    outside = {4: 66, 6: 86}

    def __init__(self, host: Host, folders: Folders, data_path: str = "auto") -> None:
        super().__init__(host, folders)
        self._wanted_path = data_path
        self._taken: dict[str, str] = {}  # {network: name of the tunnel} in this run, on the userspace data path
        self.charon = Charon(host)
        self._kernel_lacks: list[str] | None = None
        self._as_copied: set[str] = set()  # uuids of the tunnels whose key is (in check mode, would be) the copy's
        self._planned = False  # that a tunnel runs here after this run
        self._routes_as: charon_routes.Settings | None = None
        self._rules_added: set[int] = set()  # families

    # What is there

    def missing(self) -> list[str]:
        """The capabilities that a tunnel needs and this host lacks."""
        lacks = self.lacks([("strongswan", "charon-systemd"), ("swanctl", "swanctl")])
        if not has_plugin("openssl"):
            lacks.append("strongswan-openssl")
        userspace = self._wanted_path == swanctl.USERSPACE or (
            self._wanted_path == "auto" and self._missing_in_kernel()
        )
        if userspace and not has_plugin("kernel-libipsec"):
            lacks.append("kernel-libipsec")
        return lacks + self.lacks_tun() if userspace else lacks

    def _missing_in_kernel(self) -> list[str]:
        if self._kernel_lacks is None:
            self._kernel_lacks = kernel_lacks()
        return self._kernel_lacks

    def check(self, view: View) -> None:
        """Refuses a view that this protocol can't run. Raises FieldError."""
        if view["transport"] != "udp":
            raise FieldError("transport", view["transport"], "IPsec speaks udp only: change it, or the tunnel's type.")
        lacks = self._missing_in_kernel() if self._wanted_path == swanctl.KERNEL else []
        if lacks:
            hint = "This host's kernel has no %s: choose auto or userspace, or another kernel."
            raise FieldError("ipsec_data_path", swanctl.KERNEL, hint % ", ".join(lacks))
        if view["post_quantum"] == "require" and self.host.has("swanctl") and not self.charon.has_ml_kem():
            hint = "strongSwan %s on this host has no ML-KEM (6.0.2 with OpenSSL 3.5 does): upgrade it, or choose auto."
            raise FieldError("post_quantum", "require", hint % ".".join(map(str, self.charon.version())))

    def read_key(self, uuid: str, name: str) -> str | None:
        """The public key of the private one in a file of the tunnel's folder, if there is one. Raises BrokenKey."""
        return ed25519.load(self.folders.path(uuid), name) if node_files.read(self.folders.path(uuid, name)) else None

    def write_key(self, uuid: str, name: str) -> str:
        """Makes a private key in a file of the tunnel's folder; the public one."""
        return ed25519.make(self.folders.path(uuid), name)

    def put_back(self, uuid: str, interface: str, known: Collection[str]) -> str | None:
        """From swanctl's copy."""
        text = node_files.read(key_copy(interface)) if x25519.HAS_CRYPTOGRAPHY else None
        public = ed25519.public_key(text) if text else None
        if text is None or public is None or (known and public not in known):
            return None
        self._as_copied.add(uuid)
        if not self.host.check:
            node_files.write(self.key_path(uuid), text)
        return public

    def holds_key(self, interface: str) -> bool:
        """charon, which has read it, and can't be asked for it."""
        charon = node_units.states(self.host, [CHARON]).get(CHARON, {})
        return charon.get("active") == "active" and super().holds_key(interface)

    def units(self, interface: str) -> list[str]:
        """The unit that makes the interface."""
        return [unit(interface)]

    def files(self, interface: str, uuid: str) -> list[str]:
        """What belongs to a tunnel beside its folder, and what in it goes when it stops."""
        ours = [conf_path(interface), key_copy(interface), node_units.path(unit(interface))]
        return [*ours, self.folders.path(uuid, LINK), *super().files(interface, uuid)]

    def all_units(self, interfaces: Iterable[str]) -> list[str]:
        """Those of the interfaces, the one that calls again, and the one that takes routing rules away."""
        return [*super().all_units(interfaces), swanctl.WATCH_UNIT, networkd.UNIT]

    def queries(self) -> list[tuple[str, ...]]:
        """What charon knows and could do, and in userspace what leads packets to it."""
        return [*self.applied_queries(), command("--list-conns"), command("--list-algs")]

    def applied_queries(self) -> list[tuple[str, ...]]:
        """How charon runs, its associations, and in userspace what leads packets to it."""
        routes = charon_routes.queries(self._route_settings()) if self._missing_in_kernel() else []
        return [*self.brief_queries(), *routes]

    def brief_queries(self) -> list[tuple[str, ...]]:
        """How charon runs, and its associations."""
        return [command("--stats"), command("--list-sas")]

    def observe(self, observation: Observation, interfaces: Sequence[str]) -> Live:
        """The live state, with charon's connections."""
        live = super().observe(observation, interfaces)
        live["conns"] = swanctl.by_name(self.charon.ask("--list-conns") or [])
        return live

    def observe_applied(self, observation: Observation, interfaces: Sequence[str]) -> Live:
        """What changes by itself, and what ``lacking`` compares: in userspace also charon's rules and routes."""
        live = super().observe_applied(observation, interfaces)
        if "kernel-libipsec" in (live["plugins"] or []):
            settings = self._route_settings()
            said = [self.host.query(*argv) for argv in charon_routes.queries(settings)]
            live["charon"] = charon_routes.found(settings, said)
        return live

    def _route_settings(self) -> charon_routes.Settings:
        if self._routes_as is None:
            paths = [etc("strongswan.conf"), *sorted(glob.glob(etc("strongswan.d", "*.conf")))]
            self._routes_as = charon_routes.settings_of(node_files.read(path) or "" for path in paths)
        return self._routes_as

    def lacking(self, view: View, applied: Applied, observation: Observation, live: Live) -> list[str]:
        """What of a tunnel that was applied others have taken away, for a person."""
        lacks = super().lacking(view, applied, observation, live)
        if "charon" not in live:
            # It may have started while its settings were not there: packets go to a kernel that can't take them.
            without = live.get("plugins") is not None and bool(self._missing_in_kernel())
            return [*lacks, "strongSwan's userspace data path"] if without else lacks
        own = [address for address in applied.get("addresses") or [] if not (":" in address and ipv6_is_off())]
        found = charon_routes.lacking(live, view["interface"], own, live["charon"])
        return lacks + found.sentences(live["charon"].settings)

    def observe_briefly(self, observation: Observation, interfaces: Sequence[str]) -> Live:
        """What changes by itself: units, associations, and which plugins charon runs with (None: it doesn't run)."""
        live = super().observe_briefly(observation, interfaces)
        stats = self.charon.ask("--stats")
        plugins = stats[-1].get("plugins", []) if stats else None
        sas = swanctl.by_name(self.charon.ask("--list-sas") or [])
        return dict(live, plugins=plugins, sas=sas, hangs=set(interfaces if self.charon.hangs else ()))

    def process(self, interface: str) -> str:
        """charon's, which all tunnels have in common."""
        return CHARON

    def find_hung(self, observation: Observation, interfaces: Sequence[str]) -> set[str]:
        """All, where charon does not answer."""
        return set(interfaces) if self.charon.is_hung() else set()

    def end_hung(self, interfaces: Collection[str]) -> None:
        """Starts charon again: what a plan asks of it has to be its answer."""
        super().end_hung(interfaces)
        self.charon.forget()
        with contextlib.suppress(Error):  # which the plan will find
            self.host.start_units("restart", CHARON, timeout=60)

    def in_the_way(self, live: Live, interface: str) -> str | None:
        """What on this host already has the name of an interface, as a text, or None."""
        connection = "swanctl's connection %s" % interface if interface in live["conns"] else None
        return super().in_the_way(live, interface) or connection

    def _data_path(self, live: Live) -> str:
        if self._wanted_path != "auto":
            return self._wanted_path
        # Where the host's owner has charon carry the packets itself, it stays so.
        ours = node_files.read(etc("strongswan.d", "marzban.conf")) == swanctl.settings(swanctl.USERSPACE)
        owners = "kernel-libipsec" in (live["plugins"] or []) and not ours
        return swanctl.USERSPACE if owners or self._missing_in_kernel() else swanctl.KERNEL

    # What is to be done

    def make_plan(self, situation: Situation) -> planning.Plan:
        """What has to happen to a tunnel. Raises Error."""
        view, here, live = situation.view, situation.applied_here, situation.live
        uuid, interface = view["uuid"], view["interface"]
        path = self._data_path(live)
        local, remote = swanctl.selectors(view, path)
        if path == swanctl.USERSPACE:
            planning.check_overlap(self._taken, remote)
            self._taken.update((network, view["name"] or "#%d" % view["id"]) for network in remote)
        folder = self.folders.path(uuid)
        mtu = self._mtu_inside(situation, path)
        ike, esp = swanctl.proposals(view["post_quantum"], self.charon.has_ml_kem())
        values = {
            "dir": folder,
            "mtu": mtu,
            "proposals": ike,
            "esp_proposals": esp,
            "local_ts": ", ".join(local),
            "remote_ts": ", ".join(remote),
            "public_key": situation.public["public_key"] if situation.public else "?",
            "peer_public_key": situation.peer_public["public_key"],
            "if_id": swanctl.if_id(uuid) if path == swanctl.KERNEL else 0,
        }
        plan = planning.Plan(view, unit(interface), path, render.fill(situation.template, values))
        ours = self.files(interface, uuid)
        if path == swanctl.USERSPACE:
            plan.whole_host = networkd.needed(live, node_files.read(networkd.DROP_IN))
        for place, after in {**self._wanted_files(view, path, mtu, plan.conf), **plan.whole_host}.items():
            plan.write(place, node_files.read(place) if here or place not in ours else None, after)
        key, copy = node_files.read(self.key_path(uuid)) if situation.public else None, key_copy(interface)
        there = uuid in self._as_copied or (key is not None and node_files.read(copy) == key)
        before = planning.Before(
            key_there=there or situation.held,
            key_open=there and node_files.open_to_others(copy),
            right_kind=os.path.exists("/sys/class/net/%s/tun_flags" % interface) == (path == swanctl.USERSPACE),
            applied=situation.applied,
        )
        planning.compare(plan, before, situation, mtu)
        if uuid in self.renew and not plan.renew:
            plan.renew = True
            plan.changes.append(RENEWED)
        if situation.held and (plan.give or plan.start or plan.charon):
            raise Held(self.key_path(uuid), view["peer"]["node"])
        if plan.give:  # what charon has already, it keeps
            netdev.check_endpoint(view, situation.resolved)
            if path == swanctl.USERSPACE:
                planning.check_selectors(view, live["links"])
        self._planned = True
        return plan

    def tried_out(self) -> None:
        """The networks are free again."""
        self._taken.clear()

    def _wanted_files(self, view: View, path: str, mtu: int, conf: str) -> dict[str, str]:
        """``{path: text}`` of one tunnel, and of what all share."""
        uuid, interface = view["uuid"], view["interface"]
        device = swanctl.USERSPACE_DEVICE if path == swanctl.USERSPACE else None
        link = swanctl.make_link(interface, path, swanctl.if_id(uuid)) + netdev.batch(view, mtu)
        return {
            self.folders.path(uuid, RULES): netdev.rules(view, mtu, device),
            self.folders.path(uuid, LINK): link,
            node_units.path(unit(interface)): swanctl.unit(interface, self.folders.path(uuid), netdev.table(uuid)),
            conf_path(interface): conf,
            etc("strongswan.d", "marzban.conf"): swanctl.settings(path),
            SCRIPT: swanctl.script(etc("swanctl", "conf.d")),
            node_units.path(swanctl.WATCH_UNIT): swanctl.watch(SCRIPT),
        }

    def _mtu_inside(self, situation: Situation, path: str) -> int:
        last = re.search(r" mtu (\d+)", node_files.read(self.folders.path(situation.view["uuid"], LINK)) or "")
        mtu = self.mtu(situation, int(last.group(1)) if last else None)
        return min(mtu, swanctl.USERSPACE_MTU) if path == swanctl.USERSPACE else mtu

    # Doing it

    def do(self, plans: list[Any]) -> dict[str, Error]:
        """Carries the plans out: interfaces first, then what charon has to know of them. Failed: ``{uuid: Error}``."""
        failed: dict[str, Error] = super().do(plans)
        plans = [plan for plan in plans if plan.view["uuid"] not in failed]
        if any(plan.watch for plan in plans):
            with contextlib.suppress(Error):
                self.host.start_units("restart", swanctl.WATCH_UNIT)
        plans = self._each(self._copy_key, plans, failed)
        new = [plan for plan in plans if plan.give]
        if new:
            failed.update(self.charon.give(new))
        self.charon.renew([plan for plan in plans if plan.renew and plan.view["uuid"] not in failed])
        return failed

    def ready(self, plans: list[Any]) -> dict[str, Error]:
        """Lets charon read its settings. Failed: ``{uuid: Error}``."""
        actions = {plan.charon for plan in plans if plan.charon}
        try:
            if actions:
                self.host.start_units(min(actions), CHARON, timeout=60)
            elif any(plan.settings for plan in plans):
                self.host.run("sh", "-c", "swanctl --reload-settings 2>&1")
        except Error as error:
            # systemctl says that it failed, and charon says why.
            said = node_units.last_words(self.host, CHARON, PROGRAM) if actions else error
            return {plan.view["uuid"]: DidNotStart("strongSwan does not run: %s" % said) for plan in plans}
        return {}

    def change(self, plan: netdev.Plan) -> None:
        """The rules that lead to charon, once for all tunnels."""
        if isinstance(plan, planning.Plan):
            for family in plan.rules:
                if family not in self._rules_added:
                    self.host.run(*charon_routes.add_rule(self._route_settings(), family))
                    self._rules_added.add(family)

    def _copy_key(self, plan: planning.Plan) -> None:
        if plan.key:
            node_files.write(key_copy(plan.interface), node_files.read(self.key_path(plan.view["uuid"])) or "")

    def applied(self, view: View, live: Live) -> Applied:
        """What goes into the state about what was applied, with the connection that charon was given."""
        applied = super().applied(view, live)
        applied["conf"] = swanctl.digest(node_files.read(conf_path(view["interface"])) or "")
        return applied

    def recovered(self, interface: str) -> Applied:
        """The connection as its file has it: charon was given that."""
        return {"conf": swanctl.digest(node_files.read(conf_path(interface)) or "")}

    def released(self, places: dict[str, str]) -> None:
        """Takes the connections away from charon too, and with the last one whatever else is ours."""
        last = not self._planned and not glob.glob(etc("swanctl", "conf.d", swanctl.CONNECTIONS))
        if last:
            for path in (
                SCRIPT,
                node_units.path(swanctl.WATCH_UNIT),
                etc("strongswan.d", "marzban.conf"),
            ):
                with contextlib.suppress(Error):
                    node_files.remove(path)
        self.host.try_run("systemctl", "daemon-reload")
        stats = self.charon.ask("--stats")
        if not stats:
            return
        with contextlib.suppress(Error):
            self.charon.load()
        for name in places:
            self.host.try_run("swanctl", "--terminate", "--ike", name, "--timeout", "2")
        if (
            last
            and "kernel-libipsec" in stats[-1].get("plugins", [])
            and not (self.charon.ask("--list-conns") or [])[:-1]
        ):
            with contextlib.suppress(Error):
                self.host.start_units("restart", CHARON, timeout=60)  # or its device would stay
        elif last:
            self.host.try_run("swanctl", "--reload-settings")

    # Measuring

    def ping_from(self, view: View) -> str:
        """The local address: on the userspace data path the interface itself leads nowhere."""
        version = 4 if ipv6_is_off() else ipaddress.ip_interface(view["peer"]["addresses"][0]).version
        own = map(ipaddress.ip_interface, view["local"]["addresses"])
        found = [address for address in own if address.version == version]
        return str(found[0].ip) if found else view["interface"]

    def measured(self, view: View, live: Live, ping: dict[str, Any]) -> dict[str, Any]:
        """MEASURED of one end. ``ping`` is what the probe said."""
        path = swanctl.USERSPACE if "kernel-libipsec" in (live["plugins"] or []) else swanctl.KERNEL
        return dict(ping, **swanctl.measured(live["sas"].get(view["interface"], []), path))

    def up(self, view: View, live: Live) -> tuple[bool, float | None]:
        """Whether the interface and charon are there, and for how many seconds the interface is (or None)."""
        there = live["plugins"] is not None and os.path.exists("/sys/class/net/%s" % view["interface"])
        return self.runs(view, live, there, conf_path(view["interface"]))
