# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whose the tunnels on a host are, and whether a run may have them: by their states, and by what is kept of others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable, Collection, Iterable, Sequence

from .._errors import Error
from .._protocols import registry
from .._protocols.base import Protocol
from .adoption import rebuild
from .kept import Kept, KeptView, Terms, check_not_older, of_what_was_here
from .memory import Memory
from .tunnel import Tunnel

if TYPE_CHECKING:
    from .._model.shapes import Removed, State

BOTH_ENDS = (
    "This host has the other end of this tunnel, that of %s: one machine can't be both. If it is a copy of the other "
    "machine, remove %s and run again, which makes another key; else give the panel each machine once."
)


class Claims:
    """Those of one run, for one panel and the types that it handles. ``protocol``: that of a type."""

    def __init__(
        self,
        memory: Memory,
        panel: str,
        types: Collection[str],
        protocol: Callable[[str], Protocol],
        terms: Terms,
        kept: Kept,
    ) -> None:
        self.memory, self.folders, self.host = memory, memory.folders, memory.host
        self.panel, self.types, self.terms, self.kept = panel, types, terms, kept
        self._protocol = protocol

    def is_mine(self, state: State) -> bool:
        """Whether a state is of this panel and one of the types."""
        return state["panel"] == self.panel and state["type"] in self.types

    def take(self, tunnels: list[Tunnel], before: dict[str, State | None]) -> None:
        """Gives the tunnels their states, or refuses them.

        ``before``: the states from before this run waited for its turn.
        """
        self._refuse_older(tunnels)
        self._take_states(tunnels, before)

    def _refuse_older(self, tunnels: list[Tunnel]) -> None:
        """What a newer record has replaced here, or what was removed, is not made again."""
        if self.terms.accept_older:
            return
        removals = self.kept.removals() if self.kept.here else {}
        removals = of_what_was_here(removals) if self.terms.in_order else removals
        # What another panel has removed says nothing about this one's records
        removals = {uuid: gone for uuid, gone in removals.items() if gone.may_be_of(self.panel)}
        for tunnel in tunnels:
            if tunnel.refused:
                continue
            state = self.memory.states.get(tunnel.uuid)
            kept = self.kept.version(tunnel.uuid) if self.kept.here else None
            try:
                check_not_older(tunnel.view, (state["version"] if state else None, kept), removals)
            except Error as error:
                tunnel.refuse(error)

    def _take_states(self, tunnels: list[Tunnel], before: dict[str, State | None]) -> None:
        for tunnel in tunnels:
            if tunnel.refused:
                continue
            try:
                former = self.memory.states.get(tunnel.uuid)
                if former is None and before.get(tunnel.uuid):
                    raise Error("Another run has just removed it here: run again.")
                if former is None:
                    former = self._adopt(tunnel)
                if former and former["panel"] == self.panel and former["node"] == tunnel.view["peer"]["node"]:
                    raise Error(BOTH_ENDS % (former["node"], self.folders.path(tunnel.uuid)))
                if former and self.is_mine(former) and former["type"] != tunnel.view["type"]:
                    tunnel.former = former
                else:
                    if former:
                        self.folders.check_own(former, self.panel, tunnel.view["type"])
                    tunnel.state, tunnel.new = former, former is None
                    self.memory.own(tunnel)
                if tunnel.view["active"] and "text" not in (tunnel.template or {}):
                    raise Error((tunnel.template or {}).get("error") or "Its template was not rendered.")
            except Error as error:
                tunnel.refuse(error)

    def _adopt(self, tunnel: Tunnel) -> State | None:
        """Writes the state of a tunnel again where it is lost or broken: its folder, and what runs, are ours."""
        known = tunnel.uuid in self.memory.states  # a folder, of a tunnel whose type may have been another one
        kinds = [tunnel.view["type"], *(kind for kind in registry.TYPES if known and kind != tunnel.view["type"])]
        state = rebuild(tunnel.view, self.host, self.folders, map(self._protocol, kinds))
        if state:
            if not self.host.check:
                self.folders.write_state(state)
            self.memory.states[tunnel.uuid] = state
            tunnel.changes.append("state written again")
        return state

    def keep(self, tunnels: list[Tunnel], remove: Sequence[str], removed: Iterable[Removed]) -> None:
        """What the node service has to know of this run, to see that it stays so."""
        if not self.kept.here:
            return
        # What was not here may still come, by a run that has read its record before it was deleted.
        absent = {uuid: None for uuid in remove if not self.memory.states.get(uuid)}
        self.kept.forget(self.panel, absent, self.terms.in_order, begun=self.terms.in_order)
        done = [tunnel for tunnel in tunnels if not tunnel.refused]
        self.kept.keep(KeptView(tunnel.view, self.terms.revisions.get(tunnel.uuid)) for tunnel in done)
        gone = {entry["uuid"]: self.memory.states[entry["uuid"]] for entry in removed if not entry["error"]}
        self.kept.forget(self.panel, gone, self.terms.in_order, begun=self.terms.in_order)
        self.kept.take_back(tunnel.uuid for tunnel in done)
