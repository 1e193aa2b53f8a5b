# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""What a public half is known by. Pure. A half may come out of a row that somebody else wrote: nothing raises."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any


def fingerprint(half: Mapping[str, Any] | None) -> str | None:
    """The fingerprint of all by which this end proves who it is: its key, and its certificate where it has one. In the
    words of a run's diff. None where there is no key."""
    key, certificate = ((half or {}).get(name) for name in ("public_key", "fingerprint"))
    if not isinstance(key, str):
        return None
    try:
        raw = base64.b64decode(key, validate=True)
    except ValueError:
        raw = key.encode(errors="replace")
    text = "SHA256:" + base64.b64encode(hashlib.sha256(raw).digest()).decode().rstrip("=")
    return f"{text}, certificate {certificate}" if certificate else text


def differ(known: Mapping[str, Any] | None, seen: Mapping[str, Any] | None) -> bool:
    """Whether these halves of an end prove different things. What they have besides (a next key) does not count."""
    return known != seen and fingerprint(known) != fingerprint(seen)
