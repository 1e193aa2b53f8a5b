# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A panel and nodes set up by an older commit are updated, one side after the other, and lose nothing."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.lab.lab import Lab
from tests.support import labs
from tests.support.panel import PACKAGES, Panel
from tests.support.panel_modules import run
from tests.support.world import TOP, TYPES, Pings, Run, World

pytestmark = [pytest.mark.lab, pytest.mark.variation]  # what nodes and panels of another version say is in client
OLD = "e1e2568"  # the last commit before module_utils got folders, and the run became Python
EACH = tuple((kind, "a", "b") for kind in TYPES)  # tunnels, named after their types
INTERVAL = 0.02  # seconds


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The old collection's folder, with the panel package in it."""
    packed = subprocess.run(["git", "archive", OLD], cwd=TOP, capture_output=True, check=False)
    if packed.returncode:
        pytest.skip(f"There is no commit {OLD} here: the test wants a checkout with its whole git history.")
    folder = tmp_path_factory.mktemp("old") / "ansible_collections/marzban/tunnels"
    folder.mkdir(parents=True)
    subprocess.run(["tar", "x"], cwd=folder, input=packed.stdout, check=True)
    return folder


def old_apply(world: World, old: Path) -> Run:
    return world.apply(env={"ANSIBLE_COLLECTIONS_PATH": str(old.parents[2])}).expect()


@pytest.fixture
def world(tmp_path: Path, old: Path) -> Iterator[World]:
    """A tunnel of each type between two hosts, all made by the old panel and the old collection."""
    hosts = {"a": "bookworm+tunnels", "b": "trixie+tunnels"}
    with (
        Panel.start(tmp_path / "panel", packages=old / "roles/panel/files") as old_panel,
        Lab.up(labs.named("upgrade"), hosts) as lab,
    ):
        world = World(tmp_path, old_panel, lab)
        world.register()
        for kind, source, target in EACH:
            world.tunnel(kind, source, target, tunnel_type=kind)
        old_apply(world, old)
        yield world


@contextmanager
def updated_panel(world: World, directory: Path) -> Iterator[Panel]:
    """Put the new package on the world's database; the old panel goes on beside it, on a copy."""
    old_packages, world.panel.packages = world.panel.packages, PACKAGES
    world.panel.stop()
    directory.mkdir()
    for file in world.panel.directory.glob("panel.db*"):
        shutil.copy(file, directory)
    world.panel.restart()
    with Panel.start(directory, password=world.panel.password, packages=old_packages) as before:
        yield before


def records(world: World) -> dict[str, object]:
    """What must survive: the records and the public halves, without what is measured."""
    return {
        name: (
            tunnel["id"],
            tunnel["uuid"],
            tunnel["version"],
            tunnel["config"],
            [strip(end) for end in tunnel["ends"]],
        )
        for name, tunnel in world.tunnels().items()
    }


def strip(end: dict[str, object]) -> tuple[object, ...]:
    return tuple(end[key] for key in ("role", "node", "port", "interface", "addresses", "public"))


def private_halves(world: World) -> dict[str, str]:
    """Digests of the nodes' keys, by host: each private half, shared secret and certificate."""
    command = "cd /etc/marzban/tunnels && find . -type f ! -name '*.json' | sort | xargs sha256sum"
    return {name: host.run(command).stdout for name, host in world.lab.hosts.items()}


def test_updating_one_side_after_the_other(world: World, old: Path, tmp_path: Path) -> None:
    pings = {
        kind: Pings(world.lab.host(source), world.addresses(kind, target)[number % 2], INTERVAL).start()
        for number, (kind, source, target) in enumerate(EACH)
    }
    before = records(world), private_halves(world)
    with updated_panel(world, tmp_path / "old-panel") as old_panel:
        assert old_apply(world, old).changed() == [], "the old collection with the new panel"
        place = {"MARZBAN_URL": old_panel.url, "MARZBAN_CA_PATH": str(old_panel.ca_path)}
        updated = world.apply(env=place).expect()  # the new collection with the old panel
        assert [updated.changes(host) for host in "ab"] == [{"wireguard": ["unit changed"]}] * 2
        written = len(old_panel.writes())
        declared = [{"name": name, "source": "a", "target": "b"} for name in ("new", "newer")]
        (result,) = run(world, [("tunnel_set", {"tunnels": declared}, False)], **place)
        assert [tunnel["change"] for tunnel in result["tunnels"]] == ["created", "created"]
        assert old_panel.writes()[written:] == ["POST /api/tunnels"] * 2, "it has no call for both"
    assert world.apply().expect().changed() == []
    assert (records(world), private_halves(world)) == before
    assert {value["status"] for value in world.tunnels().values()} == {"active"}
    assert {kind: pings[kind].stop() for kind in ("wireguard", "openvpn")} == {"wireguard": set(), "openvpn": set()}

    # What the old side made, the new one changes and removes.
    a = world.lab.host("a")
    ends = {name: tunnel["ends"][0]["interface"] for name, tunnel in world.tunnels().items()}
    world.change("wireguard", config={"mtu": 1312})
    world.api("DELETE", f"/tunnels/{world.tunnels()['openvpn']['id']}")
    changed = world.apply().expect()
    assert set(changed.changes("a")) == {"wireguard"}
    assert [result["name"] for result in changed.results("tunnel_apply", "a")[-1]["removed"]] == ["openvpn"]
    assert "mtu 1312" in a.run(["ip", "link", "show", ends["wireguard"]]).stdout
    assert a.run(["ip", "link", "show", ends["openvpn"]], check=False).returncode != 0
    world.expect_traffic(("wireguard", "a", "b"), ("ipsec", "a", "b"))
    assert pings["ipsec"].stop() == set()
