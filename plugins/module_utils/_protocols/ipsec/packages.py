# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The packages that IPsec's tunnels need beside those of all types, which are in ``_node.packages``.

Tried on real hosts: Debian 11, 12, 13 and testing. Not tried: Ubuntu 22.04 and 24.04 (as Debian), the RedHat family 9
(with EPEL, whose strongswan holds all of it).
"""

from __future__ import annotations

from ..._node.packages import Packages

PACKAGES = Packages(
    by_family={
        "Debian": {
            "strongswan": "charon-systemd",
            "swanctl": "strongswan-swanctl",
            "strongswan-openssl": "libstrongswan-standard-plugins",
            "kernel-libipsec": "libcharon-extra-plugins",
        },
        "RedHat": {
            "strongswan": "strongswan",
            "swanctl": "strongswan",
            "strongswan-openssl": "strongswan",
            "kernel-libipsec": "strongswan-libipsec",
        },
    },
    lacking={},
    hint="Use a kernel with ESP and XFRM interfaces (Linux 4.19 or newer).",
)
