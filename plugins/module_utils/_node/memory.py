# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a run writes into the folders: states, and the keys of new tunnels."""

from __future__ import annotations

from .._errors import Error, not_none
from .._model.types import Applied, FileDiff, State
from .._protocols.base import Protocol
from .files import close_to_others, file_diff, open_to_others
from .host import Host
from .state import STATE, Folders, new_state, shown_text
from .tunnel import Tunnel


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

        Of one that moves also which pre-shared key is in use: the other end, whose run may come later, goes on with it.
        """
        state = (tunnel.state or new_state(tunnel.view)).copy()
        before: Applied = state["applied"]
        state["version"], state["interface"], state["applied"] = tunnel.view["version"], None, {}
        if tunnel.view["active"] and "psk_fingerprint" in before:
            state["applied"]["psk_fingerprint"] = before["psk_fingerprint"]
        if tunnel.public:
            state["public_key"] = tunnel.public["public_key"]
        try:
            self.save(tunnel, state)
        except Error as error:
            tunnel.refuse(error)

    def farewell(self, state: State) -> FileDiff:
        """The diff of a folder that goes."""
        return file_diff(self.folders.path(state["uuid"], STATE), shown_text(state), None)

    # Keys

    def load_keys(self, protocol: Protocol, tunnels: list[Tunnel]) -> None:
        """Finds this end's public half of each tunnel, and which active ones lack a key."""
        for tunnel in tunnels:
            if tunnel.refused:
                continue
            try:
                there, tunnel.public = (False, None) if tunnel.former else protocol.load_key(tunnel.uuid)
                self._compare_key(protocol, tunnel)
                tunnel.lacks_key = not there and tunnel.view["active"]
                if there and open_to_others(protocol.key_path(tunnel.uuid)):
                    tunnel.changes.append("private key closed to others")
                    if not self.host.check:
                        close_to_others(protocol.key_path(tunnel.uuid))
            except Error as error:
                if tunnel.view["active"]:  # one that stops needs no key
                    tunnel.refuse(error)

    def _compare_key(self, protocol: Protocol, tunnel: Tunnel) -> None:
        """Says where the private key is another one than in the last run: somebody put it there, or put it back."""
        former = tunnel.state["public_key"] if tunnel.state else None
        if tunnel.public and former not in (None, tunnel.public["public_key"]):
            tunnel.changes.append("another private key found")
            before = protocol.fingerprint(dict(tunnel.public, public_key=not_none(former, "it is not in the tuple")))
            path = protocol.key_path(tunnel.uuid)
            tunnel.diff.append(file_diff(path, before + "\n", protocol.fingerprint(tunnel.public) + "\n"))

    def make_keys(self, protocol: Protocol, tunnels: list[Tunnel]) -> None:
        """Makes those that are lacking, of the tunnels that were not refused by now."""
        for tunnel in tunnels:
            if tunnel.lacks_key and not tunnel.refused:
                try:
                    self._make_key(protocol, tunnel)
                except Error as error:
                    tunnel.refuse(error)

    def _make_key(self, protocol: Protocol, tunnel: Tunnel) -> None:
        tunnel.changes.append("key made")
        after = "a new key\n"
        if not self.host.check:
            if tunnel.state is None:
                self.save(tunnel, new_state(tunnel.view))
            tunnel.public = protocol.make_key(tunnel.uuid)
            after = protocol.fingerprint(tunnel.public) + "\n"
        tunnel.diff.append(file_diff(protocol.key_path(tunnel.uuid), None, after))
