# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""What an operator may set for the allocation of addresses and ports."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

# 6d7a is "mz". A fixed prefix, so that an operator recognises it; with two panels over the same nodes, an operator
# gives each a prefix of its own.
DEFAULT_IPV4_POOL = "10.201.0.0/16"
DEFAULT_IPV6_POOL = "fd6d:7a00::/64"
DEFAULT_PORT_RANGE = "20000-32767"
# The shortest and the longest prefix of each pool
IPV4_PREFIXES = (8, 29)
IPV6_PREFIXES = (32, 124)


@dataclass(frozen=True)
class Settings:
    """Pools that tunnels get their /31 and /127 from, and the first and last port (both included)."""

    ipv4_pool: IPv4Network
    ipv6_pool: IPv6Network
    first_port: int
    last_port: int

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Read TUNNEL_IPV4_POOL, TUNNEL_IPV6_POOL and TUNNEL_PORT_RANGE. Raises ValueError with a sentence."""
        try:
            ipv4 = IPv4Network(environ.get("TUNNEL_IPV4_POOL", DEFAULT_IPV4_POOL))
            _check_prefix(ipv4, *IPV4_PREFIXES)
        except ValueError as error:
            raise ValueError(f"TUNNEL_IPV4_POOL: {error}; give a network such as {DEFAULT_IPV4_POOL}") from None
        try:
            ipv6 = IPv6Network(environ.get("TUNNEL_IPV6_POOL", DEFAULT_IPV6_POOL))
            _check_prefix(ipv6, *IPV6_PREFIXES)
        except ValueError as error:
            raise ValueError(f"TUNNEL_IPV6_POOL: {error}; give a network such as {DEFAULT_IPV6_POOL}") from None
        text = environ.get("TUNNEL_PORT_RANGE", DEFAULT_PORT_RANGE)
        found = re.fullmatch("([0-9]{1,5})-([0-9]{1,5})", text)
        first, last = (int(port) for port in found.groups()) if found else (0, 0)
        if not 1 <= first <= last <= 65535:
            raise ValueError(f"TUNNEL_PORT_RANGE: {text!r} is not a port range; give one such as {DEFAULT_PORT_RANGE}")
        return cls(ipv4, ipv6, first, last)


def _check_prefix(pool: IPv4Network | IPv6Network, shortest: int, longest: int) -> None:
    if not shortest <= pool.prefixlen <= longest:
        raise ValueError(f"{pool} is not between /{shortest} and /{longest}")
