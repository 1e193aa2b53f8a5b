# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The collection against the add-on in a Marzban: inventory, modules and playbooks are those for the standalone panel.

With the stand-in for Marzban in `make test-all`, with a real one where MARZBAN_SRC names a checkout.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import pytest
import yaml

from tests.lab.lab import Lab
from tests.support import labs, marzban
from tests.support.marzban import Marzban
from tests.support.panel import Panel
from tests.support.world import World

pytestmark = pytest.mark.lab


# With the stand-in it is the same API, which tests/contract show, and the same runs as with the standalone panel.
@pytest.fixture(scope="module", params=[pytest.param("standin", marks=pytest.mark.variation), "marzban"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Two hosts, and a panel that knows neither."""
    real = request.param == "marzban"
    if real and not marzban.source():
        pytest.skip(marzban.MISSING)
    directory = tmp_path_factory.mktemp("world")
    with Marzban(directory / "panel", real=real, tls=True) as panel:
        lab = Lab.up(labs.named(request.param), {"a": "bookworm+tunnels", "b": "bookworm+tunnels"})
        try:
            yield World(directory, cast(Panel, panel), lab)  # a panel with all that a world asks for
        finally:
            lab.down()


def module(world: World, called: str, **options: str) -> dict[str, object]:
    """Call a module as an operator does, by ``ansible``; answers what it said."""
    words = " ".join(f"{key}={value}" for key, value in options.items())
    done = world.command(
        "ansible", "-i", "localhost,", "localhost", "-c", "local", "-m", f"marzban.tunnels.{called}", "-a", words
    )
    assert done.returncode == 0, done.stdout + done.stderr
    answer: dict[str, object] = yaml.safe_load(done.stdout.partition("=>")[2])
    return answer


def test_from_no_node_to_traffic_and_back(world: World) -> None:
    nodes = {name: host.address for name, host in world.lab.hosts.items()}
    for name, address in nodes.items():
        assert module(world, "node", name=name, address=address)["changed"] is True
    assert module(world, "node", name="a", address=nodes["a"])["changed"] is False
    for changed in (True, False):
        assert module(world, "tunnel", name="ab", source="a", target="b")["changed"] is changed

    graph = world.command("ansible-inventory", "-i", str(world.inventory), "--graph").stdout
    assert all(f"--{name}\n" in graph for name in nodes)

    world.apply().expect()
    world.expect_traffic(("ab", "a", "b"))
    again = world.apply().expect()
    assert again.changed() == []
    assert {value["status"] for value in world.tunnels().values()} == {"active"}

    world.api("DELETE", f"/node/{next(node['id'] for node in world.api('GET', '/nodes') if node['name'] == 'b')}")
    assert world.tunnels() == {}
    run = world.apply().expect()
    assert [result["name"] for result in run.results("tunnel_apply", "a")[-1]["removed"]] == ["ab"]
    assert not world.lab.host("a").run("ls -A /etc/marzban", check=False).stdout
