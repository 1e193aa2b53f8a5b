# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The protocols that this version can set up."""

from __future__ import annotations

from .ipsec.protocol import IPsec
from .openvpn.protocol import OpenVPN
from .wireguard.protocol import WireGuard

PROTOCOLS = {one.name: one for one in (WireGuard, OpenVPN, IPsec)}
