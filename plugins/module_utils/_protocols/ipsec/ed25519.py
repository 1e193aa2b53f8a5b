# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ed25519 keys of IPsec ends: PKCS #8 in PEM here, and base64 of a SubjectPublicKeyInfo in DER for the peer."""

from __future__ import annotations

import base64
import os

from ..._node import files
from ..x25519 import FILE, BrokenKey

try:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
except ImportError:  # the module says that it is missing
    pass


def make(folder: str, name: str = FILE) -> str:
    """Writes a new private key into ``folder``, in place of one that may be there; the public one."""
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    files.write(os.path.join(folder, name), pem.decode("ascii"))
    return _public(key)


def load(folder: str, name: str = FILE) -> str:
    """The public key of a private one in ``folder``. Raises BrokenKey, whose text never holds what was read."""
    path = os.path.join(folder, name)
    try:
        return _read(files.read(path) or "")
    except BrokenKey as error:
        raise BrokenKey(
            "The private key in %s can't be used: %s. Put the right one back, or make a new one with tunnel_keys and "
            "regenerate: if_invalid (the other end then needs a run too)." % (path, error)
        ) from None


def public_key(text: str) -> str | None:
    """The public key of a private one in PEM, or None where ``text`` is not one."""
    try:
        return _read(text)
    except BrokenKey:
        return None


def _read(text: str) -> str:
    try:
        key = serialization.load_pem_private_key(text.encode("utf-8"), password=None)
    except TypeError:
        raise BrokenKey("it has a passphrase") from None
    except (ValueError, UnsupportedAlgorithm):
        raise BrokenKey("it is not a private key in PEM") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise BrokenKey("it is not an Ed25519 key")
    return _public(key)


def _public(key: Ed25519PrivateKey) -> str:
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    return base64.b64encode(key.public_key().public_bytes(serialization.Encoding.DER, spki)).decode("ascii")
