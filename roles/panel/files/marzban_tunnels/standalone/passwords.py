# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Passwords, kept as scrypt hashes."""

from __future__ import annotations

import hashlib
import hmac
import secrets

_N, _R, _P = 2**14, 8, 1  # 16 MiB, about 50 ms


def hash_password(password: str) -> str:
    """A hash with its salt and costs in it."""
    salt = secrets.token_bytes(16)
    return f"scrypt${_N}${_R}${_P}${salt.hex()}${_derive(password, salt, _N, _R, _P).hex()}"


def matches(password: str, stored: str) -> bool:
    """Whether the password is the one behind the hash."""
    _scheme, n, r, p, salt, digest = stored.split("$")
    return hmac.compare_digest(_derive(password, bytes.fromhex(salt), int(n), int(r), int(p)), bytes.fromhex(digest))


def waste_time(password: str) -> None:
    """As long as ``matches``: an unknown user name must not answer sooner."""
    _derive(password, bytes(16), _N, _R, _P)


def _derive(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, dklen=32)
