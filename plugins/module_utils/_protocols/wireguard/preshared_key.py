# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The pre-shared key of a WireGuard tunnel: made by its source, sealed there for the target, known by its fingerprint.

``preshared.key`` in the tunnel's folder holds it in base64, ``preshared.sealed`` what is to be handed to the peer, and
``preshared.for``, at the source, the public key of the peer that it was made for: with another key, the peer may be
another machine. It is used once each end has published the same fingerprint.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from typing import Any

from ..._errors import Error
from ..._node import files
from .. import x25519
from .conf import preshared_fingerprint as fingerprint

FILE = "preshared.key"
SEALED = "preshared.sealed"
PEER = "preshared.for"
LENGTH = 32  # bytes


def load(folder: str) -> tuple[str, str] | tuple[None, None]:
    """``(key, fingerprint)`` of the key in ``folder``, ``(None, None)`` where no key can be used."""
    text = files.read(os.path.join(folder, FILE))
    found = fingerprint(text) if text else None
    return (text.strip(), found) if text and found else (None, None)


def make(folder: str, peer_public: str) -> str | None:
    """Writes a new key in place of one that may be there; its fingerprint."""
    made = _store(folder, os.urandom(LENGTH))
    files.write(os.path.join(folder, PEER), peer_public + "\n")  # last: without it a new key is made, with it none
    return made


def made_for(folder: str) -> str | None:
    """The peer's public key that the key was made for; None where a version before 0.3.0, or the peer, made it."""
    return (files.read(os.path.join(folder, PEER)) or "").strip() or None


def put_back(folder: str, key: str, peer_public: str) -> None:
    """Writes the key again that the tunnel to ``peer_public`` runs with."""
    files.write(os.path.join(folder, FILE), key + "\n")
    files.write(os.path.join(folder, PEER), peer_public + "\n")


def follow(folder: str, peer_public: str) -> None:
    """The key stays: the same peer has another public key, as both ends agreed."""
    files.write(os.path.join(folder, PEER), peer_public + "\n")


def _store(folder: str, raw: bytes) -> str | None:
    text = base64.b64encode(raw).decode("ascii")
    files.write(os.path.join(folder, FILE), text + "\n")
    return fingerprint(text)


def drop(folder: str) -> None:
    """Removes the key, and what was sealed of it."""
    for name in (FILE, SEALED, PEER):
        files.remove(os.path.join(folder, name))


def offer(folder: str, uuid: str, public: str, peer_public: str) -> None:
    """Seals the key with the private half of ``public`` for ``peer_public``, unless that was done already."""
    key, found = load(folder)
    about = {"by": public, "for": peer_public, "fingerprint": found}
    before = _offered(folder)
    if {name: before.get(name) for name in about} == about:
        return
    private = x25519.load(folder)[0]
    if key is None or private is None:
        raise Error("%s holds no pre-shared key that can be handed over: run the playbook again." % folder)
    from .. import sealing  # cryptography, which most runs don't need

    sealed = sealing.seal(base64.b64decode(key), private, peer_public, uuid)
    files.write(os.path.join(folder, SEALED), json.dumps(dict(about, sealed=sealed)) + "\n")


def offered(folder: str) -> str | None:
    """What is to be handed to the peer, or None."""
    return _offered(folder).get("sealed")


def _offered(folder: str) -> dict[str, Any]:
    try:
        found = json.loads(files.read(os.path.join(folder, SEALED)) or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def withdraw(folder: str) -> None:
    """The peer has it."""
    files.remove(os.path.join(folder, SEALED))


def take(folder: str, uuid: str, sealed: str, peer_public: str, expected: str | None) -> str | None:
    """Stores what the peer sealed, which has to be the key with the fingerprint ``expected``. Raises Error."""
    private = x25519.load(folder)[0]
    if private is None:
        raise Error("%s holds no private key: run the playbook again." % folder)
    from .. import sealing

    raw = sealing.unseal(sealed, private, peer_public, uuid)
    if len(raw) != LENGTH or hashlib.sha256(raw).hexdigest() != expected:
        raise Error("The pre-shared key from the other end is not the one that it published: run the playbook again.")
    return _store(folder, raw)
