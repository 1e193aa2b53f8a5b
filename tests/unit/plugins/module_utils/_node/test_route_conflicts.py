# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import FieldError
from ansible_collections.marzban.tunnels.plugins.module_utils._node.route_conflicts import Guard

ROUTES = [("10.5.0.0/16", "eth1", True), ("10.6.0.0/16", None, False), ("10.201.9.0/24", "mz3", False)]
ADDRESSES = [("192.0.2.7/24", "eth0"), ("10.201.0.24/31", "mz3")]


def guard():
    return Guard(["198.51.100.7", "fd99::7"], {"203.0.113.3": "mine", "203.0.113.4": "other"}, ROUTES, ADDRESSES)


def view(routes=(), addresses=("10.201.0.24/31",)):
    return {"routes": list(routes), "local": {"addresses": list(addresses)}}


@pytest.mark.parametrize(
    ("route", "why"),
    [
        ("198.51.100.0/24", "driven"),
        ("fd99::/64", "driven"),
        ("203.0.113.0/30", "where the tunnel's own packets go"),
        ("203.0.113.4/32", "where the packets of the tunnel other go"),
        ("10.5.0.0/16", "by eth1"),
        ("10.6.0.0/16", "by hand"),
        ("10.201.9.0/24", None),
        ("10.5.1.0/24", None),
        ("2001:db8::/32", None),
    ],
)
def test_routes(route, why):
    if why is None:
        guard().check(view([route]), "mine", {"mz3"})
        return
    with pytest.raises(FieldError, match=why) as refused:
        guard().check(view([route]), "mine", {"mz3"})
    assert (refused.value.field, refused.value.value) == ("routes", route)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("192.0.2.7/32", "This host has it already, on eth0"),
        ("198.51.100.9/24", "driven"),
        ("128.0.0.1/1", "driven"),
        ("203.0.113.5/24", "packets go"),
        ("10.5.0.1/16", "by eth1"),
        ("10.201.0.24/31", None),
        ("fd6d:7a00::18/127", None),
    ],
)
def test_addresses(address, why):
    if why is None:
        guard().check(view(addresses=[address]), "mine", {"mz3"})
        return
    with pytest.raises(FieldError, match=why) as refused:
        guard().check(view(addresses=[address]), "mine", {"mz3"})
    assert (refused.value.field, refused.value.value) == ("addresses", address)


def test_a_route_is_taken_once():
    one = guard()
    one.check(view(["192.168.7.0/24"]), "first", {"mz3"})
    one.take(view(["192.168.7.0/24"]), "first")
    with pytest.raises(FieldError, match="The tunnel first takes it already"):
        one.check(view(["192.168.7.0/24"], ["10.201.0.26/31"]), "second", {"mz4"})
