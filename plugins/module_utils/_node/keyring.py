# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The private keys of the tunnels of one run: found, put back, made, and replaced once both ends agree."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Collection

from .._errors import Error, not_none
from .._model import next_key
from .._protocols.base import Held, Protocol
from .._protocols.x25519 import FILE, HAS_CRYPTOGRAPHY, BrokenKey
from .files import close_to_others, file_diff, open_to_others, remove
from .host import Host
from .memory import Memory
from .state import new_state
from .tunnel import Tunnel

if TYPE_CHECKING:
    from .._model.shapes import Public, State


class Keyring:
    """Of one run. In check mode nothing is written."""

    def __init__(self, host: Host, memory: Memory) -> None:
        self.host, self.memory = host, memory

    # What is there

    def load(self, protocol: Protocol, tunnels: list[Tunnel]) -> None:
        """Finds this end's public half of each tunnel, and which active ones lack a key, or have a next one."""
        for tunnel in tunnels:
            if tunnel.refused:
                continue
            try:
                self._load(protocol, tunnel)
            except Error as error:
                if tunnel.view["active"]:  # one that stops needs no key
                    tunnel.refuse(error)

    def _load(self, protocol: Protocol, tunnel: Tunnel) -> None:
        if tunnel.former:
            tunnel.lacks_key = tunnel.view["active"]
            return
        there, broken = False, None
        try:
            there, tunnel.public = protocol.load_key(tunnel.uuid)
        except BrokenKey as error:
            broken = error
        if not there and tunnel.view["active"] and self._put_back(protocol, tunnel):
            there, broken = True, None
        if broken:
            if not tunnel.view["active"] or not self._keep_rest(protocol, tunnel):
                raise broken
            there = True
        tunnel.next_key = protocol.load_next(tunnel.uuid)
        if not there and tunnel.view["active"]:
            self._hold(protocol, tunnel)
            tunnel.lacks_key = not tunnel.held
        self._compare(protocol, tunnel)
        if there and not self._would_be_written(protocol, tunnel) and open_to_others(protocol.key_path(tunnel.uuid)):
            tunnel.changes.append("private key closed to others")
            if not self.host.check:
                close_to_others(protocol.key_path(tunnel.uuid))

    def _would_be_written(self, protocol: Protocol, tunnel: Tunnel) -> bool:
        return self.host.check and not protocol.has_key(tunnel.uuid)

    def _put_back(self, protocol: Protocol, tunnel: Tunnel) -> bool:
        """Writes the private key again that what runs has, where it is the one that state or panel know."""
        if not tunnel.last_interface:
            return False
        found = protocol.put_back(tunnel.uuid, tunnel.last_interface, self._known(tunnel))
        if not found:
            return False
        tunnel.changes.append("private key put back")
        tunnel.public = protocol.completed(tunnel.uuid, {"public_key": found})
        return True

    def _keep_rest(self, protocol: Protocol, tunnel: Tunnel) -> bool:
        """Goes on with the private key where only what belongs to it is lost: OpenVPN's certificate.

        What runs still has that, and ``exchange`` replaces it as one that ends soon. Where nothing runs, it is made.
        """
        own = protocol.read_key(tunnel.uuid, FILE) if protocol.has_key(tunnel.uuid) else None
        if own is None:
            return False
        name, recorded = tunnel.last_interface, tunnel.view["local"]["public"] or {}
        known = {**recorded, **_ran(tunnel.state)} if tunnel.state and name and protocol.holds_key(name) else {}
        tunnel.public = protocol.completed(tunnel.uuid, {**known, "public_key": own})
        tunnel.lacks_key = tunnel.public is None
        return True

    @staticmethod
    def _known(tunnel: Tunnel) -> Collection[str]:
        """The public key that this end has, in a list: the state's, else the record's; empty where neither has one.

        Where a key was replaced at once and then lost, what runs still has the former one, which may have leaked.
        """
        recorded = (tunnel.view["local"]["public"] or {}).get("public_key")
        key = tunnel.state["public_key"] if tunnel.state else None
        return [found for found in (key or recorded,) if found]

    def _hold(self, protocol: Protocol, tunnel: Tunnel) -> None:
        """Finds out whether what runs has a key that it alone has: it goes on with it until the next one is agreed."""
        name, recorded = tunnel.last_interface, (tunnel.view["local"]["public"] or {}).get("public_key")
        if not (name and tunnel.state and self._known(tunnel) and protocol.holds_key(name)):
            return
        if recorded not in (None, *self._known(tunnel)):
            return  # a key was made that nobody has: what runs has another one
        # What runs comes first: the panel may not know of it yet.
        tunnel.public = protocol.completed(
            tunnel.uuid, {**(tunnel.view["local"]["public"] or {}), **_ran(tunnel.state)}
        )
        tunnel.held = tunnel.public is not None
        if tunnel.held and name != tunnel.view["interface"] and not self._switches(protocol, tunnel):
            tunnel.refuse(Held(protocol.key_path(tunnel.uuid), tunnel.view["peer"]["node"]))
            tunnel.pending = tunnel.needs_peer = True

    def _compare(self, protocol: Protocol, tunnel: Tunnel) -> None:
        """Says where the private key is another one than in the last run: somebody put it there, or put it back."""
        former = tunnel.state["public_key"] if tunnel.state else None
        if not tunnel.public or former in (None, tunnel.public["public_key"]):
            return
        if tunnel.public["public_key"] == (tunnel.view["local"]["public"] or {}).get(next_key.NEXT):
            return  # the last run ended while it switched
        tunnel.changes.append("another private key found")
        before = protocol.fingerprint(dict(tunnel.public, public_key=not_none(former, "it is not in the tuple")))
        path = protocol.key_path(tunnel.uuid)
        tunnel.diff.append(file_diff(path, before + "\n", protocol.fingerprint(tunnel.public) + "\n"))

    # New ones

    def make(self, protocol: Protocol, tunnels: list[Tunnel]) -> None:
        """Makes those that are lacking, of the tunnels that were not refused by now."""
        for tunnel in tunnels:
            try:
                if tunnel.refused and not tunnel.pending:
                    continue
                if tunnel.lacks_key:
                    self._make(protocol, tunnel)
                elif tunnel.held and not tunnel.next_key:
                    self._make_next(protocol, tunnel)
            except Error as error:
                tunnel.pending = False
                tunnel.refuse(error)

    def _make(self, protocol: Protocol, tunnel: Tunnel) -> None:
        tunnel.changes.append(protocol.repair(tunnel.uuid))
        after = "a new key\n"
        if not self.host.check:
            if tunnel.state is None:
                self.memory.save(tunnel, new_state(tunnel.view))
            tunnel.public = protocol.repair_key(tunnel.uuid)
            tunnel.next_key = protocol.load_next(tunnel.uuid)
        if tunnel.public:
            after = protocol.fingerprint(tunnel.public) + "\n"
        tunnel.diff.append(file_diff(protocol.key_path(tunnel.uuid), None, after))

    def _make_next(self, protocol: Protocol, tunnel: Tunnel) -> None:
        tunnel.changes.append("next key made")
        if not self.host.check:
            tunnel.next_key = protocol.make_next(tunnel.uuid)
            tunnel.public = protocol.completed(tunnel.uuid, not_none(tunnel.public, "or it would not be held"))

    # Agreeing

    def agree(self, protocol: Protocol, tunnel: Tunnel) -> bool:
        """Switches to this end's next key, or to the peer's, once both know it; whether both have to meet again."""
        if self._switches(protocol, tunnel):
            tunnel.changes.append("next key in use")
            if not self.host.check:
                tunnel.public = protocol.use_next(tunnel.uuid)
            tunnel.next_key, tunnel.held = None, False
        last = tunnel.state["peer"] if tunnel.state else None
        same = last and last["node"] == tunnel.view["peer"]["node"]
        used = (last["public"] or {}).get("public_key") if last and same else None
        peer, paired = not_none(tunnel.peer_public, "or it would wait"), tunnel.uuid in protocol.paired
        tunnel.peer_public, tunnel.accepts = next_key.of_peer(tunnel.view["local"]["public"], peer, used, paired)
        return bool(tunnel.next_key or tunnel.accepts)

    @staticmethod
    def _switches(protocol: Protocol, tunnel: Tunnel) -> bool:
        """Whether this end uses its next key in this round."""
        own, peer, paired = (
            tunnel.view["local"]["public"],
            tunnel.view["peer"]["public"],
            tunnel.uuid in protocol.paired,
        )
        if not tunnel.next_key or not next_key.switches(tunnel.next_key, own, peer, paired):
            return False
        return protocol.may_switch(tunnel.uuid, not_none(peer, "it accepts the key"))

    @staticmethod
    def complete(tunnel: Tunnel) -> None:
        """Adds the next key to what this end publishes, and the peer's next one that could be applied here."""
        if tunnel.public:
            accepts = tunnel.accepts if tunnel.plan and not tunnel.refused else None
            names = {next_key.NEXT: tunnel.next_key, next_key.ACCEPTS: accepts}
            tunnel.public = {**tunnel.public, **{name: key for name, key in names.items() if key}}


def _ran(state: State) -> Public:
    """The public half of what runs, as far as a state has it."""
    found = {"public_key": state["public_key"], "fingerprint": state["applied"].get("fingerprint")}
    return {name: text for name, text in found.items() if text}


def keep(protocol: Protocol, state: State | None) -> tuple[Public | None, bool]:
    """``(half, changed)``: of a key that runs, and whose file is lost or can't be used. The half is None where
    what runs has no key. ``changed``: whether files are (in check mode, would be) written.

    Its file is written again. Where that can't be done, the next key is made, to which both ends switch later. Where
    only what belongs to the key is lost, the key stays.
    """
    name = state["interface"] if state else None
    if state is None or name is None:
        return None, False
    uuid, ran = state["uuid"], _ran(state)
    found = protocol.put_back(uuid, name, [ran["public_key"]] if ran.get("public_key") else [])
    if found:
        return protocol.completed(uuid, {"public_key": found}), True
    if not protocol.holds_key(name):
        return None, False
    own = None
    with contextlib.suppress(BrokenKey):
        own = protocol.read_key(uuid, FILE) if HAS_CRYPTOGRAPHY and protocol.has_key(uuid) else None
    if own:
        made = protocol.make_rest(uuid)
        return protocol.completed(uuid, {**ran, "public_key": own}), made
    if not protocol.completed(uuid, ran):
        return None, False
    following = protocol.load_next(uuid)
    changed = following is None or protocol.has_key(uuid)
    if not protocol.host.check:
        following = following or protocol.make_next(uuid)
        remove(protocol.key_path(uuid))
    half = not_none(protocol.completed(uuid, ran), "it was complete")
    return {**half, **({next_key.NEXT: following} if following else {})}, changed
