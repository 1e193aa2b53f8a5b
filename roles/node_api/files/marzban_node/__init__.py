# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The node service: the front (HTTPS, no right to anything) and the root half (the engine, a Unix socket)."""
