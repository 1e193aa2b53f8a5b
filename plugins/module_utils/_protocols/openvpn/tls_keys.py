# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""OpenVPN's keys: the static one, from which the handshake's wrap key is derived, and one of TLS with its certificate.

Where only the certificate is lost, the static key stays: the certificate is replaced like one that ends soon.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..._errors import not_none
from ..._node import files as node_files
from .. import keys, x25519
from . import certificate

if TYPE_CHECKING:
    from ..._model.shapes import Public


class TlsKeys(keys.Keys):
    """Both keys; the certificate's fingerprint is in the public half."""

    def load_key(self, uuid: str) -> tuple[bool, Public | None]:
        """``(there, public half?)``; the half is None too where ``cryptography`` is missing. Raises BrokenKey."""
        there, public = super().load_key(uuid)
        if public is None:
            return there, None
        if certificate.load(self.folders.path(uuid)) is None:
            hint = "%s is missing: put it back, or make new keys with tunnel_keys and regenerate: if_invalid."
            raise x25519.BrokenKey(hint % self.folders.path(uuid, certificate.FILE))
        return there, self.completed(uuid, public)

    def make_key(self, uuid: str) -> Public:
        """Makes a private half and answers the public one. The static key comes last: with it all are there."""
        folder = self.folders.path(uuid)
        node_files.remove(os.path.join(folder, certificate.NEXT))
        certificate.make(folder)
        public = super().make_key(uuid)
        return not_none(self.completed(uuid, public), "its certificate was made")

    def repair_key(self, uuid: str) -> Public:
        """Where the static key is there, makes only the certificate, or uses the next one, which the peer may know."""
        folder, own = self.folders.path(uuid), self.read_key(uuid, x25519.FILE) if self.has_key(uuid) else None
        if own is None:
            return super().repair_key(uuid)
        if certificate.usable(folder, certificate.NEXT) is None:
            certificate.make(folder, certificate.NEXT)
        certificate.switch(folder)
        return not_none(self.completed(uuid, {"public_key": own}), "its certificate was made")

    def repair(self, uuid: str) -> str:
        """What ``repair_key`` does, for a person."""
        if not self.has_key(uuid):
            return super().repair(uuid)
        following = certificate.usable(self.folders.path(uuid), certificate.NEXT)
        return "certificate switched" if following else "certificate made"

    def completed(self, uuid: str, known: Public) -> Public | None:
        """With the certificate in use, which is the one in the file where there is one, and the next one."""
        folder = self.folders.path(uuid)
        used = certificate.usable(folder)
        fingerprint = used.fingerprint if used else known.get("fingerprint")
        public = super().completed(uuid, known)
        if public is None or fingerprint is None:
            return None
        following = certificate.usable(folder, certificate.NEXT)
        return dict(
            public, fingerprint=fingerprint, **({"next_fingerprint": following.fingerprint} if following else {})
        )

    def make_rest(self, uuid: str) -> bool:
        """The next certificate, where the one in use is lost; whether it was lacking."""
        folder = self.folders.path(uuid)
        lacks = certificate.usable(folder) is None and certificate.usable(folder, certificate.NEXT) is None
        if lacks and not self.host.check:
            certificate.make(folder, certificate.NEXT)
        return lacks

    def make_next(self, uuid: str) -> str:
        """Makes the next static key, and the next certificate where the one in use is lost."""
        self.make_rest(uuid)
        return super().make_next(uuid)

    def may_switch(self, uuid: str, peer: Public) -> bool:
        """Where the certificate in use is lost, the process can't be started again before the peer lets in the next."""
        folder = self.folders.path(uuid)
        if certificate.usable(folder):
            return True
        following = certificate.usable(folder, certificate.NEXT)
        return following is not None and peer.get("accepts") == following.fingerprint

    def use_next(self, uuid: str) -> Public | None:
        """From now on the next one is the present one, with a certificate; the public half."""
        folder = self.folders.path(uuid)
        if certificate.usable(folder) is None:
            if certificate.usable(folder, certificate.NEXT) is None:
                certificate.make(folder, certificate.NEXT)
            certificate.switch(folder)
        return super().use_next(uuid)

    def fingerprint(self, public: Public) -> str:
        """What a diff shows of a public half."""
        return "%s, certificate %s" % (super().fingerprint(public), public["fingerprint"])
