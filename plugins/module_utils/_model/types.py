# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What differs between the types of tunnels, in one table. Pure."""

from __future__ import annotations

from typing import NamedTuple


class PublicField(NamedTuple):
    """One field of a public half. ``kind``: ``x25519`` or ``ed25519`` (a key in base64), or ``sha256`` (hex digits)."""

    name: str
    kind: str
    required: bool = True


def _keys(kind: str) -> tuple[PublicField, ...]:
    """Of every type: the key, the one that will take its place, and the peer's next one that this end has seen."""
    following = [PublicField(name, kind, required=False) for name in ("next_public_key", "accepts_public_key")]
    return (PublicField("public_key", kind), *following)


class TunnelType(NamedTuple):
    """What is known about a type of tunnels without running it; how it runs is in ``_protocols``."""

    title: str  # how a person calls it
    role: str  # of this collection: installs the type's packages, holds its template
    template: str  # a file in that role's folder of templates
    transports: tuple[str, ...]
    public: tuple[PublicField, ...]
    # What a template sees as ``node.*``: values that only the node knows
    node_values: tuple[str, ...]
    # UDP ports where one process speaks for all tunnels of this type on a node; the first one is the ``port`` of every
    # end. Empty where each end has a port for itself.
    shared_ports: tuple[int, ...] = ()


BY_TYPE: dict[str, TunnelType] = {
    "wireguard": TunnelType(
        title="WireGuard",
        role="wireguard",
        template="wg-quick.conf.j2",
        transports=("udp",),
        public=(*_keys("x25519"), PublicField("psk_fingerprint", "sha256", required=False)),
        node_values=("dir", "mtu", "peer_public_key", "preshared_key"),
    ),
    "openvpn": TunnelType(
        title="OpenVPN",
        role="openvpn",
        template="openvpn.conf.j2",
        transports=("udp", "tcp"),
        public=(
            *_keys("x25519"),
            PublicField("fingerprint", "sha256"),
            PublicField("next_fingerprint", "sha256", required=False),
            PublicField("accepts", "sha256", required=False),
        ),
        node_values=("dir", "mtu", "family", "peer_fingerprints", "tls_groups"),
    ),
    "ipsec": TunnelType(
        title="IPsec",
        role="strongswan",
        template="swanctl.conf.j2",
        transports=("udp",),
        public=_keys("ed25519"),
        node_values=(
            *("dir", "mtu", "public_key", "peer_public_key", "proposals", "esp_proposals"),
            *("local_ts", "remote_ts", "if_id"),
        ),
        shared_ports=(4500, 500),  # RFC 3948 and RFC 7296: ESP in UDP, and where IKE begins
    ),
}
TYPES = tuple(BY_TYPE)
DEFAULT_TYPE = "wireguard"  # of a tunnel that is declared without one
