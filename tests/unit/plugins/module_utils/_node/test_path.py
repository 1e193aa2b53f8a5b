# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the state remembers of a path that is narrower than its route, and for how long it counts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.marzban.tunnels.plugins.module_utils._node import path
from ansible_collections.marzban.tunnels.plugins.module_utils._node.host import Host
from ansible_collections.marzban.tunnels.plugins.module_utils._node.state import Folders
from ansible_collections.marzban.tunnels.plugins.module_utils._protocols.wireguard.protocol import WireGuard

NARROW: Any = {"mtu": 1340, "before": 1440, "way": 1440}


@pytest.mark.parametrize(
    "broken",
    [None, [], "1340", {"mtu": 1340}, {**NARROW, "mtu": "1340"}, {**NARROW, "way": None}, {**NARROW, "before": 0}],
)
def test_a_state_that_somebody_has_changed_says_nothing(broken: Any) -> None:
    assert path.narrow_path({"narrow": broken}) is None
    assert path.narrow_path({}) is None
    assert path.narrow_path({"narrow": {**NARROW, "more": 1}}) == NARROW


@pytest.mark.parametrize(
    ("given", "narrow", "route", "expected"),
    [
        (None, None, 1500, (1440, None)),
        (None, NARROW, 1500, (1340, NARROW)),
        (None, {**NARROW, "way": None}, 1500, (1340, NARROW)),  # it was found a moment ago
        (None, NARROW, 1400, (1340, None)),  # another route, whose own MTU is the same by chance
        (None, NARROW, 9000, (8940, None)),
        (1400, NARROW, 1500, (1400, None)),  # the record says it
        (None, NARROW, None, (1340, NARROW)),  # there is no route at this moment
    ],
)
def test_the_mtu_of_a_tunnel(given: int | None, narrow: Any, route: int | None, expected: Any) -> None:
    view = {"mtu": given, "peer": {"endpoint": "192.0.2.2"}}
    mtus = {"192.0.2.2": route} if route else {}
    situation: Any = SimpleNamespace(view=view, narrow=narrow, resolved={"192.0.2.2": ["192.0.2.2"]}, mtus=mtus)
    mtu = WireGuard(Host(), Folders("/nowhere")).mtu(situation, 1340)
    assert (mtu, situation.narrow) == expected


def test_what_is_narrower_still_is_told_from_the_first_mtu_on() -> None:
    assert path.narrower(None, 1440, 1340) == {"mtu": 1340, "before": 1440, "way": None}
    assert path.narrower(NARROW, 1340, 1300) == {"mtu": 1300, "before": 1440, "way": 1440}
