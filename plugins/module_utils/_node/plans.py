# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which tunnels of a run can be applied, and what has to happen for that. Reads, and changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable, Dict, List, Mapping, NamedTuple

from .._errors import Error, FieldError, not_none
from .._model import views
from .._protocols.base import Pending, Protocol, Situation
from .files import file_diff
from .guard import Guard, given_up
from .measure import had_session
from .memory import Memory
from .netdev import Live
from .observation import Observation
from .path import narrow_path
from .state import Folders, anothers
from .tunnel import Tunnel, give_up_interfaces

if TYPE_CHECKING:
    from .._model.shapes import Applied, NarrowPath, State


class Part(NamedTuple):
    """What a run has to do with one protocol."""

    protocol: Protocol
    tunnels: List[Tunnel]
    going: Dict[str, State]  # uuid: state of what is removed
    interfaces: List[str]  # of all its tunnels that were or will be here


class Plans:
    """The plans of one run. ``observation``: the host before anything is taken down.

    ``resolved``: ``{name or address of a peer: its addresses}``. ``endpoints`` and ``lifelines`` as ``Guard`` has them,
    of the tunnels of all protocols; who asks for the latter is answered the same in the whole run. ``paths`` as
    ``Terms`` has them: of other tunnels what their states remember counts.
    """

    def __init__(
        self,
        folders: Folders,
        memory: Memory,
        tunnels: list[Tunnel],
        parts: list[Part],
        observation: Observation,
        resolved: dict[str, list[str]],
        endpoints: Mapping[str, set[str]],
        lifelines: Callable[[], Mapping[str, str]],
        paths: Mapping[str, NarrowPath | None],
    ) -> None:
        self.folders, self.memory, self.resolved, self.endpoints = folders, memory, resolved, endpoints
        self._find_lifelines, self._paths = lifelines, paths
        self._found_lifelines: Mapping[str, str] | None = None  # not asked yet
        self._tried: Guard | None = None
        self._ways = observation.routes  # asked for now, because what is taken down would be missing later
        self._states = {id(tunnel): tunnel.state or tunnel.former for tunnel in tunnels}
        self.leaving = give_up_interfaces(tunnels)  # interface: the tunnel that gives it up
        going = [state for part in parts for state in part.going.values()]
        going += [tunnel.former for tunnel in tunnels if tunnel.former and not tunnel.refused]
        # The interfaces that are given up in this run.
        self.free = {*self.leaving, *(state["interface"] for state in going if state["interface"])}

    def try_out(
        self, part: Part, parts: list[Part], observation: Observation, exchanged: list[Tunnel] | None = None
    ) -> list[Tunnel]:
        """Plans the tunnels for which a key is to be made, or something taken down, before that is done.

        One that is refused keeps what it has, and nobody learns of a key that it will not use. The plans are made again
        afterwards, when the keys are there, the places are free, and the other protocols have done their part.

        Answers those that would be taken down and then might have to wait for a key that both ends have: what there is
        to exchange has to be exchanged first. ``exchanged``: these, once that is done; if they still wait, they are
        refused.
        """
        moving = {id(tunnel) for tunnel in self.leaving.values()}
        its = exchanged
        if its is None:
            active = (tunnel for tunnel in part.tunnels if not tunnel.refused and tunnel.view["active"])
            its = [
                tunnel
                for tunnel in active
                if tunnel.lacks_key or id(tunnel) in moving or (tunnel.wanted and not tunnel.last_interface)
            ]
        waits: list[Tunnel] = []
        if its:
            live = part.protocol.observe(observation, part.interfaces)
            if len(parts) > 1 and "ports" in live:
                live["ports"] = set()  # some may be another protocol's, which gives them up in this run
            every = [t for p in parts for t in p.tunnels if not t.refused and t.view["active"]]
            found = self.plan(part.protocol, its, observation, live, trial=every)
            part.protocol.tried_out()
            waits = [tunnel for tunnel in found if id(tunnel) in moving and not tunnel.lacks_key]
            for tunnel in found:
                if exchanged is not None:
                    tunnel.refuse(found[tunnel])
                    tunnel.pending = True
                elif tunnel not in waits:  # by then its key is there, and may be agreed on
                    self._trial_guard(every, observation).take(tunnel.view, views.title(tunnel.view))
            for tunnel in its:
                if id(tunnel) in moving and not tunnel.refused and not self.memory.host.check:
                    tunnel.had_session = had_session(part.protocol, tunnel, live)
        return waits

    def plan(
        self,
        protocol: Protocol,
        wanted: list[Tunnel],
        observation: Observation,
        live: Live,
        trial: list[Tunnel] | None = None,
    ) -> dict[Tunnel, Pending]:
        """Plans ``wanted``, or refuses them. A trial takes those too that wait for their peer, and keeps no plan.

        ``trial``: all tunnels of the run, which may give up what one of ``wanted`` gets. Answers which of these
        would be refused until both ends have the same key.
        """
        pending: dict[Tunnel, Pending] = {}
        if not wanted:
            return pending
        mtus = observation.path_mtus(address for found in self.resolved.values() for address in found)
        guard = self._trial_guard(trial, observation) if trial else self._guard(wanted, observation)
        owners = {s["interface"]: u for u, s in self.memory.states.items() if s and s["interface"] not in self.free}
        former_names = {id(tunnel): name for name, tunnel in self.leaving.items()}
        for tunnel in wanted:
            view, name = tunnel.view, tunnel.view["interface"]
            former = former_names.get(id(tunnel))
            try:
                self._check_interface(protocol, tunnel, live, owners.get(name))
                ours = {name, former, tunnel.last_interface} | self.free
                guard.check(view, views.title(view), ours, self._states[id(tunnel)])
                plan = None
                if not tunnel.waiting_for:
                    plan = protocol.plan(self._situation(tunnel, observation, live, mtus))
            except Pending as error:
                if trial:
                    pending[tunnel] = error
                else:
                    tunnel.refuse(error)
                    tunnel.pending = True
                continue
            except Error as error:
                tunnel.refuse(error)
                continue
            guard.take(view, views.title(view))
            if trial or plan is None:
                continue
            tunnel.plan = plan
            if former and former != name:
                tunnel.changes.append("interface %s instead of %s" % (name, former))
            tunnel.changes += plan.changes
            tunnel.diff += [file_diff(*change) for change in plan.files]
        return pending

    def _situation(self, tunnel: Tunnel, observation: Observation, live: Live, mtus: dict[str, int]) -> Situation:
        applied: Applied = tunnel.state["applied"] if tunnel.state else {}
        return Situation(
            view=tunnel.view,
            template=not_none(tunnel.template, "or it would be refused")["text"],
            public=tunnel.public,
            peer_public=not_none(tunnel.peer_public, "or it would wait"),
            state=tunnel.state,
            held=tunnel.held,
            narrow=self._paths[tunnel.uuid] if tunnel.uuid in self._paths else narrow_path(applied),
            live=live,
            routes=observation.routes,
            resolved=self.resolved,
            mtus=mtus,
        )

    def _check_interface(self, protocol: Protocol, tunnel: Tunnel, live: Live, owner: str | None) -> None:
        """Refuses a name that something else on this host has. Raises FieldError."""
        name = tunnel.view["interface"]
        if owner not in (None, tunnel.uuid):
            raise FieldError("interface", name, self._whose(owner, tunnel.view["panel"]))
        found = protocol.in_the_way(live, name) if owner is None and name not in self.free else None
        if found:
            hint = "%s is here and was not made by marzban.tunnels: choose another interface, or remove it."
            raise FieldError("interface", name, hint % found)

    def _whose(self, owner: str, panel: str) -> str:
        """Whose an interface is, of which ``owner`` (a uuid) has the folder."""
        path, state = self.folders.path(owner), self.memory.states[owner]
        if state and state["panel"] != panel:
            hint = "A tunnel that belongs to the panel %s has it on this host, %s: %s"
            return hint % (state["panel"], path, anothers(state["panel"]))
        return "Another tunnel has it on this host: %s." % path

    def _trial_guard(self, every: list[Tunnel], observation: Observation) -> Guard:
        """One for all protocols: of two new tunnels of different types with one route, the second gets no key."""
        if self._tried is None:
            self._tried = self._guard(every, observation)
        return self._tried

    def _guard(self, wanted: list[Tunnel], observation: Observation) -> Guard:
        """The guard of this host, which doesn't mind what ``wanted`` tunnels have and are about to give up."""
        leaving = given_up((tunnel.view, tunnel.state) for tunnel in wanted)
        addresses = [(a, name) for name, link in observation.links.items() for a in link["addresses"]]
        routes, lines = observation.routes, self._lifelines
        return Guard(observation.sessions, self.endpoints, routes, addresses, leaving, lines, self._ways)

    def _lifelines(self) -> Mapping[str, str]:
        if self._found_lifelines is None:
            self._found_lifelines = self._find_lifelines()
        return self._found_lifelines

    def refuse_what_is_not_free(self, tunnels: list[Tunnel]) -> None:
        """An interface that its tunnel was to give up, and doesn't, is nobody else's."""
        again = True
        while again:
            again = False
            for tunnel in tunnels:
                if tunnel.refused or not tunnel.view["active"]:
                    continue
                name = tunnel.view["interface"]
                holder = self.leaving.get(name)
                if holder and holder is not tunnel and holder.refused:
                    tunnel.refuse(FieldError("interface", name, "Another tunnel keeps it: %s." % holder.error))
                    again = True
        self.free -= {name for name, tunnel in self.leaving.items() if tunnel.refused}
        formers = [tunnel.former for tunnel in tunnels if tunnel.former and tunnel.refused]
        self.free -= {former["interface"] for former in formers if former["interface"]}
