# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run writes into the folders about the tunnels: their states."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._errors import Error
from .files import file_diff
from .host import Host
from .state import STATE, Folders, new_state, shown_text
from .tunnel import Tunnel

if TYPE_CHECKING:
    from .._model.shapes import Applied, FileDiff, State


class Memory:
    """The states of one run; in check mode they are as they would be, and nothing is written."""

    def __init__(self, host: Host, folders: Folders) -> None:
        self.host, self.folders = host, folders
        self.states: dict[str, State | None] = {}  # of all folders when the run began; None: can't be read

    def save(self, tunnel: Tunnel, state: State) -> None:
        """Writes the state of a tunnel, unless it is as it was. Raises Error."""
        if state != tunnel.state:
            if not self.host.check:
                self.folders.write_state(state)
            tunnel.state = state

    def own(self, tunnel: Tunnel) -> None:
        """Writes down that this tunnel's end is the view's node: where it has another name now, or none yet."""
        if tunnel.state and tunnel.state["node"] != tunnel.view["local"]["node"]:
            state = tunnel.state.copy()
            state["node"] = tunnel.view["local"]["node"]
            self.save(tunnel, state)

    def claim(self, tunnel: Tunnel) -> None:
        """From here on the interface is ours: before anything of that name is made. Raises Error."""
        state = (tunnel.state or new_state(tunnel.view)).copy()
        state["interface"] = tunnel.view["interface"]
        self.save(tunnel, state)

    def remember(self, tunnel: Tunnel, applied: Applied) -> None:
        """Writes down what was applied, when it isn't written yet."""
        before = self.states.get(tunnel.uuid)
        state = new_state(tunnel.view)
        state["interface"] = tunnel.view["interface"]
        state["public_key"] = tunnel.public["public_key"] if tunnel.public else None
        state["peer"] = {"node": tunnel.view["peer"]["node"], "public": tunnel.peer_public}
        state["applied"] = applied
        try:
            self.save(tunnel, state)
        except Error as error:
            tunnel.refuse(error)
        if shown_text(before) != shown_text(state):
            path = self.folders.path(tunnel.uuid, STATE)
            tunnel.diff.append(file_diff(path, shown_text(before), shown_text(state)))
            if not tunnel.changes:
                tunnel.changes.append("state written")

    def remember_nothing(self, tunnel: Tunnel) -> None:
        """Nothing on this host has the tunnel's interface any more; the key and the peer's half stay.

        Also which pre-shared key was in use: the other end may go on with it, and this one does once it is up again.
        """
        state = (tunnel.state or new_state(tunnel.view)).copy()
        before: Applied = state["applied"]
        state["version"], state["interface"], state["applied"] = tunnel.view["version"], None, {}
        if "psk_fingerprint" in before:
            state["applied"]["psk_fingerprint"] = before["psk_fingerprint"]
        if tunnel.public:
            state["public_key"] = tunnel.public["public_key"]
        try:
            self.save(tunnel, state)
        except Error as error:
            tunnel.refuse(error)

    def removal_diff(self, state: State) -> FileDiff:
        """The diff of a folder that goes."""
        return file_diff(self.folders.path(state["uuid"], STATE), shown_text(state), None)
