# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Static X25519 keys, as WireGuard writes them: base64 of 32 bytes."""

from __future__ import annotations

import base64
import binascii
import hashlib
import importlib.util
import os

from .._errors import Error
from .._model import symptoms
from .._node import files

#: Whether there is the library. It is imported only where a key is made or read: that takes longer than the rest of a
#: run that finds nothing to do.
HAS_CRYPTOGRAPHY = importlib.util.find_spec("cryptography") is not None
FILE = "private.key"
NEXT = "private.next"  # will be used once both ends know it


class BrokenKey(Error):
    """A private key that is not valid. Its text never holds what was read."""

    symptom = symptoms.KEYS


def generate() -> str:
    """A new private key."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    raw = X25519PrivateKey.generate().private_bytes(
        serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
    )
    return base64.b64encode(raw).decode("ascii")


def public_key(private: str) -> str:
    """The public key of ``private``. Raises BrokenKey without its place: callers know it."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    try:
        raw = base64.b64decode(private.strip().encode("ascii"), validate=True)
    except (binascii.Error, ValueError, UnicodeError):
        raise BrokenKey("it is not base64") from None
    if len(raw) != 32:
        raise BrokenKey("it holds %d bytes instead of 32" % len(raw))
    if not any(raw):
        raise BrokenKey("it is all zero")
    public = X25519PrivateKey.from_private_bytes(raw).public_key()
    return base64.b64encode(public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)).decode(
        "ascii"
    )


def fingerprint(public: str) -> str:
    """What a diff shows of a public key."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(base64.b64decode(public)).digest()).decode("ascii").rstrip("=")


def load(folder: str, name: str = FILE) -> tuple[str, str] | tuple[None, None]:
    """``(private, public)`` of a key in ``folder``, ``(None, None)`` where there is none. Raises BrokenKey."""
    path = os.path.join(folder, name)
    text = files.read(path)
    if text is None:
        return None, None
    try:
        return text.strip(), public_key(text)
    except BrokenKey as error:
        raise BrokenKey(
            "The private key in %s can't be used: %s. Put the right one back, or make a new one with tunnel_keys and "
            "regenerate: if_invalid (the other end then needs a run too)." % (path, error)
        ) from None


def make(folder: str, name: str = FILE) -> tuple[str, str]:
    """Writes a new private key into ``folder``, in place of one that may be there; ``(private, public)``."""
    private = generate()
    files.write(os.path.join(folder, name), private + "\n")
    return private, public_key(private)
