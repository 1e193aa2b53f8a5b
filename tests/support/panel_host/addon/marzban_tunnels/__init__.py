# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A STAND-IN for the add-on's package."""

PANEL = "0d1f3b52-7c9e-4c8e-9b0f-3a2d5e6f7a81"
