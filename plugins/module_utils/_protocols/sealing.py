# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sealing a secret of one node for another, so that only ciphertext passes between them.

Both have a static X25519 key. A fresh one is mixed in for each sealing; the static of the sender makes sure that nobody
else can have sealed it. The ciphertext is bound to ``context``, a text that both know.
"""

from __future__ import annotations

import base64
import binascii

from .._errors import Error

try:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
except ImportError:  # what is missing is said before anything is sealed
    pass

# The rest of cryptography is imported where it is used: most runs seal nothing.


_NONCE = bytes(12)  # each key serves once
_LENGTH = 32  # bytes of a public key


def shared(private: str, public: str) -> bytes:
    """The X25519 secret of a private and a public key, both in base64: bytes. Raises Error on a key that has none."""
    own = X25519PrivateKey.from_private_bytes(base64.b64decode(private))
    try:
        return own.exchange(X25519PublicKey.from_public_bytes(base64.b64decode(public)))
    except ValueError:
        raise Error("The public key of the other end can't be used: let it make a new one.") from None


def derive(secret: bytes, salt: str, info: str, length: int) -> bytes:
    """``length`` bytes of HKDF-SHA256. ``salt`` and ``info`` are texts."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(hashes.SHA256(), length, salt.encode("utf-8"), info.encode("utf-8")).derive(secret)


def _key(secret: bytes, context: str, once: bytes) -> bytes:
    return derive(secret, context, "marzban.tunnels seal " + base64.b64encode(once).decode("ascii"), 32)


def seal(plain: bytes, private: str, peer_public: str, context: str) -> str:
    """``plain`` for the holder of ``peer_public``, as base64."""
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    once = X25519PrivateKey.generate()
    raw = once.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    theirs = X25519PublicKey.from_public_bytes(base64.b64decode(peer_public))
    key = _key(once.exchange(theirs) + shared(private, peer_public), context, raw)
    sealed = raw + ChaCha20Poly1305(key).encrypt(_NONCE, plain, context.encode("utf-8"))
    return base64.b64encode(sealed).decode("ascii")


def unseal(sealed: str, private: str, peer_public: str, context: str) -> bytes:
    """What ``peer_public`` sealed for ``private``. Raises Error, which shows nothing of either."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    try:
        raw = base64.b64decode(sealed.encode("ascii"), validate=True)
        once = X25519PublicKey.from_public_bytes(raw[:_LENGTH])
        own = X25519PrivateKey.from_private_bytes(base64.b64decode(private))
        key = _key(own.exchange(once) + shared(private, peer_public), context, raw[:_LENGTH])
        return ChaCha20Poly1305(key).decrypt(_NONCE, raw[_LENGTH:], context.encode("utf-8"))
    except (binascii.Error, ValueError, UnicodeError, InvalidTag):
        raise Error("What the other end sealed for this one can't be opened: run the playbook again.") from None
