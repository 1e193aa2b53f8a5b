# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role strongswan by itself, on bare hosts, from a list written by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.world import Run, World, until

pytestmark = [pytest.mark.lab, pytest.mark.variation]  # molecule shows the same role on other hosts
LEFT = """ls -d /etc/marzban; ls /etc/swanctl/conf.d /etc/swanctl/private /etc/systemd/system | grep marzban
    nft list tables | grep marzban; ls /sys/class/net | grep -E 'mz|ipsec'; command -v swanctl charon-systemd"""


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    """Bare hosts, with strongSwan 5.9.8 and 5.9.1."""
    return make_world(a="bookworm", b="bullseye")


def tunnels(world: World) -> list[dict[str, Any]]:
    config = {
        role: {"endpoint": world.lab.host(host).address, "addresses": [f"10.9.1.{last}/31", f"fd09::1:{last}/127"]}
        for role, host, last in (("source", "a", 0), ("target", "b", 1))
    }
    return [{"name": "t1", "id": 1, "type": "ipsec", "source": "a", "target": "b", "config": config}]


def run(world: World, *words: str, **variables: Any) -> Run:
    role = {"role": "marzban.tunnels.strongswan", "strongswan_tunnels": tunnels(world), **variables}
    play = {"name": "By hand", "hosts": "marzban_nodes", "become": True, "gather_facts": False, "roles": [role]}
    return world.play([play], "--diff", *words, inventory=world.static(), env={"MARZBAN_URL": "https://127.0.0.1:1"})


def passes(world: World) -> bool:
    ping = "ping -n -q -c 1 -W 1"
    return world.lab.host("a").run(f"{ping} 10.9.1.1 && {ping} fd09::1:1", check=False).returncode == 0


@pytest.fixture
def joined(world: World) -> None:
    """A run only where a test comes alone."""
    if not passes(world):
        run(world).expect()
        until("packets", lambda: passes(world))


def test_the_quartet_by_hand_on_bare_hosts(world: World) -> None:
    predicted = run(world, "--check").expect()
    for host in world.lab.hosts.values():
        assert "Make the node match its view" in predicted.changed(host.name)
        assert "Say which packages would be installed" in predicted.changed(host.name)
        assert host.run(LEFT, check=False).stdout == ""
    done = run(world).expect()
    assert all("Install packages" in done.changed(name) for name in world.lab.hosts)
    until("packets", lambda: passes(world))
    assert run(world, "--check").expect().changed() == []
    assert run(world).expect().changed() == []


@pytest.mark.usefixtures("joined")
def test_a_data_path_that_these_kernels_do_not_have(world: World) -> None:
    refused = run(world, strongswan_data_path="kernel").expect(2)
    assert "ipsec_data_path: 'kernel' can't be used. This host's kernel has no esp4" in refused.text
    assert passes(world), "what runs was not left alone"


@pytest.mark.usefixtures("joined")
def test_absent(world: World) -> None:
    run(world, strongswan_state="absent", strongswan_remove_packages=True).expect()
    for host in world.lab.hosts.values():
        assert host.run(LEFT, check=False).stdout == ""
    assert run(world, strongswan_state="absent", strongswan_remove_packages=True).expect().changed() == []
