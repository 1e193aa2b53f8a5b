# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Releases beside bookworm and trixie, on which all the other tests run: what works there, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.world import World

pytestmark = pytest.mark.lab
NO_PACKAGE = (
    "has no package for wireguard-go. Use a kernel with WireGuard (Linux 5.6 or newer), or put the program on the PATH"
    " by hand."
)
PROGRAM = "/usr/local/bin/wireguard-go"


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    """Bare hosts, whose kernel has no WireGuard. On ``handmade`` somebody put a program for it, which is of no use."""
    world = make_world(now="bookworm", next="forky", old="bullseye", handmade="bullseye")
    world.lab.host("handmade").run(f"printf '#!/bin/sh\\necho broken >&2; exit 1\\n' >{PROGRAM}; chmod 755 {PROGRAM}")
    for name in ("next", "old", "handmade"):
        world.tunnel(f"now-{name}", "now", name)
    return world


@pytest.mark.variation
def test_testing_works_and_bullseye_says_what_it_lacks(world: World) -> None:
    before = len(world.panel.writes())
    predicted = world.apply("--check", "--diff").expect(2)
    assert len(world.panel.writes()) == before
    run = world.apply("--diff").expect(2)
    for done in (predicted, run):
        assert done.of("old", ["failed"])[0]["result"]["msg"].startswith("old: Debian 11")
        assert done.of("old", ["failed"])[0]["result"]["msg"].splitlines()[0].endswith(NO_PACKAGE)
        assert done.of("now", ["failed"]) == done.of("next", ["failed"]) == []

    assert "Install packages" in run.changed("next")
    world.expect_traffic(("now-next", "now", "next"))
    assert "waiting for old" in run.text
    ours = "find /etc/marzban ! -type d; ls -d /etc/wireguard; command -v wg; nft list tables; ip -o link | grep mz"
    assert world.lab.host("old").run(ours, check=False).stdout == ""

    # With the program in place the packages that there are come to bullseye as well; the rest is up to the program.
    assert "Install packages" in run.changed("handmade")
    assert "wg-quick@mz3.service did not start" in run.of("handmade", ["failed"])[0]["result"]["msg"]
    assert " / broken / " in run.of("handmade", ["failed"])[0]["result"]["msg"]
