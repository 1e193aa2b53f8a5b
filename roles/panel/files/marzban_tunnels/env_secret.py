# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""What a secret in the panel's environment has to be. Pure; no sentence has the secret in it."""

from __future__ import annotations

SHORTEST = 32  # characters
MAKE = "make one with: openssl rand -hex 32"
_EXAMPLES = ("your-secret-key",)  # what instructions have in its place


def problem(value: str) -> str | None:
    """Why this value can't be used as a secret; None where it can."""
    if not value.strip():
        return "it is empty"
    if value.strip().lower() in _EXAMPLES:
        return "it is the example of some instructions, which everybody knows"
    if len(value.strip()) < SHORTEST:
        return f"it has {len(value.strip())} characters and needs at least {SHORTEST}"
    return None
