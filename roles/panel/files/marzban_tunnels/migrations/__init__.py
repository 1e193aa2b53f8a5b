# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Two Alembic trees: ``tunnels`` (both doors) and ``standalone`` (our own door's nodes and admins)."""
