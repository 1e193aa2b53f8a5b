# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The sentences of a look at a host. What it finds there is in tests/integration/test_taken_hosts.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.marzban.tunnels.plugins.module_utils._node import health


@pytest.mark.parametrize(
    ("repaired", "taken", "stopped"),
    [
        ((), "run marzban.tunnels.apply, which puts it back", "run marzban.tunnels.apply"),
        (("openvpn",), "run marzban.tunnels.apply, which puts it back", "run marzban.tunnels.apply"),
        (("wireguard",), "this host's node service puts it back", "this host's node service sees to it"),
    ],
)
def test_who_puts_right_what_is_wrong(repaired: tuple[str, ...], taken: str, stopped: str) -> None:
    said: list[tuple[str, str]] = []
    view, state = {"type": "wireguard", "interface": "mz1"}, {"applied": {}}
    protocol: Any = SimpleNamespace(lacking=lambda *looked: ["a route"], service=lambda interface: f"unit {interface}")
    tunnel: Any = SimpleNamespace(
        view=view,
        checked=view,
        state=state,
        fail=lambda *told: said.append(told),
        wanted=True,
        measured=None,
        last_interface="mz1",
    )
    tunnel.hangs = None
    observed: Any = health.Seen(SimpleNamespace(), {"wireguard": SimpleNamespace()})  # type: ignore[dict-item]
    health._explain_gaps({"wireguard": protocol}, [tunnel], observed, repaired)
    health._explain(protocol, tunnel, "wireguard" in repaired)
    tunnel.hangs = "unit mz1"
    health._explain(protocol, tunnel, "wireguard" in repaired)
    assert said == [
        (f"something else on this host has taken away a route: {taken}", "taken-away"),
        (f"unit mz1 is not running: {stopped}", "dies"),
        (f"unit mz1 runs and does not answer: {stopped}", "dies"),
    ]
