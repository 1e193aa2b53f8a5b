# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""When the endpoint of a WireGuard peer that has a session is set again."""

from __future__ import annotations

import pytest

from ansible_collections.marzban.tunnels.plugins.module_utils._node.ping import Pinged
from ansible_collections.marzban.tunnels.plugins.module_utils._protocols.wireguard import conf as wireguard_conf
from ansible_collections.marzban.tunnels.plugins.module_utils._protocols.wireguard import plan as wireguard_plan
from ansible_collections.marzban.tunnels.plugins.module_utils._protocols.wireguard import silence
from tests.support.views import KEY, conf, view

NOW = 1_800_000_000
MOVED = view(**{"peer.endpoint": "fi.example"})
OLD, NEW = "203.0.113.3", "198.51.100.7"
KEYS = wireguard_plan.Keys("/k/private.key", "/k/preshared.key")


def dump(age=20, received=100):
    """`wg show all dump` of MOVED's interface, with packets that go to OLD."""
    allowed = "192.168.7.0/24,10.201.0.3/32,fd6d:7a00::3/128"
    peer = f"mz3\t{KEY}\t(none)\t{OLD}:20003\t{allowed}\t{NOW - age}\t{received}\t200\t25\n"
    return wireguard_conf.parse_dump(f"mz3\tsecret\town\t20003\toff\n{peer}")


def after_the_pings(received=100, loss=100.0, resolved=(NEW,), age=20):
    """The words for `wg set`, and where pings went to."""
    live, names, asked = {"wg": dump(age), "now": NOW}, {"fi.example": list(resolved)}, []

    def ping(targets):
        asked.extend(targets.values())
        return Pinged({key: {"rtt_ms": None, "loss_percent": loss} for key in targets}, {})

    silence.note([MOVED], live, names, ping, lambda: dump(age, received))
    wanted = wireguard_conf.parse_conf(conf(MOVED))
    words = wireguard_plan.differences(wanted, live["wg"]["mz3"], "own", wanted, names, NOW, KEYS)[1]
    return words, asked


def test_a_peer_that_left_its_place_is_looked_up_again():
    words, asked = after_the_pings()
    assert words == ["peer", KEY, "endpoint", "fi.example:20003"]
    assert asked == [("mz3", "10.201.0.3")]


@pytest.mark.parametrize(
    "what",
    [
        {"loss": 66.7},  # it answers where it is: it is behind NAT, or the name is wrong
        {"received": 132},  # something came from it, though a firewall drops pings
        {"loss": None},  # nothing could be sent
    ],
)
def test_a_peer_that_is_still_there_keeps_its_endpoint(what):
    assert after_the_pings(**what) == ([], [("mz3", "10.201.0.3")])


@pytest.mark.parametrize("resolved", [(OLD,), (NEW, OLD), ()])
def test_nobody_is_asked_where_the_name_says_the_same_or_nothing(resolved):
    assert after_the_pings(resolved=resolved) == ([], [])


def test_without_a_session_nobody_has_to_be_asked():
    assert after_the_pings(age=181) == (["peer", KEY, "endpoint", "fi.example:20003"], [])


def test_an_end_that_does_not_dial_follows_its_peer():
    live, names = {"wg": dump(), "now": NOW}, {"fi.example": [NEW]}
    assert silence.suspects([view(**{"peer.endpoint": "fi.example", "dial": False})], live, names) == []
    assert silence.suspects([MOVED], live, names) == [MOVED]
