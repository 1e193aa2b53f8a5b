# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hosts whose package manager can't bring all that is missing."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.support.world import World, between

pytestmark = [pytest.mark.lab, pytest.mark.variation]
DEAD = "deb http://127.0.0.1:9/broken stable main\n"
PIN = "Package: openvpn\nPin: release *\nPin-Priority: -1\n"


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    """Two tunnels between a host that has all packages and one that has none, and a source that does not answer."""
    world = make_world(login=False, a="bookworm+tunnels", b="bookworm+demo")
    host = world.lab.host("b").root
    (host / "etc/apt/sources.list.d/dead.list").write_text(DEAD)
    (host / "etc/apt/preferences.d/no-openvpn").write_text(PIN)
    for name, source, target in between("ab")[:2]:
        world.tunnel(name, source, target, tunnel_type=name.partition("-")[2])
    return world


def test_one_dead_source_and_one_package_that_can_not_be_had_keep_out_one_tunnel(world: World) -> None:
    run = world.apply()
    assert run.code == 2, run.text
    assert "b is unreachable" not in run.text
    rows = {line.split()[0]: line for line in run.results("tunnel_round")[-1]["table"][1:]}
    assert " active " in rows["ab-wireguard"]
    assert " error " in rows["ab-openvpn"]
    (failed,) = [event["result"]["msg"] for event in run.of("b", ["failed"]) if "could not be installed" in str(event)]
    assert re.search(
        r"^b: openvpn could not be installed: .*openvpn.*\. Its package lists could not", failed, re.MULTILINE
    )
    assert {name: tunnel["status"] for name, tunnel in world.tunnels().items()} == {
        "ab-wireguard": "active",
        "ab-openvpn": "error",
    }
    (world.lab.host("b").root / "etc/apt/preferences.d/no-openvpn").unlink()
    again = world.apply()
    assert again.code == 0, again.text
    assert "Nothing is missing all the same." in again.text, "a dead source alone is named, and fails nothing"
    assert {tunnel["status"] for tunnel in world.tunnels().values()} == {"active"}
