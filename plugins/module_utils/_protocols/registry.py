# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The protocols that this version can set up."""

from __future__ import annotations

from .base import Protocol


def _wireguard() -> type[Protocol]:
    from .wireguard.protocol import WireGuard

    return WireGuard


def _openvpn() -> type[Protocol]:
    from .openvpn.protocol import OpenVPN

    return OpenVPN


def _ipsec() -> type[Protocol]:
    from .ipsec.protocol import IPsec

    return IPsec


_BY_TYPE = {"wireguard": _wireguard, "openvpn": _openvpn, "ipsec": _ipsec}
TYPES = tuple(_BY_TYPE)


def protocol(kind: str) -> type[Protocol]:
    """The protocol of a type. It is imported now: a host rarely has all of them, and each costs its libraries."""
    return _BY_TYPE[kind]()
