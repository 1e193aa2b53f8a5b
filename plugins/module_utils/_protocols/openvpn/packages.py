# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The packages that OpenVPN's tunnels need beside those of all types, which are in ``_node.packages``.

No package brings the capability openvpn-2.6, which an upgrade does.

Tried on real hosts: Debian 12, 13 and testing; the refusal on Debian 11, whose OpenVPN is 2.5. Not tried: Ubuntu 24.04
(as Debian), the RedHat family 9 (with EPEL). Ubuntu 22.04 has 2.5, too.
"""

from __future__ import annotations

from ..._node.packages import Packages

PACKAGES = Packages(
    by_family={"Debian": {"openvpn": "openvpn"}, "RedHat": {"openvpn": "openvpn"}},
    lacking={"bullseye": ["openvpn"], "jammy": ["openvpn"]},
    hint="OpenVPN 2.6 or newer is needed (Debian 12, Ubuntu 24.04): upgrade the host, or choose another type.",
)
