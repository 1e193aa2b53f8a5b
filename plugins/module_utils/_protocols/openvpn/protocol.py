# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""OpenVPN on a node: one process per tunnel under the stock unit, with certificates that both ends know by fingerprint.

Both ends run under openvpn-server@, whose stock unit may bind a port; that of openvpn-client@ may not (--nobind).
A certificate that ends soon is renewed in three steps, each in a run of its end: the next one is made and published;
the peer lets it in beside the present one, and says so; then it is used.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, Collection, Sequence

from ..._errors import Error, FieldError
from ..._model import render
from ..._node import files as node_files
from ..._node import netdev
from ..._node import state as node_state
from ..._node import units as node_units
from ..._node.host import Host
from ..._node.netdev import Live
from ..._node.observation import Observation
from .. import x25519
from ..base import RULES, Exchanged, Held, Protocol, Situation
from . import certificate, management, tls_crypt
from . import conf as openvpn_conf
from . import plan as planning
from .packages import PACKAGES
from .tls_keys import TlsKeys

if TYPE_CHECKING:
    from ..._model.shapes import Applied, Public, State, View

CONF_DIR = "/etc/openvpn/server"
LINK = "link.ip"
LEAST_VERSION = (2, 6)  # peer-fingerprint
DCO = ("/sys/module/ovpn", "/sys/module/ovpn_dco_v2")  # where the kernel carries packets
QUANTUM_LIBRARY = (3, 5)  # the first OpenSSL with ML-KEM
HIDDEN = ("home", "root", "tmp", "var/tmp", "run/user")  # what the stock unit's process can't see
VERSION = ("openvpn", "--version")
# Bytes that OpenVPN (2.7 takes 4 more than 2.6) and the outer packet take, by the transport and the outer family.
OUTSIDE = {"udp": {4: 56, 6: 76}, "tcp": {4: 82, 6: 102}}


def unit(interface: str) -> str:
    """The stock unit of an interface."""
    return "openvpn-server@%s.service" % interface


def conf_path(interface: str) -> str:
    """Where the stock unit looks for the conf of an interface."""
    return os.path.join(CONF_DIR, interface + ".conf")


class OpenVPN(TlsKeys, Protocol):
    """The protocol ``openvpn``."""

    name = "openvpn"
    program = "openvpn"
    packages = PACKAGES

    def __init__(self, host: Host, folders: node_state.Folders) -> None:
        super().__init__(host, folders)
        self._known_versions: openvpn_conf.Versions | None = None
        self._heard: dict[str, str | None] = {}  # what the processes said, until it is used

    # What is there

    def missing(self) -> list[str]:
        """The capabilities that a tunnel needs and this host lacks."""
        lacks = self.lacks([("openvpn", "openvpn")])
        version = self._versions()[0]
        if version and version < LEAST_VERSION:
            lacks.insert(0, "openvpn-2.6")
        return lacks if any(os.path.isdir(module) for module in DCO) else lacks + self.lacks_tun()

    def _versions(self) -> openvpn_conf.Versions:
        """Of OpenVPN and of its OpenSSL; () where it isn't installed."""
        if self._known_versions is None:
            # Lenient, because 2.5 ends with 1 after it said its version.
            said = self.host.query(*VERSION, lenient=True) if self.host.has("openvpn") else None
            self._known_versions = openvpn_conf.versions(said or "")
        return self._known_versions

    def check(self, view: View) -> None:
        """Refuses a view that this protocol can't run. Raises FieldError."""
        root = self.folders.root + "/"
        if root.startswith(tuple("/%s/" % folder for folder in HIDDEN)):
            hint = "systemd hides this place from OpenVPN: choose one such as %s."
            raise FieldError("config_dir", self.folders.root, hint % node_state.CONFIG_DIR)
        library = self._versions()[1]
        if view["post_quantum"] == "require" and library and library < QUANTUM_LIBRARY:
            hint = "OpenVPN of this host has OpenSSL %d.%d, and %s wants 3.5 (Debian 13): upgrade it, or choose auto."
            raise FieldError("post_quantum", "require", hint % (*library, openvpn_conf.QUANTUM))

    # Keys

    def exchange(
        self, view: View, public: Public | None, peer_public: Public, state: State | None, handed: str | None
    ) -> Exchanged:
        """Makes the next certificate where the present one ends soon or is lost; uses it once the peer lets it in."""
        changes: list[str] = []
        if public is None:
            return Exchanged(public, False, changes)
        folder = self.folders.path(view["uuid"])
        path = os.path.join(folder, certificate.FILE)
        if os.path.exists(path) and node_files.open_to_others(path):
            changes.append("TLS key closed to others")
            if not self.host.check:
                node_files.close_to_others(path)
        following = public.get("next_fingerprint")
        used = certificate.usable(folder)
        alone = used is not None or self.has_key(view["uuid"])  # the static key stays
        if not following and (used is None or used.days < certificate.RENEW):
            changes.append("next certificate made")
            if self.host.check:
                return Exchanged(public, False, changes)
            following = certificate.make(folder, certificate.NEXT).fingerprint
            public = dict(public, next_fingerprint=following)
        # Not before, even where the present one has ended: OpenVPN goes by the fingerprint, and takes it all the same.
        # Where the static key is lost too, both are switched together.
        if following and alone and peer_public.get("accepts") == following:
            changes.append("certificate switched")
            if not self.host.check:
                certificate.switch(folder)
            public = {"public_key": public["public_key"], "fingerprint": following}
        return Exchanged(public, False, changes)

    def acknowledge(self, public: Public, state: State) -> Public:
        """Says which next certificate of the peer is let in by now."""
        last = state["peer"] if state["interface"] else None
        peer = (last["public"] if last else None) or {}
        public = {key: value for key, value in public.items() if key != "accepts"}
        following = peer.get("next_fingerprint")
        return dict(public, accepts=following) if following else public

    # Observing

    def units(self, interface: str) -> list[str]:
        """The stock unit."""
        return [unit(interface)]

    def files(self, interface: str, uuid: str) -> list[str]:
        """What belongs to a tunnel beside its folder, and what in it goes when it stops."""
        ours = [conf_path(interface), node_units.drop_in(unit(interface)), management.path(interface)]
        return [
            *ours,
            *(self.folders.path(uuid, name) for name in (LINK, tls_crypt.FILE)),
            *super().files(interface, uuid),
        ]

    def queries(self) -> list[tuple[str, ...]]:
        """The version; tunnels are asked through their sockets."""
        return [VERSION] if self._known_versions is None else []

    def observe(self, observation: Observation, interfaces: Sequence[str]) -> Live:
        """The live state, and the ports that others listen at."""
        live = super().observe(observation, interfaces)
        ours = {
            openvpn_conf.listens(node_files.read(conf_path(name)) or "")
            for name in interfaces
            if self._active(live, name)
        }
        return dict(live, ports=observation.listening - ours)

    def observe_briefly(self, observation: Observation, interfaces: Sequence[str]) -> Live:
        """What changes by itself: units, and what the processes say."""
        live = super().observe_briefly(observation, interfaces)
        heard, self._heard = self._heard, {}
        names = [name for name in interfaces if self._active(live, name)]
        heard.update(management.ask((name for name in names if name not in heard), self.host.patience))
        self._heard = {name: None for name in names if heard[name] is None}  # it is not asked a second time
        said = {name: heard[name] or "" for name in names}
        return dict(live, said=said, hangs=set(self._heard))

    def find_hung(self, observation: Observation, interfaces: Sequence[str]) -> set[str]:
        """Those of which the process does not answer."""
        live = super().observe_briefly(observation, interfaces)
        names = [name for name in interfaces if self._active(live, name)]
        self._heard = management.ask(names, self.host.patience)
        return {name for name, said in self._heard.items() if said is None}

    def end_hung(self, interfaces: Collection[str]) -> None:
        """Ends their processes."""
        super().end_hung(interfaces)
        self._heard = {}

    @staticmethod
    def _active(live: Live, interface: str) -> bool:
        return bool(live["units"].get(unit(interface), {}).get("active") == "active")

    # What is to be done

    def make_plan(self, situation: Situation) -> planning.Plan:
        """What has to happen to a tunnel. Raises Error."""
        view, live, here = situation.view, situation.live, situation.applied_here
        uuid, interface = view["uuid"], view["interface"]
        folder = self.folders.path(uuid)
        self.outside = OUTSIDE[view["transport"]]
        mtu = self.mtu(situation, self._last_mtu(uuid))
        conf = render.fill(situation.template, self._values(view, folder, mtu, situation.peer_public))
        openvpn_conf.check(conf)
        plan = planning.Plan(view, unit(interface), conf)
        last = node_files.read(conf_path(interface)) if here else None
        plan.write(conf_path(interface), last, conf)
        unit_file = node_files.read(node_units.drop_in(unit(interface))) if here else None
        plan.write(node_units.drop_in(unit(interface)), unit_file, openvpn_conf.unit(folder, uuid))
        for name, text in ((LINK, netdev.batch(view, mtu)), (RULES, netdev.rules(view, mtu))):
            plan.write(self._path(uuid, name), node_files.read(self._path(uuid, name)), text)
        if not situation.held:  # without the key it stays as it is: so does the one that the process was started with
            self._plan_wrap(plan, folder, situation)
        before = planning.Before(last, self._active(live, interface), situation.applied)
        planning.compare(plan, before, situation, mtu)
        lost = self._lost(situation) if plan.start else None
        if lost:
            raise Held(lost, view["peer"]["node"])
        planning.check_port(plan, before, live)
        return plan

    def _lost(self, situation: Situation) -> str | None:
        """The path of what is lost, and without which a process that runs can't be started again."""
        uuid = situation.view["uuid"]
        if not x25519.HAS_CRYPTOGRAPHY:  # check mode
            return None
        folder = self.folders.path(uuid)
        following = certificate.usable(folder, certificate.NEXT)
        if (
            self.host.check
            and following
            and situation.public
            and situation.public["fingerprint"] == following.fingerprint
        ):
            return None  # it would be in use by now
        if certificate.usable(folder) is None and (situation.held or self._runs(situation)):
            return self._path(uuid, certificate.FILE)
        key, wrap = (os.path.exists(self._path(uuid, name)) for name in (x25519.FILE, tls_crypt.FILE))
        return self.key_path(uuid) if situation.held and not (key or wrap) else None

    def _runs(self, situation: Situation) -> bool:
        """Whether the process that the last run has left is there, maybe under another interface."""
        name = situation.state["interface"] if situation.state else None
        return name is not None and self._active(situation.live, name)

    def _path(self, uuid: str, name: str) -> str:
        return self.folders.path(uuid, name)

    def _last_mtu(self, uuid: str) -> int | None:
        found = re.search(r" mtu (\d+)", node_files.read(self._path(uuid, LINK)) or "")
        return int(found.group(1)) if found else None

    def _values(self, view: View, folder: str, mtu: int, peer_public: Public) -> dict[str, Any]:
        able = self._versions()[1] >= QUANTUM_LIBRARY
        let_in = [peer_public[key] for key in ("fingerprint", "next_fingerprint") if peer_public.get(key)]
        return {
            "dir": folder,
            "mtu": mtu,
            "family": 6 if os.path.exists("/proc/net/if_inet6") else 4,
            "peer_fingerprints": openvpn_conf.fingerprint_lines(let_in),
            "tls_groups": openvpn_conf.tls_groups(view["post_quantum"], able),
        }

    def _plan_wrap(self, plan: planning.Plan, folder: str, situation: Situation) -> None:
        """The key that wraps the handshake goes with a former interface."""
        there = x25519.HAS_CRYPTOGRAPHY and self.has_key(plan.view["uuid"])
        private = x25519.load(folder)[0] if there else None
        if private:  # or it is check mode, and there is no key yet
            wanted = tls_crypt.derive(private, situation.peer_public["public_key"], plan.view["uuid"])
            if situation.applied_here and node_files.read(os.path.join(folder, tls_crypt.FILE)) == wanted:
                return
            plan.wrap = wanted
        plan.wrap_changes = True

    # Doing it

    def _do_files(self, plan: netdev.Plan) -> None:
        super()._do_files(plan)
        if isinstance(plan, planning.Plan) and plan.wrap:
            node_files.write(self._path(plan.view["uuid"], tls_crypt.FILE), plan.wrap)

    def applied(self, view: View, live: Live) -> Applied:
        """What goes into the state about what was applied, with the certificate that the process was started with."""
        applied = super().applied(view, live)
        found = certificate.usable(self.folders.path(view["uuid"])) if x25519.HAS_CRYPTOGRAPHY else None
        last, recorded = self.folders.state(view["uuid"]), view["local"]["public"] or {}
        # Without the file, the process goes on with what it was started with.
        before = last["applied"].get("fingerprint") if last else None
        applied["fingerprint"] = found.fingerprint if found else before or recorded.get("fingerprint")
        return applied

    def released(self, places: dict[str, str]) -> None:
        """Lets systemd forget what was added to its units."""
        node_units.forget_drop_ins(self.host, map(unit, places))

    # Measuring

    def measured(self, view: View, live: Live, ping: dict[str, Any]) -> dict[str, Any]:
        """MEASURED of one end. ``ping`` is what the probe said."""
        name, found = view["interface"], self._said(view, live)
        device = "/sys/class/net/%s/" % name
        measured = dict(
            ping,
            rx_bytes=_number(device + "statistics/rx_bytes"),
            tx_bytes=_number(device + "statistics/tx_bytes"),
            cipher=found.get("cipher"),
            key_exchange=found.get("key_exchange"),
            data_path="userspace" if os.path.exists(device + "tun_flags") else "kernel",
        )
        if found.get("handshake") is not None:
            measured["handshake_age"] = max(0, int(live["now"]) - found["handshake"])
        if found.get("key_exchange"):
            measured["post_quantum"] = found["key_exchange"] == openvpn_conf.QUANTUM
        if x25519.HAS_CRYPTOGRAPHY:
            used = certificate.usable(self.folders.path(view["uuid"]))
            measured["certificate_days"] = used and used.days
        return measured

    def up(self, view: View, live: Live) -> tuple[bool, float | None]:
        """Whether the process and its interface are there, and for how many seconds, or without a session."""
        there, seconds = self.runs(view, live, os.path.exists("/sys/class/net/%s" % view["interface"]))
        lost = self._said(view, live).get("lost")
        return there, seconds if lost is None or seconds is None else min(seconds, max(0, live["now"] - lost))

    @staticmethod
    def _said(view: View, live: Live) -> openvpn_conf.Said:
        name = view["interface"]
        return openvpn_conf.parse(live["said"].get(name) or "", node_files.read(conf_path(name)) or "")


def _number(path: str) -> int | None:
    try:
        found = (node_files.read(path) or "").strip()
    except Error:  # the interface goes at this moment
        return None
    return int(found) if found.isdigit() else None
