# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The node service: a front that faces the network, and a root half that holds the engine."""
