# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""A site: a plain client in a network of its own behind a host."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from . import cgroup, machine
from .network import Network, SitePlan


@dataclass(frozen=True)
class Site:
    """A client whose only neighbour is its host: the host has .1 in each of its networks, the client .10."""

    network: Network
    host: str
    plan: SitePlan

    @property
    def name(self) -> str:
        return self.plan.name

    @property
    def addresses(self) -> list[str]:
        """The client's addresses, without prefix length, in the order of its networks."""
        return [address.partition("/")[0] for address in self.plan.addresses(10)]

    @property
    def address(self) -> str:
        return self.addresses[0]

    def run(
        self, command: Sequence[str] | str, *, check: bool = True, input: str | None = None, timeout: float | None = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a command (a string goes to sh) with the machine's programs and the client's network."""
        words = ["sh", "-c", command] if isinstance(command, str) else list(command)
        inside = ["ip", "netns", "exec", self.network.site_namespace(self.host, self.name), *words]
        group = cgroup.group(self.network.lab, f"{self.host}.{self.name}")
        return machine.run(cgroup.joining(group, inside), check=check, input=input, timeout=timeout)
