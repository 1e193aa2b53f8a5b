# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The keys by which this panel may change tunnels on nodes, out of one secret in the panel's environment. Pure.

A node holds the hashes of its own two keys. So what one node holds, or loses, is of no use on another.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field

from marzban_tunnels import env_secret

VARIABLE = "NODE_API_KEY"


@dataclass(frozen=True)
class Access:
    """What NODE_API_KEY was found to be. ``state`` is "key", "unset" or "unusable"; ``detail`` is a sentence unless
    there is a key."""

    state: str
    detail: str | None = None
    _secret: bytes = field(default=b"", repr=False)

    def key(self, panel_id: str, node_uuid: str, generation: int) -> str:
        """The access key of a node. Raises ValueError where there is no secret to make it of."""
        if not self._secret:
            raise ValueError(self.detail)
        info = f"marzban.tunnels node {node_uuid} {generation}".encode()
        return base64.urlsafe_b64encode(_hkdf(self._secret, panel_id.encode(), info)).rstrip(b"=").decode()

    def hashes(self, panel_id: str, node_uuid: str, generation: int) -> list[str]:
        """What the node is given: the SHA-256 of its key, and of the key of the next generation. Empty without a
        secret."""
        if not self._secret:
            return []
        keys = [self.key(panel_id, node_uuid, number) for number in (generation, generation + 1)]
        return [hashlib.sha256(key.encode()).hexdigest() for key in keys]


def check_key(value: str | None) -> Access:
    """What can be done with this value of NODE_API_KEY; None: it is not set. No sentence has the value in it."""
    if value is None:
        return Access("unset", f"{VARIABLE} is not set: the panel does not call the nodes; {env_secret.MAKE}")
    wrong = env_secret.problem(value)
    if wrong:
        return Access(
            "unusable", f"{VARIABLE} can't be used: {wrong}. The panel does not call the nodes; {env_secret.MAKE}"
        )
    return Access("key", None, value.encode("utf-8", "surrogateescape"))


def from_env(environ: Mapping[str, str]) -> Access:
    """The same, out of the panel's environment."""
    return check_key(environ.get(VARIABLE))


def _hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """HKDF-SHA256 (RFC 5869) of 32 bytes, which is one block."""
    return hmac.digest(hmac.digest(salt, secret, "sha256"), info + b"\x01", "sha256")
