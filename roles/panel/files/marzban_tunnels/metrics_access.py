# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The key that reads the metrics, of this panel and of its nodes, and can do nothing else. Pure.

Only its hash is kept: that is what a node is given, and what a key that is shown is compared with.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from marzban_tunnels import env_secret, node_access

VARIABLE = "TUNNEL_METRICS_KEY"
LONGEST = 256  # characters; a node's service takes no longer one
_SENT = re.compile(r"[!-~]+\Z")  # what can be sent as a bearer's token
_SHOWN = re.compile(r"Bearer +([!-~]{1,4096}) *\Z", re.IGNORECASE)
_OFF = f"{VARIABLE} is not set in the panel's environment, so there are no metrics; {env_secret.MAKE}"


@dataclass(frozen=True)
class MetricsAccess:
    """What TUNNEL_METRICS_KEY was found to be. ``state`` is "key", "unset" or "unusable"; ``detail`` is a sentence
    unless there is a key, and ``hash`` the SHA-256 of the key, in hex."""

    state: str
    detail: str | None = None
    hash: str | None = field(default=None, repr=False)

    def opens(self, authorization: str | None) -> bool:
        """Whether this is the key, as a header has it. How long this takes says nothing about the key."""
        shown = _SHOWN.match(authorization or "")
        found = hashlib.sha256((shown[1] if shown else "").encode()).hexdigest()
        return hmac.compare_digest(found, self.hash or "") and shown is not None


def check_key(value: str | None, other: str | None = None) -> MetricsAccess:
    """What can be done with this value of TUNNEL_METRICS_KEY; None: it is not set. ``other``: that of NODE_API_KEY."""
    if value is None:
        return MetricsAccess("unset", _OFF)
    key = value.strip()
    wrong = env_secret.problem(value)
    if not wrong and (len(key) > LONGEST or not _SENT.match(key)):
        wrong = f"it has spaces or other signs that can't be sent, or more than {LONGEST} characters"
    if not wrong and hmac.compare_digest(key.encode(), (other or "").strip().encode("utf-8", "surrogateescape")):
        wrong = f"it is the same as {node_access.VARIABLE}, which changes nodes, and Prometheus must not have that"
    if wrong:
        return MetricsAccess("unusable", f"{VARIABLE} can't be used: {wrong}. There are no metrics; {env_secret.MAKE}")
    return MetricsAccess("key", None, hashlib.sha256(key.encode()).hexdigest())


def from_env(environ: Mapping[str, str]) -> MetricsAccess:
    """The same, out of the panel's environment."""
    return check_key(environ.get(VARIABLE), environ.get(node_access.VARIABLE))
