# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Makes one host match its views: all tunnels, all protocols, one call.

The order: check every view, observe the host once, plan every tunnel, and only then change something. A crash anywhere
is repaired by the next run, because each run compares what is wanted with what it finds, and because a folder of ours
names an interface before anything of that name is made, and until everything of that name is gone.

A **protocol** is one folder with a subclass of ``_protocols.base.Protocol``, listed in ``_protocols.registry``.
"""

from __future__ import annotations

from typing import Any, Collection, Dict, List, NamedTuple, Sequence

from .._errors import Error, FieldError, not_none
from .._model import validators, views
from .._model.types import Answer, FileDiff, Known, Removed, State
from .._protocols import registry
from .._protocols.base import Protocol, Situation
from . import lifelines, net, packages
from .files import file_diff, read
from .host import Host
from .machine import machine
from .measure import Work, measure
from .memory import Memory
from .netdev import Live
from .observation import Observation
from .route_conflicts import Guard, endpoints_of, given_up
from .state import Folders
from .tunnel import Tunnel, accept, find_peer, give_up_interfaces, overtaken

BOTH_ENDS = (
    "This host has the other end of this tunnel, that of %s: one machine can't be both. If it is a copy of the other "
    "machine, remove %s and run again, which makes another key; else give the panel each machine once."
)


class Part(NamedTuple):
    """What a run has to do with one protocol."""

    protocol: Protocol
    tunnels: List[Tunnel]
    going: Dict[str, State]  # uuid: state of what is removed
    interfaces: List[str]  # of all its tunnels that were or will be here


class Apply:
    """One run on one host."""

    def __init__(
        self,
        host: Host,
        folders: Folders,
        panel: str,
        types: Collection[str],
        probe: bool = True,
        options: dict[str, dict[str, Any]] | None = None,
        node: str | None = None,
        panel_addresses: Collection[str] = (),
    ) -> None:
        """``options``: ``{type: keyword arguments of its protocol}``. ``node``: this host's, else the views'.

        ``panel_addresses``: where the panel is, which no tunnel may cut off.
        """
        self.panel_addresses = panel_addresses
        self.host, self.folders, self.panel, self.types, self.probe = host, folders, panel, types, probe
        self.node = node
        self.options = options or {}
        self.paired: set[str] = set()
        self.new_keys: set[str] = set()
        self.memory = Memory(host, folders)
        self.removed: list[Removed] = []
        self.diff: list[FileDiff] = []
        self.lacks: list[tuple[packages.Packages, list[str]]] = []  # by protocol: capabilities that the host lacks
        self._protocols: dict[str, Protocol] = {}
        self._observed: Observation | None = None
        self._resolved: dict[str, list[str]] = {}
        self._endpoints: dict[str, set[str]] = {}  # address: tunnels of all protocols that send packets there

    def run(
        self,
        raws: Sequence[object],
        templates: Sequence[dict[str, Any]],
        remove: Sequence[str] = (),
        remove_all: bool = False,
        handed: dict[str, str] | None = None,
        paired: Collection[str] = (),
        new_keys: Collection[str] = (),
    ) -> Answer:
        """The answer of tunnel_apply. ``templates`` are ``{"text"}`` or ``{"error"}``, one for each of ``raws``.

        ``handed``: ``{uuid: what the other end of that tunnel sealed for this one}``. ``paired``: the uuids of
        tunnels whose other end is applied in the same round. ``new_keys``: of those, where a key was made in this run.
        """
        self.paired, self.new_keys = set(paired), set(new_keys)
        remove = [validators.uuid(uuid, "remove[%d]" % index) for index, uuid in enumerate(remove)]
        before = self.folders.states()
        if not self.host.check:
            lock = self.folders.lock()  # noqa: F841 - held until the process ends
            self.folders.sweep()
        self.memory.states = self.folders.states()
        mine = {uuid: state for uuid, state in self.memory.states.items() if state and self._is_mine(state)}
        tunnels = accept(raws, templates, self.panel, self.types, registry.TYPES)
        named = {views.seen(raw)["uuid"] for raw in raws}  # of whatever type
        self._take_states(tunnels, before)
        for uuid in remove:
            if uuid in named:
                raise FieldError("remove", uuid, "It is in views too, so it exists: remove one of them.")
        # What the panel has no more is nobody's, but all of this node is not all of another that is the same machine.
        node = self.node or next((tunnel.seen["node"] for tunnel in tunnels if tunnel.seen["node"]), None)
        whole = {uuid: state for uuid, state in mine.items() if node is None or state["node"] in (None, node)}
        going = whole if remove_all else {uuid: mine[uuid] for uuid in remove if uuid in mine}
        try:
            self._work(self._parts(tunnels, going), tunnels, handed or {})
        finally:
            self.host.drop_prefetched()
        if not self.host.check:
            self.folders.drop_root()  # where nothing of ours is left, not even an empty folder
        names = list(dict.fromkeys(name for _packages, lacks in self.lacks for name in lacks))
        return {
            "changed": bool(self.removed or any(tunnel.changes for tunnel in tunnels)),
            "diff": self.diff + [part for tunnel in tunnels for part in tunnel.diff],
            "missing": names,
            **packages.choose((read(packages.OS_RELEASE) or "") if names else "", self.lacks),
            "tunnels": [tunnel.answer() for tunnel in tunnels],
            "removed": self.removed,
            "orphans": [_known(s) for u, s in mine.items() if u not in named and u not in going],
            "foreign": [
                {"uuid": u, "panel": s["panel"] if s else None, "interface": s["interface"] if s else None}
                for u, s in self.memory.states.items()
                if s is None or s["panel"] != self.panel
            ],
            "machine": machine(),
        }

    def sealed(self, uuids: Collection[str]) -> dict[str, str]:
        """``{uuid: what this end has sealed for its peer}``, for the tunnels that have something."""
        found = {}
        for uuid, state in self.folders.states().items():
            if uuid in uuids and state and self._is_mine(state):
                text = self._protocol(state["type"]).sealed(uuid)
                if text:
                    found[uuid] = text
        return found

    def _is_mine(self, state: State) -> bool:
        return state["panel"] == self.panel and state["type"] in self.types

    def _protocol(self, kind: str) -> Protocol:
        if kind not in self._protocols:
            made = registry.protocol(kind)(self.host, self.folders, **self.options.get(kind, {}))
            made.paired, made.new_keys = self.paired, self.new_keys
            self._protocols[kind] = made
        return self._protocols[kind]

    def _parts(self, tunnels: list[Tunnel], going: dict[str, State]) -> list[Part]:
        """What there is to do, by protocol; one with nothing to do is not even loaded."""
        parts = []
        for kind in registry.TYPES:
            its = [tunnel for tunnel in tunnels if tunnel.seen["type"] == kind]
            leave = {uuid: state for uuid, state in going.items() if state["type"] == kind}
            if its or leave:
                mine = [s for s in self.memory.states.values() if s and self._is_mine(s) and s["type"] == kind]
                names = {state["interface"] for state in mine if state["interface"]}
                names |= {tunnel.view["interface"] for tunnel in its if tunnel.checked}
                parts.append(Part(self._protocol(kind), its, leave, sorted(names)))
        return parts

    def _take_states(self, tunnels: list[Tunnel], before: dict[str, State | None]) -> None:
        """The states of the tunnels; ``before`` are those from before this run waited for its turn."""
        for tunnel in tunnels:
            if tunnel.refused:
                continue
            try:
                if overtaken(tunnel, before.get(tunnel.uuid), self.memory.states.get(tunnel.uuid)):
                    raise Error("Another run has just changed it here, and read a newer record: run again.")
                former = self.memory.states.get(tunnel.uuid)
                if former and former["panel"] == self.panel and former["node"] == tunnel.view["peer"]["node"]:
                    raise Error(BOTH_ENDS % (former["node"], self.folders.path(tunnel.uuid)))
                if former and self._is_mine(former) and former["type"] != tunnel.view["type"]:
                    tunnel.former = former
                else:
                    tunnel.state = self.folders.own(tunnel.uuid, self.panel, tunnel.view["type"])
                    tunnel.new = tunnel.state is None
                    self.memory.own(tunnel)
                if tunnel.view["active"] and "text" not in (tunnel.template or {}):
                    raise Error((tunnel.template or {}).get("error") or "Its template was not rendered.")
            except Error as error:
                tunnel.refuse(error)

    # The run

    def _work(self, parts: list[Part], tunnels: list[Tunnel], handed: dict[str, str]) -> None:
        self._observe(parts, parts)
        for part in parts:
            self._preflight(part)
        self._retire(tunnels)
        runnable = [tunnel for tunnel in tunnels if not tunnel.refused and tunnel.view["active"]]
        self._resolved = net.resolve({tunnel.view["peer"]["endpoint"] for tunnel in runnable})
        self._endpoints = endpoints_of(((t.view, views.title(t.view)) for t in runnable), self._resolved)
        works = []
        for number, part in enumerate(parts):
            works.append(self._one_protocol(part, parts, parts[number:], handed))
        measure(self.host, works, self.probe)
        for part in parts:
            for tunnel in part.tunnels:
                if tunnel.public and tunnel.state:
                    tunnel.public = part.protocol.acknowledge(tunnel.public, tunnel.state)

    def _observe(self, parts: list[Part], ahead: list[Part]) -> Observation:
        """A new observation; what the protocols of ``ahead`` will ask of it is asked at once."""
        units = (unit for part in parts for unit in part.protocol.all_units(part.interfaces))
        self._observed = Observation(self.host, units)
        self._observed.prefetch(*(argv for part in ahead for argv in part.protocol.queries()))
        return self._observed

    def _one_protocol(self, part: Part, parts: list[Part], ahead: list[Part], handed: dict[str, str]) -> Work:
        protocol, tunnels, going, interfaces = part
        self.memory.load_keys(protocol, tunnels)
        for tunnel in tunnels:
            if not tunnel.refused and tunnel.view["active"]:
                find_peer(tunnel)
        self._exchange(protocol, [tunnel for tunnel in tunnels if tunnel.wanted], handed)
        observation = self._observed or self._observe(parts, ahead)
        live = protocol.observe(observation, interfaces)
        leaving = give_up_interfaces(tunnels)
        self._plan(protocol, tunnels, observation, live, leaving, going)
        self._refuse_what_is_not_free(tunnels, leaving)
        changed = self._release(protocol, tunnels, leaving, going)
        plans = [tunnel for tunnel in tunnels if tunnel.plan and not tunnel.refused and tunnel.changes]
        if plans and not self.host.check:
            self._do(protocol, plans)
            live, changed = protocol.observe(self._observe(parts, ahead), interfaces), True
        elif changed:
            self._observed = None
        for tunnel in tunnels:
            if tunnel.wanted and tunnel.plan:
                self.memory.remember(tunnel, protocol.applied(tunnel.view, live))
        return Work(protocol, tunnels, live, changed)

    def _preflight(self, part: Part) -> None:
        wanted = [t for t in part.tunnels if not t.refused and t.view["active"]]  # what stops, stops in any case
        for tunnel in wanted:
            try:
                part.protocol.check(tunnel.view)
            except FieldError as error:
                tunnel.refuse(error)
        wanted = [tunnel for tunnel in wanted if not tunnel.refused]
        lacks = part.protocol.missing() if wanted else []
        self.lacks.append((part.protocol.packages, lacks))
        if lacks and not self.host.check:
            for tunnel in wanted:
                hint = "This host lacks %s: install it (the role marzban.tunnels.%s does)."
                tunnel.refuse(Error(hint % (", ".join(lacks), part.protocol.role or part.protocol.name)))

    def _retire(self, tunnels: list[Tunnel]) -> None:
        """Takes down what a tunnel was before its type changed, once it is known that the new type can run here."""
        for tunnel in tunnels:
            former = tunnel.former
            if former is None or tunnel.refused:
                continue
            try:
                if not self.host.check:
                    places = {former["interface"]: tunnel.uuid} if former["interface"] else {}
                    for error in self._protocol(former["type"]).release(places).values():
                        raise error
                    self.folders.drop(tunnel.uuid)
            except Error as error:
                tunnel.refuse(error)
                continue
            del self.memory.states[tunnel.uuid]
            tunnel.changes.append("%s taken down" % former["type"])
            self.diff.append(self.memory.farewell(former))

    # Plans

    def _exchange(self, protocol: Protocol, tunnels: list[Tunnel], handed: dict[str, str]) -> None:
        for tunnel in tunnels:
            peer_public = not_none(tunnel.peer_public, "or it would wait")
            try:
                given = handed.get(tunnel.uuid)
                done = protocol.exchange(tunnel.view, tunnel.public, peer_public, tunnel.state, given)
                tunnel.public, tunnel.needs_peer = done.public, done.needs_peer
                tunnel.peer_public = done.peer_public or peer_public
                tunnel.changes += done.changes
            except Error as error:
                tunnel.refuse(error)

    def _plan(
        self,
        protocol: Protocol,
        tunnels: list[Tunnel],
        observation: Observation,
        live: Live,
        leaving: dict[str, Tunnel],
        going: dict[str, State],
    ) -> None:
        wanted = [tunnel for tunnel in tunnels if tunnel.wanted]
        if not wanted:
            return
        mtus = observation.path_mtus(address for found in self._resolved.values() for address in found)
        guard = self._guard(wanted, observation)
        free = set(leaving) | {state["interface"] for state in going.values() if state["interface"]}
        free |= {t.former["interface"] for t in tunnels if t.former and not t.refused and t.former["interface"]}
        owners = {s["interface"]: u for u, s in self.memory.states.items() if s and s["interface"] not in free}
        for tunnel in wanted:
            view, name = tunnel.view, tunnel.view["interface"]
            template = not_none(tunnel.template, "or it would be refused")
            peer_public = not_none(tunnel.peer_public, "or it would wait")
            try:
                self._check_interface(protocol, tunnel, live, owners.get(name), name in free)
                guard.check(view, views.title(view), {name, tunnel.last_interface} | free, tunnel.state)
                situation = Situation(
                    view=view,
                    template=template["text"],
                    public=tunnel.public,
                    peer_public=peer_public,
                    state=tunnel.state,
                    live=live,
                    routes=observation.routes,
                    resolved=self._resolved,
                    mtus=mtus,
                )
                tunnel.plan = protocol.plan(situation)
            except Error as error:
                tunnel.refuse(error)
                continue
            guard.take(view, views.title(view))
            if tunnel.last_interface and leaving.get(tunnel.last_interface) is tunnel:
                tunnel.changes.append("interface %s instead of %s" % (name, tunnel.last_interface))
            tunnel.changes += tunnel.plan.changes
            tunnel.diff += [file_diff(*change) for change in tunnel.plan.files]

    def _check_interface(self, protocol: Protocol, tunnel: Tunnel, live: Live, owner: str | None, free: bool) -> None:
        """Refuses a name that something else on this host has. Raises FieldError."""
        name = tunnel.view["interface"]
        if owner not in (None, tunnel.uuid):
            raise FieldError("interface", name, "Another tunnel has it on this host: %s." % self.folders.path(owner))
        found = protocol.in_the_way(live, name) if owner is None and not free else None
        if found:
            hint = "%s is here and was not made by marzban.tunnels: choose another interface, or remove it."
            raise FieldError("interface", name, hint % found)

    def _guard(self, wanted: list[Tunnel], observation: Observation) -> Guard:
        """The guard of this host, which doesn't mind what ``wanted`` tunnels have and are about to give up."""
        leaving = given_up((tunnel.view, tunnel.state) for tunnel in wanted)
        addresses = [(a, name) for name, link in observation.links.items() for a in link["addresses"]]
        lines = self._lifelines
        return Guard(observation.sessions, self._endpoints, observation.routes, addresses, leaving, lines)

    def _lifelines(self) -> dict[str, str]:
        return lifelines.find(self.host, self.panel_addresses)

    def _refuse_what_is_not_free(self, tunnels: list[Tunnel], leaving: dict[str, Tunnel]) -> None:
        """An interface that its tunnel was to give up, and doesn't, is nobody else's."""
        again = True
        while again:
            again = False
            for tunnel in tunnels:
                holder = leaving.get(tunnel.view["interface"]) if tunnel.plan and not tunnel.refused else None
                if holder not in (None, tunnel) and holder.refused:
                    tunnel.refuse(
                        FieldError("interface", tunnel.view["interface"], "Another tunnel keeps it: %s." % holder.error)
                    )
                    again = True

    # Changes

    def _release(
        self, protocol: Protocol, tunnels: list[Tunnel], leaving: dict[str, Tunnel], going: dict[str, State]
    ) -> bool:
        """Takes down what stops, what moves to another interface, and what is removed; whether the host changed."""
        places = {name: tunnel.uuid for name, tunnel in leaving.items() if not tunnel.refused}
        places.update((state["interface"], uuid) for uuid, state in going.items() if state["interface"])
        failed = {} if self.host.check else protocol.release(places)
        for name, tunnel in leaving.items():
            if name in failed:
                tunnel.refuse(failed[name])
            elif not tunnel.refused:
                if not tunnel.wanted:
                    tunnel.changes.append("stopped")
                self.memory.remember_nothing(tunnel)
        self._refuse_what_is_not_free(tunnels, leaving)
        for tunnel in tunnels:
            if tunnel.plan and not tunnel.refused and tunnel.view["interface"] in failed:
                tunnel.refuse(failed[tunnel.view["interface"]])
        for uuid, state in going.items():
            entry: Removed = dict(_known(state), error=None)  # type: ignore[assignment]
            try:
                if state["interface"] in failed:
                    raise failed[state["interface"]]
                if not self.host.check:
                    self.folders.drop(uuid)
            except Error as error:
                entry["error"] = str(error)
            self.removed.append(entry)
            self.diff.append(self.memory.farewell(state))
        return bool(places) and not self.host.check

    def _do(self, protocol: Protocol, tunnels: list[Tunnel]) -> None:
        ready = []
        for tunnel in tunnels:
            try:
                self.memory.claim(tunnel)
                ready.append(tunnel)
            except Error as error:
                tunnel.refuse(error)
        failed = protocol.do([tunnel.plan for tunnel in ready if tunnel.plan])
        for tunnel in ready:
            if tunnel.uuid in failed:
                tunnel.refuse(failed[tunnel.uuid])


def _known(state: State) -> Known:
    known: Known = {key: state.get(key) for key in ("id", "uuid", "node", "name", "type", "interface")}  # type: ignore[assignment]
    return known
