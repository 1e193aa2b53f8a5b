# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role openvpn by itself, on bare hosts, from a list written by hand; a release that is too old."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.world import Run, World, until

pytestmark = [pytest.mark.lab, pytest.mark.variation]  # molecule shows the same role on other hosts
LEFT = """ls -d /etc/marzban; find /etc/openvpn /etc/systemd/system /run/openvpn-server -name '*mz*' 2>/dev/null
    nft list tables | grep marzban; ls /sys/class/net | grep mz; command -v openvpn"""


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    """Bare hosts, the last one of a release whose OpenVPN is 2.5."""
    return make_world(a="bookworm", b="trixie", old="bullseye")


def run(world: World, *words: str, peers: str = "b", **variables: Any) -> Run:
    tunnels = [
        {
            "name": f"a-{peer}",
            "id": number,
            "type": "openvpn",
            "source": "a",
            "target": peer,
            "config": {
                role: {
                    "endpoint": world.lab.host(host).address,
                    "port": 20000 + number,
                    "addresses": [f"10.9.{number}.{last}/31", f"fd09::{number}:{last}/127"],
                }
                for role, host, last in (("source", "a", 0), ("target", peer, 1))
            },
        }
        for number, peer in enumerate(peers.split(","), 1)
    ]
    role = {"role": "marzban.tunnels.openvpn", "openvpn_tunnels": tunnels, **variables}
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
    for name in "ab":
        assert "Make the node match its view" in predicted.changed(name)
        assert "Say which packages would be installed" in predicted.changed(name)
        assert world.lab.host(name).run(LEFT, check=False).stdout == ""
    done = run(world).expect()
    assert all("Install packages" in done.changed(name) for name in "ab")
    until("packets", lambda: passes(world))
    assert run(world, "--check").expect().changed() == []
    assert run(world).expect().changed() == []


@pytest.mark.usefixtures("joined")
def test_a_release_that_is_too_old(world: World) -> None:
    """It is refused before anything is changed there, and stops nobody else."""
    for words in (["--check"], []):
        refused = run(world, *words, peers="b,old").expect(2)
        assert "Debian 11" in refused.text
        assert "has no package for openvpn. OpenVPN 2.6 or newer is needed" in refused.text
        assert world.lab.host("old").run(LEFT, check=False).stdout == ""
        assert passes(world)


@pytest.mark.usefixtures("joined")
def test_absent(world: World) -> None:
    run(world, peers="b,old", openvpn_state="absent", openvpn_remove_packages=True).expect()
    for host in world.lab.hosts.values():
        assert host.run(LEFT, check=False).stdout == ""
    again = run(world, peers="b,old", openvpn_state="absent", openvpn_remove_packages=True)
    assert again.expect().changed() == []
