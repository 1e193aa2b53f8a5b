# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Hands out addresses, ports and interfaces, and refuses what is taken.

Runs inside a write transaction of ``Tunnels`` (writes come one after the other); the tables' unique constraints are
the second guard. What was given back is used again as late as possible: a cursor per kind moves on with each
allocation.

What each create asks is made once, and over tables instead of classes: SQLAlchemy takes longer to make a statement
than a database to answer it (0.18 and 0.02 ms).
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_interface
from typing import Any

from sqlalchemy import ColumnElement, and_, bindparam, or_, select
from sqlalchemy.orm import Session

from marzban_tunnels.errors import Refused, say
from marzban_tunnels.settings import Settings
from marzban_tunnels.tables import ADDRESSES, ENDS, TUNNELS, Panel, Tunnel
from marzban_tunnels.tunnel_config import IPSEC_PORTS, ROLES, TunnelConfig

_MAPPED = 0xFFFF << 32  # ::ffff:0:0/96
_PORT = select(ENDS.c.port).where(ENDS.c.node_id == bindparam("node"), ENDS.c.port == bindparam("port"))
# Networks that overlap are the same, or one contains the other. So what overlaps begins inside, or begins where a wider
# network around this one would. Both are few places in the index of ``first``; a comparison of ``first`` and ``last``
# alone would look at half of all rows, in each create.
_OVERLAPS = or_(
    ADDRESSES.c.first.between(bindparam("first"), bindparam("last")),
    and_(ADDRESSES.c.first.in_(bindparam("wider", expanding=True)), ADDRESSES.c.last >= bindparam("last")),
)
OVERLAPPING = select(ADDRESSES.c.host).where(_OVERLAPS).limit(1)
_OVERLAPPED = (
    select(ADDRESSES.c.address, TUNNELS.c.id, TUNNELS.c.name)
    .join_from(ADDRESSES, TUNNELS, TUNNELS.c.id == ADDRESSES.c.tunnel_id)
    .where(_OVERLAPS)
    .limit(1)
)


@dataclass(frozen=True)
class Node:
    """A node as the allocator needs it."""

    id: int
    name: str


@dataclass(frozen=True)
class Held:
    """What an end had before an update: kept where the operator chose nothing, then or now."""

    port: int
    addresses: list[str]


@dataclass(frozen=True)
class Given:
    """What an end gets. IPsec has no port for itself: an end of it gets a number that no port has."""

    port: int
    interface: str
    addresses: list[str]


def address_row(tunnel_id: int, role: str, position: int, text: str) -> dict[str, Any]:
    """The row of one address."""
    value = ip_interface(text)
    first, last = edges(value.network)
    return {
        "host": f"{_in_128_bits(value.ip):032x}",
        "tunnel_id": tunnel_id,
        "role": role,
        "position": position,
        "address": text,
        "first": f"{first:032x}",
        "last": f"{last:032x}",
    }


def _in_128_bits(address: IPv4Address | IPv6Address) -> int:
    return int(address) | _MAPPED if address.version == 4 else int(address)


def edges(network: IPv4Network | IPv6Network) -> tuple[int, int]:
    """Its first and last address, of 128 bits."""
    return _in_128_bits(network[0]), _in_128_bits(network[-1])


def around(first: int, last: int) -> dict[str, Any]:
    """What OVERLAPPING wants to know about the network with these edges."""
    bits = (first ^ last).bit_length()
    wider = {first >> length << length for length in range(bits + 1, 129)}
    return {"first": f"{first:032x}", "last": f"{last:032x}", "wider": [f"{start:032x}" for start in sorted(wider)]}


def _number(text: str, version: int) -> int:
    value = int(text, 16)
    return value ^ _MAPPED if version == 4 else value


class Allocator:
    """Allocation for one tunnel; the tunnel's own former rows must be gone from the session's transaction."""

    def __init__(self, session: Session, settings: Settings, panel: Panel, tunnel: Tunnel) -> None:
        self._session = session
        self._settings = settings
        self._panel = panel
        self._tunnel = tunnel
        self._steps = 0  # how far the ports' cursor moves on

    def ends(
        self,
        nodes: dict[str, Node],
        config: TunnelConfig,
        before: dict[str, Held],
        chosen_before: TunnelConfig,
    ) -> dict[str, Given]:
        """What both ends get. Raises ``Refused``: 409 for what is taken, 422 for a reserved interface, 507 when a pool
        is used up. ``before`` is empty for a new tunnel."""
        ports = {role: self._port(role, nodes[role], config, before, chosen_before) for role in ROLES}
        self._panel.next_port += self._steps  # both ends looked from the same place: mostly they get the same number
        interfaces = {role: self._interface(role, nodes[role], config) for role in ROLES}
        addresses = self._addresses(config, before, chosen_before)
        return {role: Given(ports[role], interfaces[role], addresses[role]) for role in ROLES}

    def _port(
        self, role: str, node: Node, config: TunnelConfig, before: dict[str, Held], chosen_before: TunnelConfig
    ) -> int:
        if self._tunnel.tunnel_type == "ipsec":
            self._refuse_ipsec_beside_others(role, node)
            return -self._tunnel.id
        chosen = config.end(role).port
        if chosen is not None:
            owner = self._owner(ENDS.c.node_id == node.id, ENDS.c.port == chosen)
            if chosen in IPSEC_PORTS:
                owner = owner or self._owner(ENDS.c.node_id == node.id, TUNNELS.c.tunnel_type == "ipsec")
            if owner:
                raise Refused(
                    409,
                    say(
                        "port_taken",
                        '{port} on node "{node}" is taken by tunnel {owner};'
                        " choose another, or leave it out to get a free one",
                        port=chosen,
                        node=node.name,
                        owner=owner,
                    ),
                    f"config.{role}.port",
                )
            return chosen
        held = before.get(role)
        if held and held.port > 0 and chosen_before.end(role).port is None and self._port_free(node, held.port):
            return held.port
        return self._new_port(node)

    def _refuse_ipsec_beside_others(self, role: str, node: Node) -> None:
        owner = self._owner(ENDS.c.node_id == node.id, ENDS.c.port.in_(IPSEC_PORTS), TUNNELS.c.tunnel_type != "ipsec")
        if owner:
            raise Refused(
                409,
                say(
                    "ipsec_ports_taken",
                    'IPsec needs 500 and 4500 on node "{node}", and tunnel {owner} has one of them;'
                    " choose another for that tunnel",
                    node=node.name,
                    owner=owner,
                ),
                f"config.{role}.port",
            )

    def _port_free(self, node: Node, port: int) -> bool:
        return port not in IPSEC_PORTS and self._session.scalar(_PORT, {"node": node.id, "port": port}) is None

    def _new_port(self, node: Node) -> int:
        first, size = self._settings.first_port, self._settings.last_port - self._settings.first_port + 1
        start = self._panel.next_port % size
        port = first + start
        if not self._port_free(node, port):
            taken = {*IPSEC_PORTS, *self._session.scalars(select(ENDS.c.port).where(ENDS.c.node_id == node.id))}
            free = (first + (start + step) % size for step in range(size))
            port = next((port for port in free if port not in taken), 0)
            if not port:
                raise Refused(
                    507,
                    say(
                        "no_port_left",
                        'No port is left on node "{node}" ({setting} {first}-{last});'
                        " widen the range, or choose one outside it in config",
                        node=node.name,
                        setting="TUNNEL_PORT_RANGE",
                        first=first,
                        last=first + size - 1,
                    ),
                )
        self._steps = max(self._steps, (port - first - start) % size + 1)
        return port

    def _interface(self, role: str, node: Node, config: TunnelConfig) -> str:
        own = f"mz{self._tunnel.id}"
        chosen = config.end(role).interface or own
        if chosen == own:
            return own  # nobody else gets it
        if chosen.startswith("mz") and chosen[2:].isdecimal():
            raise Refused(
                422,
                {
                    f"config.{role}.interface": say(
                        "interface_kept",
                        "{given} is kept for tunnel {owner}; choose a name that is not mz<number>",
                        given=chosen,
                        owner=chosen[2:],
                    )
                },
            )
        owner = self._owner(ENDS.c.node_id == node.id, ENDS.c.interface == chosen)
        if owner:
            raise Refused(
                409,
                say(
                    "interface_taken",
                    '{given} on node "{node}" is taken by tunnel {owner}; choose another, or leave it out',
                    given=chosen,
                    node=node.name,
                    owner=owner,
                ),
                f"config.{role}.interface",
            )
        return chosen

    def _addresses(
        self, config: TunnelConfig, before: dict[str, Held], chosen_before: TunnelConfig
    ) -> dict[str, list[str]]:
        chosen = {role: config.end(role).addresses or [] for role in ROLES}
        if all(chosen.values()):
            for role, texts in chosen.items():
                for text in texts:
                    self._refuse_overlap(role, text)
            return chosen
        if before and chosen_before.end("source").addresses is None:
            return {role: held.addresses for role, held in before.items()}
        pairs = [self._pair(4), self._pair(6)]
        return {"source": [pair[0] for pair in pairs], "target": [pair[1] for pair in pairs]}

    def _refuse_overlap(self, role: str, text: str) -> None:
        taken = self._session.execute(_OVERLAPPED, around(*edges(ip_interface(text).network))).first()
        if taken:
            raise Refused(
                409,
                say(
                    "address_taken",
                    "{given} overlaps {address}, taken by tunnel {owner};"
                    " choose another network, or leave addresses out to get a free one",
                    given=text,
                    address=taken[0],
                    owner=called(taken[1], taken[2]),
                ),
                f"config.{role}.addresses",
            )

    def _pair(self, version: int) -> tuple[str, str]:
        """The two addresses of a free /31 or /127. The pool's first and last block are never used: their addresses
        look like the pool's network and broadcast address."""
        pool = self._settings.ipv4_pool if version == 4 else self._settings.ipv6_pool
        cursor = "next_ipv4" if version == 4 else "next_ipv6"
        base, blocks = int(pool[0]), pool.num_addresses // 2
        wanted = getattr(self._panel, cursor)
        start = wanted if 1 <= wanted < blocks - 1 else 1
        block = start if self._block_free(base, start, version) else self._next_free(pool, start)
        setattr(self._panel, cursor, block + 1)
        low, high = pool[2 * block], pool[2 * block + 1]
        length = pool.max_prefixlen - 1
        return f"{low}/{length}", f"{high}/{length}"

    def _block_free(self, base: int, block: int, version: int) -> bool:
        first = base + 2 * block | (_MAPPED if version == 4 else 0)
        return self._session.scalar(OVERLAPPING, around(first, first + 1)) is None

    def _next_free(self, pool: IPv4Network | IPv6Network, start: int) -> int:
        """The first free block from ``start`` on, once around. Looks at all of the pool's rows: only needed where the
        cursor met a taken block."""
        first, last = (f"{edge:032x}" for edge in edges(pool))
        query = select(ADDRESSES.c.first, ADDRESSES.c.last)
        query = query.where(ADDRESSES.c.first <= last, ADDRESSES.c.last >= first)
        base, blocks = int(pool[0]), pool.num_addresses // 2
        spans = sorted(
            ((_number(low, pool.version) - base) // 2, (_number(high, pool.version) - base) // 2)
            for low, high in set(self._session.execute(query).all())
        )
        for begin, end in ((start, blocks - 1), (1, start)):
            block = begin
            for low, high in spans:
                if low > block:
                    break
                block = max(block, high + 1)
            if block < end:
                return block
        raise Refused(
            507,
            say(
                "no_address_left",
                "No address is left in the pool {pool} ({setting}); use a larger pool, or choose addresses in config",
                pool=str(pool),
                setting=f"TUNNEL_IPV{pool.version}_POOL",
            ),
        )

    def _owner(self, *where: ColumnElement[bool]) -> str | None:
        query = select(TUNNELS.c.id, TUNNELS.c.name).join_from(TUNNELS, ENDS, ENDS.c.tunnel_id == TUNNELS.c.id)
        row = self._session.execute(query.where(*where)).first()
        return called(row[0], row[1]) if row else None


def called(tunnel_id: int, name: str | None) -> str:
    """A tunnel's id and name, in an error about another one."""
    return f'{tunnel_id} "{name}"' if name else str(tunnel_id)
