# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The manager: it compares what each end of a tunnel should be with what each node says, and does what differs."""
