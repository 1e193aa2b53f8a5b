# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Where ends are dialed behind a NAT: one port of an address leads to one end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from typing import Any

from sqlalchemy import Table, bindparam, select
from sqlalchemy.orm import Session

from marzban_tunnels import tunnel_config
from marzban_tunnels.allocate import called
from marzban_tunnels.errors import Refused, say
from marzban_tunnels.tables import ENDS, TUNNELS, Tunnel
from marzban_tunnels.tunnel_config import ROLES, TunnelConfig

# Only those that may have one are looked at: an endpoint_port is in config alone, as an endpoint is.
_MAPPED = select(TUNNELS).where(
    TUNNELS.c.config.contains("endpoint_port", autoescape=True), TUNNELS.c.id != bindparam("tunnel")
)
_LISTENING = (
    select(TUNNELS, ENDS.c.role)
    .join_from(TUNNELS, ENDS, ENDS.c.tunnel_id == TUNNELS.c.id)
    .where(ENDS.c.node_id == bindparam("node"), ENDS.c.port == bindparam("port"), TUNNELS.c.id != bindparam("tunnel"))
)


def check_dialed(session: Session, nodes: Table, record: Tunnel, config: TunnelConfig, ends: Mapping[str, Any]) -> None:
    """No chosen ``endpoint_port`` leads to another tunnel already: packets for one of the two would go to the other.

    ``ends``: by role, with ``id`` and ``address`` of the node. IPsec's tunnels of a node share their port, so they may
    share this one. Raises ``Refused`` (409).
    """
    chosen = {role: config.end(role).endpoint_port for role in ROLES}
    for role, port in chosen.items():
        if port is None:
            continue
        here = config.end(role).endpoint or ends[role].address
        transport = config.transport or "udp"
        for row, other in _dialed_at(session, record.id, ends[role].id, port):
            node = getattr(row, f"{other}_node_id")
            if record.tunnel_type == row.tunnel_type == "ipsec" and node == ends[role].id:
                continue
            theirs = tunnel_config.lenient(row.config)
            place = tunnel_config.end_of(theirs, other).get("endpoint")
            if place is None:
                place = session.scalar(select(nodes.c.address).where(nodes.c.id == node))
            if _canonical(place) == _canonical(here) and (theirs.get("transport") or "udp") == transport:
                sentence = say(
                    "endpoint_port_taken",
                    "{transport} {port} at {place} leads to tunnel {owner} already;"
                    " map another port, or give another endpoint",
                    transport=transport.upper(),
                    port=port,
                    place=here,
                    owner=called(row.id, row.name),
                )
                raise Refused(409, sentence, f"config.{role}.endpoint_port")


def _canonical(place: Any) -> str:
    """An endpoint as a run compares it."""
    try:
        return str(ip_address(str(place)))
    except ValueError:
        return str(place).lower()


def _dialed_at(session: Session, tunnel: int, node: int, port: int) -> Iterator[tuple[Any, str]]:
    """``(tunnel, role)`` of the other ends that may be dialed at a port."""
    for row in session.execute(_MAPPED, {"tunnel": tunnel}):
        chosen = tunnel_config.lenient(row.config)
        yield from ((row, role) for role in ROLES if tunnel_config.endpoint_port_of(chosen, role) == port)
    for row in session.execute(_LISTENING, {"tunnel": tunnel, "node": node, "port": port}):
        if tunnel_config.endpoint_port_of(tunnel_config.lenient(row.config), row.role) is None:
            yield row, row.role
