# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The standalone door: admins, nodes and a database of our own, answering as Marzban does."""
