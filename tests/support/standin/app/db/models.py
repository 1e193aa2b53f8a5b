# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Part of the stand-in (see config.py): where Marzban has its node."""

from __future__ import annotations

from marzban_tunnels.standalone.tables import Node

__all__ = ["Node"]
