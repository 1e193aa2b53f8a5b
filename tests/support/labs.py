# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Names of the tests' labs: two checkouts on one machine can be tested at the same time."""

from __future__ import annotations

import hashlib
from pathlib import Path

CHECKOUT = hashlib.sha256(str(Path(__file__).resolve()).encode()).hexdigest()[:4]


def named(name: str) -> str:
    """The name of this checkout's lab for ``name``."""
    return f"test-{name}-{CHECKOUT}"
