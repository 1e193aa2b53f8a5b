# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The way out of the role panel where nothing else works: a Marzban that does not start with the add-on any more.

On the hosts of test_role_panel.py, with the same STAND-INS; the module is called without Ansible (addon_direct.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import addon_direct
from tests.support.panel_hosts import COMPOSE, UNIT, ComposeHost, PanelHost, SystemdHost, hosts_of
from tests.support.world import World, until

pytestmark = pytest.mark.lab
BACKUPS = "/var/backups/marzban-tunnels"
FOLDER = "/var/lib/marzban/tunnels"
DOCKER = "/usr/local/lib/docker-stand-in"
NAMES = ("de-fi", "de-nl")


@pytest.fixture(scope="module")
def hosts(make_world: Callable[..., World]) -> tuple[ComposeHost, SystemdHost]:
    both = hosts_of(make_world(register=False, c="bookworm", s="trixie"))
    for host in both:
        addon_direct.prepare(host)
    return both


def present(host: PanelHost, **more: Any) -> dict[str, Any]:
    return addon_direct.run(host, **more)


def absent(host: PanelHost, **more: Any) -> dict[str, Any]:
    return addon_direct.run(host, state="absent", **more)


@pytest.fixture
def c(hosts: tuple[ComposeHost, SystemdHost]) -> Iterator[ComposeHost]:
    """Under Compose, with the add-on. The image is the known one again at the end, and nothing of ours is left."""
    host = hosts[0]
    stock = host.snapshot()
    assert present(host)["panel"]
    yield host
    known_image(host)
    if host.read(host.config) != COMPOSE:
        mode, content = stock[host.config]
        host.write(host.config, content.decode(), mode)
    host.restart()
    if host.path(FOLDER).exists():
        absent(host, remove_records=True)
    assert host.snapshot() == stock


@pytest.fixture
def s(hosts: tuple[ComposeHost, SystemdHost]) -> Iterator[SystemdHost]:
    """Under systemd, with the add-on, by the Python of a virtual environment."""
    host = hosts[1]
    stock = host.snapshot()
    host.host.run("ln -sfn /usr/bin/python3 /usr/local/bin/old-python")
    host.write(host.config, UNIT.replace("/usr/bin/env python3", "/usr/local/bin/old-python"))
    host.restart()
    assert present(host)["panel"]
    yield host
    host.write(host.config, UNIT)
    absent(host, remove_records=True)
    assert host.snapshot() == stock
    host.restart()


def another_image(host: ComposeHost) -> None:
    """As `marzban update` brings it one day: its packages are off the path of `python`, and only its own command knows
    where they are."""
    program = host.path(f"{DOCKER}/bin/python")
    program.write_text("#!/bin/sh\necho \"ModuleNotFoundError: No module named 'click'\" >&2\nexit 1\n")
    host.path(f"{DOCKER}/image.json").write_text(json.dumps(["/usr/bin/python3", "main.py"]))
    host.compose("up", "-d", "--force-recreate", "marzban")
    until("a panel that does not answer", lambda: not host.up())


def known_image(host: ComposeHost) -> None:
    host.path(f"{DOCKER}/bin/python").write_text('#!/bin/sh\nexec python3 "$@"\n')
    host.path(f"{DOCKER}/image.json").unlink(missing_ok=True)


def another_python(host: SystemdHost) -> None:
    """The operator has made a new virtual environment, and edited the unit; the drop-in still names the old one."""
    host.host.run("rm /usr/local/bin/old-python")
    host.write(host.config, UNIT)
    host.host.run("systemctl daemon-reload; systemctl restart marzban", check=False)
    until("a panel that does not answer", lambda: not host.up())


def test_removal_from_an_image_that_starts_in_another_way(c: ComposeHost) -> None:
    config = c.snapshot()[c.config]
    c.tunnels(*NAMES)
    another_image(c)
    planned = absent(c, check=True)
    assert c.snapshot()[c.config] == config
    answer = absent(c)
    assert answer["changes"] == planned["changes"] == [f"{c.config}: command taken out", "restarted"]
    assert c.alone()
    assert c.read(c.config) == COMPOSE
    assert "its tables stay in the database" in answer["left"]
    assert "ModuleNotFoundError: No module named 'click'" in answer["left"]
    assert c.path(f"{FOLDER}/start.py").exists(), "the only thing that can drop the tables"
    assert not c.path(f"{BACKUPS}/pending").exists()

    again = absent(c)
    assert (again["changed"], again["left"]) == (False, answer["left"])

    known_image(c)
    assert absent(c)["msg"].startswith("The panel still has 2 tunnels (de-fi, de-nl).")
    assert c.path(FOLDER).exists()
    done = absent(c, remove_records=True)
    assert done["changes"] == [f"{FOLDER}: add-on removed", "tables dropped"]
    kept = json.loads(c.path(done["records"]).read_text())["tunnels"]
    assert [tunnel["name"] for tunnel in kept] == list(NAMES)
    assert not c.path(FOLDER).exists()


@pytest.mark.variation
def test_installation_on_an_image_that_starts_in_another_way(c: ComposeHost) -> None:
    """There is nothing to change, and a restart does not help: a panel without tunnels is better than none."""
    another_image(c)
    said = present(c)["msg"]
    assert "Only a restart was tried. Without the add-on's lines Marzban starts, so they were taken out of" in said
    assert c.alone()
    assert c.read(c.config) == COMPOSE
    assert c.path(FOLDER).exists()
    said = present(c)["msg"]
    assert said.endswith("The old state is back, and the panel answers.")
    assert c.alone()
    known_image(c)
    assert present(c)["changes"] == [f"{c.config}: command written", "restarted"]
    assert c.serves()


@pytest.mark.variation
def test_a_panel_that_starts_in_no_way_keeps_its_lines(c: ComposeHost) -> None:
    main = c.path("/code/main.py")
    good, before = main.read_text(), c.snapshot()
    main.write_text("raise SystemExit('error: out of order')\n")
    c.compose("up", "-d", "--force-recreate", "marzban")
    said = present(c)["msg"]
    assert "Its log: error: out of order. Only a restart was tried." in said
    assert said.endswith(f"It does not start without the add-on's lines either, so they are back in {c.config}.")
    assert c.snapshot() == before
    # The removal is asked for, and its tables can be reached: a panel that is down does not prevent it.
    answer = absent(c)
    assert "The add-on's lines are out of" in answer["msg"]
    assert "error: out of order" in answer["msg"]
    assert c.read(c.config) == COMPOSE
    main.write_text(good)
    c.restart()
    assert absent(c)["changes"] == [f"{FOLDER}: add-on removed", "tables dropped"]


@pytest.mark.variation
def test_removal_where_marzban_has_become_another_panel(c: ComposeHost) -> None:
    """Its image is another project's by now: what is to be taken out are lines that say whose they are."""
    mode, content = c.snapshot()[c.config]
    c.write(c.config, content.decode().replace("gozargah/marzban:v0.8.4", "pasarguard/panel:latest"), mode)
    c.compose("up", "-d", "--force-recreate", "marzban")
    assert "The add-on's lines are out of" in absent(c)["msg"]
    assert c.read(c.config) == COMPOSE.replace("gozargah/marzban:v0.8.4", "pasarguard/panel:latest")


@pytest.mark.variation
def test_removal_of_a_panel_that_was_only_stopped(c: ComposeHost) -> None:
    c.tunnels(*NAMES)
    c.compose("down")
    said = absent(c)["msg"]
    assert said.startswith("The panel still has 2 tunnels (de-fi, de-nl). Take them off the nodes first")
    assert c.serves(), "it runs again, as it was"


@pytest.mark.variation
def test_installation_repairs_what_the_unit_has_lost(s: SystemdHost) -> None:
    another_python(s)
    changes = present(s)["changes"]
    assert changes == ["/etc/systemd/system/marzban.service.d/marzban-tunnels.conf: drop-in written", "restarted"]
    assert s.serves()


@pytest.mark.variation
def test_removal_from_a_unit_that_has_changed(s: SystemdHost) -> None:
    """Its records can be read, and nobody has said that they may be deleted: they stay, and the panel starts."""
    s.tunnels(*NAMES)
    another_python(s)
    answer = absent(s)
    assert (
        "They have 2 tunnels (de-fi, de-nl): set remove_records (panel_remove_records in the role) to true"
        in answer["left"]
    )
    assert s.alone()
    assert Path(s.path(FOLDER)).exists()
    done = absent(s, remove_records=True)
    assert done["changes"] == [f"{FOLDER}: add-on removed", "tables dropped"]


@pytest.mark.variation
@pytest.mark.parametrize("folder", ["/srv/tunnels", "/srv/deep/er/tunnels"])
def test_only_the_folders_that_were_made_are_removed(s: SystemdHost, folder: str) -> None:
    absent(s)
    dropins = s.path("/etc/systemd/system/marzban.service.d")
    assert not dropins.exists()
    dropins.mkdir()
    srv = s.path("/srv").stat()
    present(s, directory=folder)
    assert s.serves()
    done = absent(s, directory=folder)
    assert not done.get("failed"), done
    assert s.path("/srv").stat().st_ino == srv.st_ino
    assert list(s.path("/srv").iterdir()) == []
    assert list(dropins.iterdir()) == [], "it was there before, and is the operator's"
    dropins.rmdir()
    assert not s.path(f"{BACKUPS}/folders.json").exists()
