# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The key that wraps OpenVPN's handshake (tls-crypt): both ends derive it from their X25519 keys; it never travels."""

from __future__ import annotations

from .. import sealing

FILE = "wrap.key"
LENGTH = 256  # bytes of OpenVPN's static keys
_HEAD, _FOOT = "-----BEGIN OpenVPN Static key V1-----", "-----END OpenVPN Static key V1-----"


def derive(private: str, peer_public: str, uuid: str) -> str:
    """The text of the key file of the tunnel ``uuid``, the same at both ends. Raises Error on an invalid key."""
    raw = sealing.derive(sealing.shared(private, peer_public), uuid, "marzban.tunnels tls-crypt", LENGTH).hex()
    return "\n".join([_HEAD, *(raw[place : place + 32] for place in range(0, len(raw), 32)), _FOOT]) + "\n"
