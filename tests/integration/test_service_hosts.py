# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The root half of the node service on real hosts: what a panel may ask, and what it sees to by itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.lab import Lab
from tests.support import labs
from tests.support.nodes import Directly
from tests.support.service import Service, bring_up, tunnel
from tests.support.world import until

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.up(labs.named("service-hosts"), {"a": "bookworm+tunnels", "b": "trixie+tunnels"}) as lab:
        yield lab


@pytest.fixture(scope="module")
def services(served: Directly) -> list[Service]:
    services = [Service(served, name) for name in "ab"]
    for service in services:
        service.install()
    return services


@pytest.mark.parametrize("kind", ["wireguard", "openvpn", "ipsec"])
def test_a_tunnel_comes_and_goes(served: Directly, services: list[Service], kind: str) -> None:
    number = {"wireguard": 1, "openvpn": 2, "ipsec": 3}[kind]
    bring_up(services, number, type=kind)
    assert served.reaches("a", number, 1)
    off = tunnel(served, number, type=kind, active=False, version=2)
    for service in services:
        assert service.post(off)["status"] == "inactive"
    assert not served.reaches("a", number, 1)
    for service in services:
        gone = service.delete(number)
        assert (gone.status, gone["message"]) == (200, "removed")
        assert service.delete(number)["message"] == "was removed before"
        assert service.tunnel(number)["code"] == "unknown"
        assert service.post(off)["code"] == "removed"
