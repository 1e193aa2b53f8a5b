# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Makes one host match its views: all tunnels, all protocols, one call.

The order: check every view, observe the host once, plan what is new or moves, take down what goes, and only then make
keys, publish them, plan the rest and change something. A tunnel that is refused keeps what it has. A crash anywhere
is repaired by the next run, because each run compares what is wanted with what it finds, and because a folder of ours
names an interface before anything of that name is made, and until everything of that name is gone.

A **protocol** is one folder with a subclass of ``_protocols.base.Protocol``, listed in ``_protocols.registry``.
"""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any, Collection, Sequence

from .._errors import Error, FieldError, not_none
from .._model import validators, views
from .._protocols import registry
from .._protocols.base import Protocol
from . import hung, lifelines, net, packages
from .claims import Claims
from .files import read
from .guard import endpoints_of
from .host import Host
from .kept import Kept, Terms
from .keyring import Keyring
from .machine import machine
from .measure import Work, had_session, measure
from .memory import Memory
from .observation import Observation
from .plans import Part, Plans
from .state import Folders
from .tunnel import Tunnel, accept, find_peer
from .whole_host import WholeHost

if TYPE_CHECKING:
    from .._model.shapes import Answer, FileDiff, Known, Removed, State


class Apply:
    """One run on one host."""

    plans: Plans  # once the states and the keys are known

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
        terms: Terms = Terms(),  # noqa: B008 - it can't be changed
        kept: Kept | None = None,
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
        self.keyring = Keyring(host, self.memory)
        self.whole_host = WholeHost(host, folders)
        self.tunnels: list[Tunnel] = []
        self.removed: list[Removed] = []
        self.diff: list[FileDiff] = []
        self.lacks: list[tuple[packages.Packages, list[str]]] = []  # by protocol: capabilities that the host lacks
        self._protocols: dict[str, Protocol] = {}
        self._observed: Observation | None = None
        self._cleared: set[str] = set()  # the protocols of which something was taken down
        self.claims = Claims(self.memory, panel, types, self._protocol, terms, kept or Kept())

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
        waited: list[dict[str, State | None]] = []  # the states from before this run waited for its turn
        with contextlib.ExitStack() as stack:
            if not self.host.check:
                stack.enter_context(self.folders.locked(before_waiting=lambda: waited.append(self.folders.states())))
                self.folders.sweep()
            return self._run(raws, templates, remove, remove_all, handed or {}, waited)

    def _run(
        self,
        raws: Sequence[object],
        templates: Sequence[dict[str, Any]],
        remove: Sequence[str],
        remove_all: bool,
        handed: dict[str, str],
        waited: list[dict[str, State | None]],
    ) -> Answer:
        self.memory.states = self.folders.states()
        self.whole_host.load()
        mine = {uuid: state for uuid, state in self.memory.states.items() if state and self.claims.is_mine(state)}
        self.tunnels = tunnels = accept(raws, templates, self.panel, self.types, registry.TYPES)
        named = {views.seen(raw)["uuid"] for raw in raws}  # of whatever type
        self.claims.take(tunnels, waited[0] if waited else self.memory.states)
        for uuid in remove:
            if uuid in named:
                raise FieldError("remove", uuid, "It is in views too, so it exists: remove one of them.")
        # What the panel does not have any more is nobody's; another node's on the same machine is not this one's.
        node = self.node or next((tunnel.seen["node"] for tunnel in tunnels if tunnel.seen["node"]), None)
        whole = {uuid: state for uuid, state in mine.items() if node is None or state["node"] in (None, node)}
        going = whole if remove_all else {uuid: mine[uuid] for uuid in remove if uuid in mine}
        try:
            self._work(self._parts(tunnels, going), tunnels, handed)
        finally:
            self.host.drop_prefetched()
        self._settle(tunnels, going)
        if not self.host.check:
            self.claims.keep(tunnels, remove, self.removed)
            self.folders.drop_root(self.claims.kept.here)  # where nothing of ours is left, not even an empty folder
        names = list(dict.fromkeys(name for _packages, lacks in self.lacks for name in lacks))
        return {
            "changed": bool(self.removed or self.whole_host.diff or any(tunnel.changes for tunnel in tunnels)),
            "diff": self.diff + [part for tunnel in tunnels for part in tunnel.diff] + self.whole_host.diff,
            "warnings": self.whole_host.warnings,
            "missing": names,
            **packages.choose((read(packages.OS_RELEASE) or "") if names else "", self.lacks, packages.own_python()),
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
        for uuid in uuids:
            state = self.folders.state(uuid)
            if state and self.claims.is_mine(state):
                text = self._protocol(state["type"]).sealed(uuid)
                if text:
                    found[uuid] = text
        return found

    def _protocol(self, kind: str) -> Protocol:
        if kind not in self._protocols:
            made = registry.protocol(kind)(self.host, self.folders, **self.options.get(kind, {}))
            made.paired, made.new_keys, made.renew = self.paired, self.new_keys, self.claims.terms.renew
            self._protocols[kind] = made
        return self._protocols[kind]

    def _parts(self, tunnels: list[Tunnel], going: dict[str, State]) -> list[Part]:
        """What there is to do, by protocol; one with nothing to do is not even loaded."""
        parts = []
        for kind in registry.TYPES:
            its = [tunnel for tunnel in tunnels if tunnel.seen["type"] == kind]
            leave = {uuid: state for uuid, state in going.items() if state["type"] == kind}
            if its or leave:
                mine = [s for s in self.memory.states.values() if s and self.claims.is_mine(s) and s["type"] == kind]
                names = {state["interface"] for state in mine if state["interface"]}
                names |= {tunnel.view["interface"] for tunnel in its if tunnel.checked}
                parts.append(Part(self._protocol(kind), its, leave, sorted(names)))
        return parts

    def _settle(self, tunnels: list[Tunnel], going: Collection[str]) -> None:
        """Puts back what of the whole host no tunnel needs any more."""
        stopped = [t.uuid for t in tunnels if t.checked and not t.refused and not t.view["active"]]
        left = [uuid for uuid in self.folders.uuids() if not (self.host.check and uuid in going)]
        try:
            self.whole_host.need({uuid: {} for uuid in stopped})
            self.whole_host.settle(left)
        except Error as error:
            self.whole_host.warnings.append(str(error))

    # The run

    def _work(self, parts: list[Part], tunnels: list[Tunnel], handed: dict[str, str]) -> None:
        observation = self._observe(parts, parts)
        for part in parts:
            self._preflight(part)
        runnable = [tunnel for tunnel in tunnels if not tunnel.refused and tunnel.view["active"]]
        resolved = net.resolve({tunnel.view["peer"]["endpoint"] for tunnel in runnable})
        endpoints = endpoints_of(((t.view, views.title(t.view)) for t in runnable), resolved)
        if hung.end(self.host, parts, observation, resolved):
            observation = self._observe(parts, parts)
        for part in parts:
            self.keyring.load(part.protocol, part.tunnels)
        for tunnel in runnable:
            if not tunnel.refused:  # its key may be broken
                find_peer(tunnel, self.claims.terms.trusted_keys)
        lines = functools.partial(lifelines.find, self.host, self.panel_addresses)
        paths = self.claims.terms.paths
        self.plans = Plans(self.folders, self.memory, tunnels, parts, observation, resolved, endpoints, lines, paths)
        for part in parts:
            waits = self.plans.try_out(part, parts, observation)
            if waits:
                self._exchange(part.protocol, waits, handed)
                self.plans.try_out(part, parts, observation, [tunnel for tunnel in waits if not tunnel.refused])
        self.plans.refuse_what_is_not_free(tunnels)
        self._retire(tunnels)
        if not self.host.check:
            self._clear(parts, tunnels)
        works = []
        for number, part in enumerate(parts):
            works.append(self._one_protocol(part, parts, parts[number:], handed))
        if self.host.check:
            self._clear(parts, tunnels)  # last, because nothing is cleared: the plans go by the states as they are
        measure(self.host, works, self.probe)
        for part in parts:
            for tunnel in part.tunnels:
                if tunnel.public and tunnel.state:
                    tunnel.public = part.protocol.acknowledge(tunnel.public, tunnel.state)
                self.keyring.complete(tunnel)

    def _observe(self, parts: list[Part], ahead: list[Part]) -> Observation:
        """A new observation; what the protocols of ``ahead`` will ask of it is asked at once."""
        units = (unit for part in parts for unit in part.protocol.all_units(part.interfaces))
        self._observed = Observation(self.host, units)
        asked = (argv for part in ahead for argv in part.protocol.queries())
        self._observed.prefetch(*self._observed.queries(), *asked)
        return self._observed

    def _one_protocol(self, part: Part, parts: list[Part], ahead: list[Part], handed: dict[str, str]) -> Work:
        protocol, tunnels, _going, interfaces = part
        self.keyring.make(protocol, tunnels)
        self._exchange(protocol, [tunnel for tunnel in tunnels if tunnel.wanted and not tunnel.exchanged], handed)
        observation = self._observed or self._observe(parts, ahead)
        live, changed = protocol.observe(observation, interfaces), protocol.name in self._cleared
        if self.probe:
            views_here = [tunnel.view for tunnel in tunnels if tunnel.wanted]
            protocol.note_silence(views_here, live, self.plans.resolved)
        self.plans.plan(protocol, [tunnel for tunnel in tunnels if tunnel.wanted], observation, live)
        self._need(tunnels)
        plans = [tunnel for tunnel in tunnels if tunnel.plan and not tunnel.refused and tunnel.changes]
        if plans and not self.host.check:
            for tunnel in plans:
                tunnel.had_session = tunnel.had_session or had_session(protocol, tunnel, live)  # or it moves
            self._do(protocol, plans)
            live, changed = protocol.observe(self._observe(parts, ahead), interfaces), True
        for tunnel in tunnels:
            if tunnel.wanted and tunnel.plan:
                applied = protocol.applied(tunnel.view, live)
                if tunnel.plan.narrow:
                    applied["narrow"] = tunnel.plan.narrow
                self.memory.remember(tunnel, applied)
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
                role = part.protocol.role or part.protocol.name
                tunnel.refuse(packages.Lacking(packages.advice(lacks, role, packages.own_python())))

    def _retire(self, tunnels: list[Tunnel]) -> None:
        """Takes down what a tunnel was before its type changed, now that it is known that the new type can run here."""
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
            self._observed = None
            tunnel.changes.append("%s taken down" % former["type"])
            self.diff.append(self.memory.removal_diff(former))

    def _exchange(self, protocol: Protocol, tunnels: list[Tunnel], handed: dict[str, str]) -> None:
        for tunnel in tunnels:
            tunnel.exchanged = True
            try:
                again = self.keyring.agree(protocol, tunnel)
                peer_public = not_none(tunnel.peer_public, "or it would wait")
                given = handed.get(tunnel.uuid)
                done = protocol.exchange(tunnel.view, tunnel.public, peer_public, tunnel.state, given)
                tunnel.public, tunnel.needs_peer = done.public, done.needs_peer or again
                tunnel.peer_public = done.peer_public or peer_public
                tunnel.changes += done.changes
            except Error as error:
                tunnel.refuse(error)

    # Changes

    def _clear(self, parts: list[Part], tunnels: list[Tunnel]) -> None:
        """Takes down what stops, moves or is removed, before anything takes its place.

        Of all protocols at once: what one gives up another may get in the same run.
        """
        failed: dict[str | None, Error] = {}
        for part in parts:
            failed.update(self._release(part))
        self.plans.free -= set(failed)
        self.plans.refuse_what_is_not_free(tunnels)
        for tunnel in tunnels:
            if not tunnel.refused and tunnel.view["active"] and tunnel.view["interface"] in failed:
                tunnel.refuse(failed[tunnel.view["interface"]])

    def _release(self, part: Part) -> dict[str | None, Error]:
        """Takes down what stops, moves to another interface, or is removed. What failed: ``{interface: Error}``."""
        its = {id(tunnel) for tunnel in part.tunnels}
        leaving = {
            name: tunnel for name, tunnel in self.plans.leaving.items() if id(tunnel) in its and not tunnel.refused
        }
        places = {name: tunnel.uuid for name, tunnel in leaving.items()}
        places.update((state["interface"], uuid) for uuid, state in part.going.items() if state["interface"])
        failed: dict[str | None, Error] = {} if self.host.check else part.protocol.release(places)
        for name, tunnel in leaving.items():
            if name in failed:
                tunnel.refuse(failed[name])
                continue
            if not tunnel.wanted:
                tunnel.changes.append("stopped")
            if not tunnel.plan:  # or it is check mode, and the state is what it would be
                self.memory.remember_nothing(tunnel)
        for uuid, state in part.going.items():
            entry: Removed = dict(_known(state), error=None)  # type: ignore[assignment]
            try:
                if state["interface"] in failed:
                    raise failed[state["interface"]]
                if not self.host.check:
                    self.folders.drop(uuid)
            except Error as error:
                entry["error"] = str(error)
            self.removed.append(entry)
            self.diff.append(self.memory.removal_diff(state))
        if places and not self.host.check:
            self._cleared.add(part.protocol.name)
            self._observed = None
        return failed

    def _need(self, tunnels: list[Tunnel]) -> None:
        """Writes down what of the whole host the planned tunnels need. One that can't be remembered is not applied."""
        planned = [tunnel for tunnel in tunnels if tunnel.plan and not tunnel.refused]
        try:
            self.whole_host.need({t.uuid: t.plan.whole_host for t in planned if t.plan})
        except Error as error:
            for tunnel in planned:
                if tunnel.plan and tunnel.plan.whole_host:
                    tunnel.refuse(error)

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
