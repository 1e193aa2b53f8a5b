# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is on the host at one moment, asked for once for all protocols and tunnels."""

from __future__ import annotations

import hashlib
import time
from typing import Any, Callable, Iterable, TypeVar

from . import net, netdev, units
from .host import Host

# All tables of the family: nft 1.0.6 fails on a script that lists two by their names.
TABLES = ("nft", "-s", "list", "ruleset", "inet")
# What is asked about the things that a run sets, and that others can take away
APPLIED = (net.LINKS, *net.ROUTES, TABLES)
Seen = TypeVar("Seen")


class Observation:
    """Each thing is queried when it is first wanted, and once. What changes the host makes an observation outdated."""

    def __init__(self, host: Host, wanted_units: Iterable[str]) -> None:
        host.drop_prefetched()
        self.host = host
        self.now = time.time()
        self._wanted_units = sorted(set(wanted_units))
        self._controllers = net.Controllers()
        self._known: dict[str, Any] = {}

    def prefetch(self, *others: tuple[str, ...]) -> None:
        """Starts the query about units, and ``others``, at once."""
        if self._wanted_units:
            self.host.prefetch(units.command(self._wanted_units))
        self.host.prefetch(*others)

    def queries(self) -> list[tuple[str, ...]]:
        """All the others of an observation."""
        return [*APPLIED, net.LISTENING, self._controllers.command]

    def _once(self, name: str, ask: Callable[[], Seen]) -> Seen:
        if name not in self._known:
            self._known[name] = ask()
        known: Seen = self._known[name]
        return known

    @property
    def units(self) -> dict[str, units.Unit]:
        """systemd's units."""
        return self._once("units", lambda: units.states(self.host, self._wanted_units))

    @property
    def links(self) -> net.Links:
        """The interfaces."""
        return self._once("links", lambda: net.links(self.host))

    @property
    def routes(self) -> list[net.Route]:
        """The main table."""
        return self._once("routes", lambda: net.routes(self.host))

    @property
    def listening(self) -> set[tuple[str, int]]:
        """``{("udp" or "tcp", port)}`` in use."""
        return self._once("listening", lambda: net.listening(self.host))

    @property
    def sessions(self) -> list[net.Session]:
        """Those that drive this host."""
        return self._once("sessions", lambda: self._controllers.sessions(self.host))

    @property
    def tables(self) -> dict[str, str]:
        """``{table of nftables: digest of what nft lists}`` of our tunnels."""
        return self._once("tables", lambda: netdev.parse_tables(self.host.query(*TABLES) or "", _digest))

    def path_mtus(self, addresses: Iterable[str]) -> dict[str, int]:
        """``{address: MTU of the route there in bytes}``; the addresses of the first call are the ones asked for."""
        return self._once("path_mtus", lambda: net.path_mtus(self.host, addresses, self.links))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
