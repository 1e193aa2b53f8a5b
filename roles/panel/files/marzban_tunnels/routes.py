# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The networks behind the ends of tunnels. On one node a network goes into one active tunnel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Table, or_, select
from sqlalchemy.orm import Session

from marzban_tunnels import tunnel_config
from marzban_tunnels.allocate import called
from marzban_tunnels.errors import Refused, say
from marzban_tunnels.tables import TUNNELS, Tunnel
from marzban_tunnels.tunnel_config import PEER


class Routes:
    """Which node sends which networks into which active tunnels, within one transaction. A node is read once.

    Compared here and not by the database: routes are in ``config`` only.
    """

    def __init__(self, session: Session, nodes: Table) -> None:
        self._session = session
        self._nodes = nodes
        self._tunnels: dict[int, dict[str, list[tuple[int, str | None]]]] = {}  # by node and network: id and name

    def check(self, record: Tunnel) -> None:
        """No other active tunnel has one of these routes on the same node: they would take it from each other at every
        run. Raises ``Refused`` (409)."""
        for node, network, role in _sent(record) if record.is_active else ():
            for number, name in self._of(node).get(network, ()):
                if number != record.id:
                    where = self._session.scalar(select(self._nodes.c.name).where(self._nodes.c.id == node))
                    raise Refused(
                        409,
                        say(
                            "route_taken",
                            '{route} goes from node "{node}" into tunnel {owner} already;'
                            " take it out of one of the two, or deactivate one",
                            route=network,
                            node=where,
                            owner=called(number, name),
                        ),
                        f"config.{role}.routes",
                    )

    def add(self, record: Tunnel) -> None:
        """A tunnel that was written after ``check``."""
        for node, network, _role in _sent(record) if record.is_active else ():
            self._of(node).setdefault(network, []).append((record.id, record.name))

    def _of(self, node: int) -> dict[str, list[tuple[int, str | None]]]:
        if node not in self._tunnels:
            found = self._tunnels[node] = {}
            query = (
                select(TUNNELS)
                .where(or_(TUNNELS.c.source_node_id == node, TUNNELS.c.target_node_id == node))
                .where(TUNNELS.c.is_active, TUNNELS.c.config != "{}")
                .order_by(TUNNELS.c.id)
            )
            for row in self._session.execute(query):
                for place, network, _role in _sent(row):
                    if place == node:
                        found.setdefault(network, []).append((row.id, row.name))
        return self._tunnels[node]


def _sent(record: Any) -> Iterator[tuple[int, str, str]]:
    """``(node, network, role)`` of all that a node sends into this tunnel: the networks behind the end ``role``."""
    chosen = tunnel_config.lenient(record.config)  # a thousand of them shouldn't be checked for one create
    for role, peer in PEER.items():
        for network in tunnel_config.routes_of(chosen, role):
            yield getattr(record, f"{peer}_node_id"), network, role
