# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The same as test_node_service.py with the unmodified Marzban that MARZBAN_SRC names as the panel: once with
NODE_API_KEY, and once without, by the client certificate that its nodes trust."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import cast

import pytest

from tests.integration.test_node_service import RETURN, SOON, TYPES, Timed, folders, is_active
from tests.lab.lab import Lab
from tests.support import labs, marzban
from tests.support.marzban import Marzban
from tests.support.panel import Panel
from tests.support.service_hosts import MANAGED, nodes, with_service
from tests.support.world import World, until

pytestmark = [pytest.mark.lab, pytest.mark.skipif(not marzban.source(), reason=marzban.MISSING)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Two hosts that Marzban knows as nodes; they have no service yet, and no Marzban-node."""
    directory = tmp_path_factory.mktemp("world")
    with Marzban(directory / "panel", real=True, tls=True) as panel:
        lab = Lab.up(labs.named("node_service_marzban"), {"a": "bookworm+tunnels", "b": "trixie+tunnels"})
        try:
            world = World(directory, cast(Panel, panel), lab, login=False)
            world.register()
            yield world
        finally:
            lab.down()


def serve(world: World, key: str | None) -> None:
    """Marzban with this key, and the services as a run of node_api sets them up for it."""
    panel = cast(Marzban, world.panel)
    world.session.close()  # uvicorn waits for its clients
    panel.stop()
    panel.env.pop("NODE_API_KEY", None)
    panel.env |= {"NODE_API_KEY": key} if key else {}
    panel.start()
    with_service(world)


@pytest.mark.parametrize(
    ("key", "types"), [(MANAGED["NODE_API_KEY"], TYPES), (None, TYPES[:1])], ids=["key", "certificate"]
)
def test_what_marzban_says_is_done_within_seconds(world: World, key: str | None, types: tuple[str, ...]) -> None:
    serve(world, key)
    log = cast(Marzban, world.panel).log
    before = len(log.read_text())
    for host in world.lab.hosts.values():
        trusted = (host.root / "etc/marzban/node_service/clients.pem").read_text()
        assert ("BEGIN CERTIFICATE" in trusted) == (key is None), "the certificate is for panels without a key"

    timed, away = Timed(), Timed()
    for kind in types:
        name = f"ab-{kind}"
        begun = time.monotonic()
        record = world.tunnel(name, "a", "b", tunnel_type=kind)
        timed.until(f"packets pass: {kind}", begun, partial(world.passes, name, "a", "b"))
        until(f"active: {kind}", partial(is_active, world, name))
        begun = time.monotonic()
        world.api("POST", f"/tunnels/{record['id']}/deactivate")
        timed.until(f"nothing passes: {kind}", begun, partial(world.silent, name, "a", "b"))
    host = world.lab.host("b")
    host.stop()
    for kind in types:
        world.api("DELETE", f"/tunnels/{world.tunnels()[f'ab-{kind}']['id']}")
    begun = time.monotonic()
    timed.until("gone from the node that is there", begun, lambda: not folders(world, "a"))
    until("the other one is told to be away", lambda: nodes(world)["b"]["state"] == "problem")
    host.start()
    begun = time.monotonic()
    away.until("gone from the node that was away", begun, lambda: not folders(world, "b"))
    until("nothing is left to delete", lambda: not nodes(world)["b"]["deletions"])
    timed.within(SOON)
    away.within(RETURN)
    ours = [line for line in log.read_text()[before:].splitlines() if "marzban_tunnels" in line]
    assert len(ours) <= 2, ours  # it is away, and it works again; of a short absence nothing
