# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""WireGuard on a node: wg-quick's stock unit, its conf, and a pre-shared key against quantum computers.

``wg show all dump`` prints private keys: its output goes into ``parse_dump``, and into ``parse_running``, by which
``put_back`` reads a lost private key back from the interface that runs (``_node/keyring.py`` says when); and nowhere
else.
"""

from __future__ import annotations

import glob
import os
import time
from typing import TYPE_CHECKING, Any, Callable, Collection, Iterable, Sequence

from ..._errors import Error, FieldError
from ..._model import render
from ..._node import files as node_files
from ..._node import netdev
from ..._node import units as node_units
from ..._node.host import Hangs, Host
from ..._node.netdev import Live
from ..._node.observation import Observation
from ..._node.ping import ping_all
from ..._node.state import Folders
from ..base import RULES, Exchanged, Pending, Protocol, Situation
from . import conf as wireguard_conf
from . import lookup, preshared_key, silence
from . import plan as planning
from .packages import PACKAGES

if TYPE_CHECKING:
    from ..._model.shapes import Applied, Public, State, View

CONF_DIR = "/etc/wireguard"
MODULE = "sys/module/wireguard"  # there once the kernel's is in use
SOCKETS = "/var/run/wireguard"  # of the processes that carry packets
AT_ONCE = (
    32  # processes of wg: the node service may have 128, and without an answer a tunnel counts as one that is down
)
SLACK = 0.02  # of what one process may take for an answer: more for each that is asked
DUMP = ("wg", "show", "all", "dump")


def unit(interface: str) -> str:
    """The stock unit of an interface."""
    return "wg-quick@%s.service" % interface


def conf_path(interface: str) -> str:
    """Where wg-quick looks for the conf of an interface."""
    return os.path.join(CONF_DIR, interface + ".conf")


def kernel_has_wireguard(root: str = "/") -> bool:
    """Whether this kernel has WireGuard, found out without making an interface."""
    if os.path.isdir(os.path.join(root, MODULE)):
        return True
    modules = os.path.join(root, "lib/modules", os.uname().release)
    for name in ("modules.dep", "modules.builtin"):
        try:
            with open(os.path.join(modules, name), encoding="utf-8", errors="replace") as stream:
                if any("/wireguard.ko" in line.partition(":")[0] for line in stream):
                    return True
        except OSError:
            continue
    return False


class WireGuard(Protocol):
    """The protocol ``wireguard``."""

    name = "wireguard"
    program = "wg-quick"
    packages = PACKAGES
    session_limit = wireguard_conf.STALE
    needs_answer = True

    def __init__(self, host: Host, folders: Folders) -> None:
        super().__init__(host, folders)
        # uuid: fingerprint of the pre-shared key that the tunnel is to use, or None
        self._used: dict[str, str | None] = {}
        self._dumped: str | None = None  # what wg said, until it is used
        self._hangs: set[str] = set()  # interfaces of which the process did not answer
        self._running_keys: dict[str, str] | None = None
        self._userspace: bool | None = None  # not known yet
        self._restored: dict[str, str | None] = {}  # uuid: fingerprint of a pre-shared key that was put back

    # What is there

    def missing(self) -> list[str]:
        """The capabilities that a tunnel needs and this host lacks."""
        lacks = self.lacks([("wireguard-tools", "wg"), ("wireguard-tools", "wg-quick")])
        if not kernel_has_wireguard():
            lacks += [] if self.host.has("wireguard-go") else ["wireguard-go"]
            lacks += self.lacks_tun()
        return sorted(set(lacks), key=lacks.index)

    def _in_userspace(self) -> bool:
        """Whether a process may carry the packets: the kernel's module, where there is one, is not loaded yet."""
        if self._userspace is None:
            loaded = os.path.isdir(os.path.join("/", MODULE))
            self._userspace = not loaded and (self.host.has("wireguard-go") or not kernel_has_wireguard())
        return self._userspace

    def check(self, view: View) -> None:
        """Refuses a view that this protocol can't run. Raises FieldError."""
        if view["transport"] != "udp":
            raise FieldError(
                "transport", view["transport"], "WireGuard speaks udp only: change it, or the tunnel's type."
            )

    def load_key(self, uuid: str) -> tuple[bool, Public | None]:
        """``(there, public half?)``, with the fingerprint of the pre-shared key that this end holds."""
        # A key that runs here needs no cryptography, whose import costs as much as the rest of a run.
        private = node_files.read(self.key_path(uuid))
        running = self._public_keys().get(private.strip()) if private else None
        there, public = (True, {"public_key": running}) if running else super().load_key(uuid)
        return there, self.completed(uuid, public) if public else None

    def completed(self, uuid: str, known: Public) -> Public | None:
        """With the fingerprint of the pre-shared key that this end holds."""
        public = super().completed(uuid, known)
        found = preshared_key.load(self.folders.path(uuid))[1] or self._restored.get(uuid)
        return dict(public, psk_fingerprint=found) if public and found else public

    def holds_key(self, interface: str) -> bool:
        """What holds a key can be asked for it."""
        return False

    def put_back(self, uuid: str, interface: str, known: Collection[str]) -> str | None:
        """Reads the private key back from the interface, and the pre-shared key where that is lost too."""
        self._public_keys()  # which asks
        running = wireguard_conf.parse_running(self._ask() if self._dumped is None else self._dumped, interface)
        if running is None or (known and running.public not in known):
            return None
        folder = self.folders.path(uuid)
        self._unless_check(node_files.write, self.key_path(uuid), running.private + "\n")
        if preshared_key.load(folder)[1] is None:
            for peer, key in running.preshared.items():
                self._unless_check(preshared_key.put_back, folder, key, peer)
                self._restored[uuid] = wireguard_conf.preshared_fingerprint(key)
        return running.public

    def exchange(
        self, view: View, public: Public | None, peer_public: Public, state: State | None, handed: str | None
    ) -> Exchanged:
        """Makes the pre-shared key (the source), or takes it (the target), and finds out whether it is to be used."""
        uuid, folder = view["uuid"], self.folders.path(view["uuid"])
        changes: list[str] = []
        held = (public or {}).get("psk_fingerprint")
        theirs = peer_public.get("psk_fingerprint")
        offers = view["local"]["role"] == "source"
        # Without traffic that could be cut, both ends switch in the round in which the target takes the key.
        at_once = uuid in self.paired and uuid in self.new_keys
        if view["post_quantum"] == "off":
            if held:
                changes.append("pre-shared key removed")
                self._unless_check(preshared_key.drop, folder)
            held, offers = None, False
        elif offers:
            if not held or self._made_for(folder, state) not in (None, *self._same_peer(view, peer_public)):
                changes.append("pre-shared key made")
                made = self._unless_check(preshared_key.make, folder, peer_public["public_key"])
                held, at_once = made, False  # the target doesn't have it yet
            elif preshared_key.made_for(folder) not in (None, peer_public["public_key"]):
                self._unless_check(preshared_key.follow, folder, peer_public["public_key"])
            if held and (held == theirs or at_once):
                self._unless_check(preshared_key.withdraw, folder)
            elif held and public:
                keys = public["public_key"], peer_public["public_key"]
                self._unless_check(preshared_key.offer, folder, uuid, *keys)
        elif handed and held != theirs:
            changes.append("pre-shared key taken")
            held = self._unless_check(preshared_key.take, folder, uuid, handed, peer_public["public_key"], theirs)
        # Where there may be traffic, both ends see that they hold the same once both halves were published, and switch
        # in one round: an end that waits for nobody would be alone with its key until the next run.
        same = bool(held) and held == theirs
        told = (view["local"]["public"] or {}).get("psk_fingerprint") == held
        used = same and ((told and uuid in self.paired) or self._uses(state) == held)
        used = used or (at_once and bool(held) and (offers or same))
        self._used[uuid] = held if used else None
        needs_peer = bool(held) and not used and (same or offers)
        public = public and {"public_key": public["public_key"]}
        if public and held:
            public["psk_fingerprint"] = held
        if used and held:  # which the panel does not know yet where both switched at once
            peer_public = {"public_key": peer_public["public_key"], "psk_fingerprint": held}
        return Exchanged(public, needs_peer, changes, peer_public)

    @staticmethod
    def _same_peer(view: View, peer_public: Public) -> tuple[str, ...]:
        """The keys of one peer: that to be used, and the one in the record, in whose place it came by agreement."""
        recorded = view["peer"]["public"] or peer_public
        return peer_public["public_key"], recorded["public_key"]

    @staticmethod
    def _made_for(folder: str, state: State | None) -> str | None:
        """The peer's public key that the pre-shared key was made for, or None.

        Not by the state alone: it tells what was applied, and with ``post_quantum: require`` nothing is before both
        ends have the key, which would be another one in each round.
        """
        last = state["peer"] if state else None
        return preshared_key.made_for(folder) or ((last and last["public"]) or {}).get("public_key")

    @staticmethod
    def _uses(state: State | None) -> str | None:
        """The fingerprint of the pre-shared key that the last run switched on, maybe under another interface."""
        return state["applied"].get("psk_fingerprint") if state else None

    def applied(self, view: View, live: Live) -> Applied:
        """What goes into the state about what was applied, with the pre-shared key in use and since when it is."""
        applied = super().applied(view, live)
        used = applied["psk_fingerprint"] = self._used.get(view["uuid"])
        if used:
            since = self._since(view, used)
            applied["psk_since"] = int(time.time()) if since is None else since
        return applied

    def _since(self, view: View, used: str | None) -> int | None:
        """When the pre-shared key with this fingerprint was switched on (seconds), or a bit later; None: it wasn't."""
        if not used:
            return None
        state = self.folders.state(view["uuid"])
        applied: Applied = state["applied"] if state and state["interface"] == view["interface"] else {}
        if applied.get("psk_fingerprint") != used:
            return None
        since = applied.get("psk_since")
        if isinstance(since, int):
            return since
        try:  # of a version that did not write it down: the conf was written with it, and maybe once more
            return int(os.stat(conf_path(view["interface"])).st_mtime)
        except OSError:
            return None

    def recovered(self, interface: str) -> Applied:
        """The pre-shared key in use: the other end may use it too."""
        self._public_keys()  # which asks
        peers = wireguard_conf.parse_dump(self._dumped or "").get(interface, {"peers": {}})["peers"]
        return {"psk_fingerprint": next((peer["psk"] for peer in peers.values()), None)}

    def _unless_check(self, do: Callable[..., Any], *given: Any) -> Any:
        return None if self.host.check else do(*given)

    def sealed(self, uuid: str) -> str | None:
        """What is to be handed to the peer, or None."""
        return preshared_key.offered(self.folders.path(uuid))

    def units(self, interface: str) -> list[str]:
        """The stock unit."""
        return [unit(interface)]

    def all_units(self, interfaces: Iterable[str]) -> list[str]:
        """Also the timers of those that have one."""
        names = list(interfaces)
        timers = [lookup.timer(name) for name in names if os.path.exists(lookup.paths(name)[0])]
        return [*super().all_units(names), *timers]

    def lacking(self, view: View, applied: Applied, observation: Observation, live: Live) -> list[str]:
        """What of a tunnel that was applied others have taken away, for a person."""
        lacks = super().lacking(view, applied, observation, live)
        found = live["units"].get(lookup.timer(view["interface"]))
        return lacks + ([lookup.timer(view["interface"])] if found and found["active"] != "active" else [])

    def files(self, interface: str, uuid: str) -> list[str]:
        """The conf, what is added to the unit, and what every tunnel has."""
        added = (node_units.drop_in(unit(interface)), *lookup.paths(interface))
        return [conf_path(interface), *added, *super().files(interface, uuid)]

    def brief_queries(self) -> list[tuple[str, ...]]:
        """One dump of all interfaces."""
        return [DUMP]

    def observe(self, observation: Observation, interfaces: Sequence[str]) -> Live:
        """The live state, and the ports that others listen at."""
        live = super().observe(observation, interfaces)
        ours = {live["wg"][name]["port"] for name in interfaces if name in live["wg"]}
        return dict(live, ports={port for kind, port in observation.listening if kind == "udp"} - ours)

    def observe_briefly(self, observation: Observation, interfaces: Sequence[str]) -> Live:
        """What changes by itself: whether the tunnels run, handshakes and counters."""
        live = super().observe_briefly(observation, interfaces)
        wg = self._dump()
        active = [name for name in interfaces if live["units"].get(unit(name), {}).get("active") == "active"]
        if not all(name in wg for name in active):
            wg = self._dump()  # wg may stumble over an interface that somebody takes down at this moment
        return dict(live, wg=wg, hangs=self._hangs.intersection(interfaces))

    def find_hung(self, observation: Observation, interfaces: Sequence[str]) -> set[str]:
        """Those of which the process does not answer."""
        self._dumped = self._ask()
        return self._hangs.intersection(interfaces)

    def end_hung(self, interfaces: Collection[str]) -> None:
        """Ends their processes."""
        super().end_hung(interfaces)
        self._dumped, self._hangs = None, set()

    def note_silence(self, views: list[View], live: Live, resolved: dict[str, list[str]]) -> None:
        """Notes which peers have left the place that packets go to, where their names say another one."""
        silence.note(views, live, resolved, ping_all, self._dump)

    def _public_keys(self) -> dict[str, str]:
        """``{private key: public key}`` of the interfaces of this host, as they were at the beginning of the run."""
        if self._running_keys is None:
            self._dumped = self._ask() if self._dumped is None else self._dumped
            self._running_keys = wireguard_conf.parse_keys(self._dumped)
        return self._running_keys

    def _ask(self) -> str:
        processes = {os.path.basename(path)[: -len(".sock")] for path in glob.glob(os.path.join(SOCKETS, "*.sock"))}
        if not processes:  # the kernel may be late, and does not hang
            return self.host.query(*DUMP, lenient=True) or ""
        many = SLACK * len(processes)
        if not self._hangs:
            try:  # lenient, because wg reports the other interfaces even if it fails on one
                return self.host.ask(*DUMP, lenient=True, share=0.5 + many) or ""
            except Hangs:  # one process delays the answer about all
                pass
        names = (self.host.query("wg", "show", "interfaces") or "").split()
        asked = {name: ("wg", "show", name, "dump") for name in names if name not in self._hangs}
        lines = []
        for number, (name, argv) in enumerate(asked.items()):
            if number % AT_ONCE == 0:
                self.host.prefetch(*list(asked.values())[number : number + AT_ONCE])
            try:
                said = self.host.ask(*argv, share=1 + many) or ""
                lines += ["%s\t%s\n" % (name, line) for line in said.splitlines()]
            except Hangs:
                self._hangs.update(processes & {name})
        return "".join(lines)

    def _dump(self) -> dict[str, dict[str, Any]]:
        text, self._dumped = self._ask() if self._dumped is None else self._dumped, None
        return wireguard_conf.parse_dump(text)

    # What is to be done

    def without_ipv6(self, situation: Situation) -> Situation:
        """The template's text too has to do without."""
        situation.template = wireguard_conf.without_ipv6(situation.view, situation.template)
        return super().without_ipv6(situation)

    def make_plan(self, situation: Situation) -> planning.Plan:
        """What has to happen to a tunnel. Raises Error."""
        view, peer_key = situation.view, situation.peer_public["public_key"]
        uuid, interface = view["uuid"], view["interface"]
        before = planning.Before(
            rules=node_files.read(self.folders.path(uuid, RULES)),
            conf=node_files.read(conf_path(interface)) if situation.applied_here else None,
            applied=situation.applied,
        )
        preshared = self._preshared_for(view, situation.template)
        keys = planning.Keys(self.key_path(uuid), self.folders.path(uuid, preshared_key.FILE))
        mtu = self.mtu(situation, before.parsed["mtu"] if before.parsed else None)
        values = {
            "dir": self.folders.path(uuid),
            "preshared_key": keys.preshared if preshared else wireguard_conf.NO_KEY,
            "mtu": mtu,
            "peer_public_key": peer_key,
        }
        conf_text = render.fill(situation.template, values)
        conf = wireguard_conf.parse_conf(conf_text)
        conf["peers"][peer_key]["psk"] = preshared
        plan = planning.Plan(view, unit(interface), conf, keys)
        plan.write(self.folders.path(uuid, RULES), before.rules, netdev.rules(view, conf["mtu"] or mtu))
        plan.write(conf_path(interface), before.conf, conf_text)
        planning.compare(plan, before, situation)
        self._plan_units(plan, situation.live, situation.applied_here)
        return plan

    def _plan_units(self, plan: planning.Plan, live: Live, here: bool) -> None:
        """What is added to the unit, and what looks the peer's name up. ``here``: the last run has applied it here."""
        name, path = plan.interface, node_units.drop_in(plan.unit)
        wanted = lookup.texts(name, plan.unit, plan.conf)
        old = {path: node_files.read(path) if here else None for path in (path, *lookup.paths(name))}
        added = lookup.drop_in(name, old[path], self._in_userspace(), looks_up=bool(wanted))
        after = {path: added, **{path: wanted.get(path) for path in lookup.paths(name)}}
        changed = [path for path, text in after.items() if plan.write(path, old[path], text)]
        runs = live["units"].get(lookup.timer(name), {}).get("active") == "active"
        if bool(wanted) != runs or any(path in changed for path in lookup.paths(name)):
            plan.lookup = "restart" if wanted else "stop"
        # A run that was killed may have left files that systemd does not know.
        plan.units = bool(changed or plan.lookup)
        if here and changed:
            plan.changes.append("unit changed")
        elif here and plan.lookup and not plan.start:
            plan.changes.append("%s started" % lookup.timer(name))

    def _do_files(self, plan: netdev.Plan) -> None:
        """What looks a name up is stopped before it can set one that is not meant any more."""
        if isinstance(plan, planning.Plan) and plan.lookup:
            self.host.try_run("systemctl", "stop", *lookup.units_of(plan.interface))
        super()._do_files(plan)

    def _start(self, plans: list[Any]) -> dict[str, Error]:
        """Also the timers of what goes on running; the unit of the tunnel starts its own."""
        failed = super()._start(plans)
        for plan in plans:
            if plan.lookup == "restart" and not plan.start and plan.view["uuid"] not in failed:
                try:
                    self.host.run("systemctl", "restart", lookup.timer(plan.interface))
                except Error as error:
                    failed[plan.view["uuid"]] = error
        return failed

    def _preshared_for(self, view: View, template: str) -> str | None:
        """The fingerprint of the pre-shared key that is to be used, or None. Raises Error where there has to be one."""
        used = self._used.get(view["uuid"])
        if view["post_quantum"] == "require" and not used and not self.host.check:
            hint = "%s does not use this tunnel's pre-shared key yet: run apply with both nodes, or choose auto."
            raise Pending("post_quantum", "require", hint % view["peer"]["node"])
        if used and "@node.preshared_key@" not in template:
            raise Error(
                "The template does not load the pre-shared key: take over the PostUp with node.preshared_key from the "
                "role's own, or set post_quantum to off."
            )
        return used

    def change(self, plan: netdev.Plan) -> None:
        """What `wg set` sets."""
        if isinstance(plan, planning.Plan) and plan.settings:
            self.host.run("wg", "set", plan.interface, *plan.settings, secret=True)

    def released(self, places: dict[str, str]) -> None:
        """Lets systemd forget what was added to its units."""
        node_units.forget_drop_ins(self.host, map(unit, places))

    # Measuring

    def measured(self, view: View, live: Live, ping: dict[str, Any]) -> dict[str, Any]:
        """MEASURED of one end. ``ping`` is what the probe said."""
        name = view["interface"]
        peers = list(live["wg"].get(name, {"peers": {}})["peers"].values())
        ages = [wireguard_conf.handshake_age(peer, live["now"]) for peer in peers]
        age = min((age for age in ages if age is not None), default=None)
        measured = dict(ping, handshake_age=age)
        if peers:
            measured.update(rx_bytes=sum(peer["rx"] for peer in peers), tx_bytes=sum(peer["tx"] for peer in peers))
            measured["data_path"] = "userspace" if os.path.exists("/sys/class/net/%s/tun_flags" % name) else "kernel"
        if age is not None:
            since = [self._since(view, peer["psk"]) for peer in peers]
            # A handshake after that has used the key: it would have failed otherwise.
            quantum = any(s is not None and peer["handshake"] > s for s, peer in zip(since, peers))
            soon = any(peer["psk"] for peer in peers) and not quantum
            measured.update(
                cipher="ChaCha20-Poly1305",
                key_exchange="X25519 and pre-shared key" if quantum else "X25519",
                post_quantum=None if soon else quantum,  # the next handshake uses the key, within two minutes
            )
        return measured

    def up(self, view: View, live: Live) -> tuple[bool, float | None]:
        """Whether the tunnel's service and interface are there, and for how many seconds (or None)."""
        return self.runs(view, live, view["interface"] in live["wg"], conf_path(view["interface"]))
