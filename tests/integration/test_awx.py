# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""docs/awx.md without an AWX: its credential type, and its project, which installs the collection and needs no more."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tests.support import recipes
from tests.support.world import TOP, World, ansible_environment

PAGE = recipes.read("awx.md")
INPUT, INJECTOR = (yaml.safe_load(text) for text in PAGE["3. Credential type"].files.values())


def injected(inputs: dict[str, str], folder: Path) -> dict[str, str]:
    """The environment that AWX makes of the credential: it renders each template strictly, files first."""
    names = {name.removeprefix("template."): str(folder / name) for name in INJECTOR["file"]}
    known: dict[str, Any] = {**inputs, "tower": {"filename": names}}
    jinja = ImmutableSandboxedEnvironment(undefined=StrictUndefined)
    for name, template in INJECTOR["file"].items():
        (folder / name).write_text(jinja.from_string(template).render(known))
    return {name: jinja.from_string(template).render(known) for name, template in INJECTOR["env"].items()}


@pytest.mark.parametrize("ca", [None, "", "-----BEGIN CERTIFICATE-----\n"], ids=["left out", "empty", "given"])
def test_the_credential(ca: str | None, tmp_path: Path) -> None:
    inputs = {name: f"the {name}" for name in INPUT["required"]} | ({} if ca is None else {"ca": ca})
    assert {field["id"] for field in INPUT["fields"]} == {*INPUT["required"], "ca"}
    assert [field["id"] for field in INPUT["fields"] if field.get("secret")] == ["password"]
    assert injected(inputs, tmp_path) == {
        "MARZBAN_URL": "the url",
        "MARZBAN_USERNAME": "the username",
        "MARZBAN_PASSWORD": "the password",
        "MARZBAN_CA_PATH": str(tmp_path / "template.ca") if ca else "",
    }


def test_the_project(make_world: Callable[..., World], tmp_path: Path) -> None:
    """As AWX runs it: the requirements, an update of the inventory, a job."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=TOP, capture_output=True, text=True, check=False)
    if commit.returncode:
        pytest.skip("not a git checkout")
    world = make_world()
    world.api("POST", "/node", json={"name": "de-1", "address": "203.0.113.7", "add_as_new_host": False})
    project = tmp_path / "project"
    files = PAGE["1. Project"].files
    assert list(files) == ["collections/requirements.yml", "marzban.yml", "tunnels.yml", "services.yml"]
    for name, text in files.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(
            text.replace("https://GIT-URL", f"file://{TOP}").replace("TAG", commit.stdout.strip())
        )
    (tmp_path / "ansible.cfg").touch()
    login = {"url": world.panel.url, "username": world.panel.username, "password": world.panel.password}
    env = {
        **ansible_environment(tmp_path),
        "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"),
        "ANSIBLE_CALLBACKS_ENABLED": "",
        "ANSIBLE_COLLECTIONS_PATH": str(project / "collections"),
        **injected({**login, "ca": Path(str(world.panel.ca_path)).read_text()}, tmp_path),
    }

    def run(*words: str) -> str:
        done = subprocess.run(words, cwd=project, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("ansible-galaxy", "collection", "install", "-r", "collections/requirements.yml", "-p", "collections")
    update = json.loads(run("ansible-inventory", "-i", "marzban.yml", "--list", "--export"))
    assert update["marzban_nodes"]["hosts"] == ["de-1"]
    plays = run("ansible-playbook", "-i", "marzban.yml", "tunnels.yml", "--list-tasks")
    assert "Join the nodes" in plays
    assert "The node service" in run("ansible-playbook", "-i", "marzban.yml", "services.yml", "--list-tasks")
