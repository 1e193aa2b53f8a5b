# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A STAND-IN for Marzban, as main.py beside it tells."""

from __future__ import annotations

__version__ = "0.8.4"

# path: (status, headers, JSON)
routes: dict[str, tuple[int, dict[str, str], object]] = {
    "/api/admin": (401, {}, {"detail": "Not authenticated"}),
}
