# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The private half of one end: ``private.key`` in the tunnel's folder, and ``private.next``, which will take its place.

A key that runs is not replaced before panel and peer have the next one. Where its file is lost or damaged, it is put
back from what runs. Where that is not possible, the daemon goes on with the key that it alone holds, until both ends
switch to the next one (``_model.next_key``).
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Collection

from .._node import files as node_files
from .._node import units as node_units
from .._node.host import Host
from .._node.state import Folders
from . import x25519

if TYPE_CHECKING:
    from .._model.shapes import Public

KEY_MADE = "key made"


class Keys:
    """What the protocols share: one static X25519 key."""

    host: Host
    folders: Folders

    def units(self, interface: str) -> list[str]:
        """All units that may run an interface; the first one for messages."""
        raise NotImplementedError

    # The present one

    def load_key(self, uuid: str) -> tuple[bool, Public | None]:
        """``(there, public half?)``; the half is None too where ``cryptography`` is missing. Raises BrokenKey."""
        if not self.has_key(uuid):
            return False, None
        public = self.read_key(uuid, x25519.FILE) if x25519.HAS_CRYPTOGRAPHY else None
        return True, {"public_key": public} if public else None

    def has_key(self, uuid: str) -> bool:
        """Whether there is a private half, or what may be one. An empty file has nothing that could be put right."""
        return bool((node_files.read(self.key_path(uuid)) or "").strip())

    def make_key(self, uuid: str) -> Public:
        """Makes a private half and answers the public one. A next one would come after a key that nobody has."""
        node_files.remove(self.folders.path(uuid, x25519.NEXT))
        return {"public_key": self.write_key(uuid, x25519.FILE)}

    def repair_key(self, uuid: str) -> Public:
        """Makes what there is not of it; the public half. What runs, if anything does, does not have it either.

        A next one is used at once: the peer may know it already.
        """
        public = self.use_next(uuid) if self.load_next(uuid) else None
        return public or self.make_key(uuid)

    def repair(self, uuid: str) -> str:
        """What ``repair_key`` does, for a person."""
        return KEY_MADE

    def key_path(self, uuid: str) -> str:
        """Where the private half is."""
        return self.folders.path(uuid, x25519.FILE)

    def fingerprint(self, public: Public) -> str:
        """What a diff shows of a public half."""
        return "public key %s" % x25519.fingerprint(public["public_key"])

    def read_key(self, uuid: str, name: str) -> str | None:
        """The public key of the private one in a file of the tunnel's folder, if there is one. Raises BrokenKey."""
        return x25519.load(self.folders.path(uuid), name)[1]

    def write_key(self, uuid: str, name: str) -> str:
        """Makes a private key in a file of the tunnel's folder; the public one."""
        return x25519.make(self.folders.path(uuid), name)[1]

    # One that only what runs has

    def put_back(self, uuid: str, interface: str, known: Collection[str]) -> str | None:
        """Writes ``private.key`` again from what runs ``interface``; the public key, or None where it can't be done.

        ``known``: the public key that state or panel have of this end; any will do where it is empty.
        """
        return None

    def holds_key(self, interface: str) -> bool:
        """Whether a process may still run with a key of which there is no file."""
        states = node_units.states(self.host, self.units(interface))
        return any(unit["active"] == "active" for unit in states.values())

    def completed(self, uuid: str, known: Public) -> Public | None:
        """The public half of a key that is not read from its file, out of what is known of it, and of the other files.

        ``known``: its fields as state or panel have them. None where that is too little.
        """
        return {"public_key": known["public_key"]} if known.get("public_key") else None

    # The next one

    def load_next(self, uuid: str) -> str | None:
        """The public key of the next one, or None. A broken one counts for nothing: nobody uses it yet."""
        if x25519.HAS_CRYPTOGRAPHY and node_files.read(self.folders.path(uuid, x25519.NEXT)):
            with contextlib.suppress(x25519.BrokenKey):
                return self.read_key(uuid, x25519.NEXT)
        return None

    def make_rest(self, uuid: str) -> bool:
        """Makes what belongs to a key that is there, and is lost; whether there was something to make."""
        return False

    def make_next(self, uuid: str) -> str:
        """Makes the next one; its public key."""
        return self.write_key(uuid, x25519.NEXT)

    def may_switch(self, uuid: str, peer: Public) -> bool:
        """Whether the peer, by its public half in the record, has all that it needs when this end uses the next one."""
        return True

    def use_next(self, uuid: str) -> Public | None:
        """From now on the next one is the present one; the public half."""
        node_files.rename(self.folders.path(uuid, x25519.NEXT), self.key_path(uuid))
        return self.load_key(uuid)[1]
