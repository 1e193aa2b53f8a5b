# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The packages that WireGuard's tunnels need beside those of all types, which are in ``_node.packages``.

Tried on real hosts: Debian 11 (with a kernel that has WireGuard, as its own does), 12, 13 and testing. Not tried:
Ubuntu 22.04 and 24.04 (as Debian), the RedHat family 9.
"""

from __future__ import annotations

from ..._node.packages import Packages

PACKAGES = Packages(
    by_family={
        "Debian": {"wireguard-tools": "wireguard-tools", "wireguard-go": "wireguard-go"},
        "RedHat": {"wireguard-tools": "wireguard-tools"},
    },
    lacking={"bullseye": ["wireguard-go"]},
    hint="Use a kernel with WireGuard (Linux 5.6 or newer), or put the program on the PATH by hand.",
)
