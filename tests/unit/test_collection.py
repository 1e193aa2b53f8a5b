# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the collection promises about itself, held against its files."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

from ansible_collections.marzban.tunnels.plugins.module_utils._model import types
from ansible_collections.marzban.tunnels.plugins.module_utils._protocols import registry

TOP = Path(__file__).resolve().parents[2]
ROLES = sorted(path.parent.parent.name for path in TOP.glob("roles/*/meta/argument_specs.yml"))
MODULES = sorted(path.stem for path in TOP.glob("plugins/modules/*.py"))


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=TOP, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [TOP / name for name in listed.stdout.split("\0") if name and (TOP / name).is_file()]


def read(path: str) -> Any:
    return yaml.safe_load((TOP / path).read_text())


@pytest.mark.parametrize("role", ROLES)
def test_defaults_are_those_of_the_argument_specs(role: str) -> None:
    specs = read(f"roles/{role}/meta/argument_specs.yml")["argument_specs"]
    defaults = read(f"roles/{role}/defaults/main.yml")
    assert defaults.keys() <= {name for spec in specs.values() for name in spec["options"]}
    for entry, spec in specs.items():
        options = spec["options"]
        stated = {name: option["default"] for name, option in options.items() if "default" in option}
        assert (entry, stated) == (entry, {name: value for name, value in defaults.items() if name in options})
        assert all(name.startswith(f"{role}_") for name in options)


def test_the_add_on_has_the_collections_version_and_nothing_is_from_a_later_one() -> None:
    version = read("galaxy.yml")["version"]
    assert f'__version__ = "{version}"' in (TOP / "roles/panel/files/marzban_tunnels/__init__.py").read_text()
    added = {
        tuple(map(int, found.split(".")))
        for path in [*TOP.glob("plugins/**/*.py"), *TOP.glob("roles/*/meta/*.yml")]
        for found in re.findall(r"version_added: [\"']?([0-9.]+)", path.read_text())
    }
    assert added
    assert max(added) <= tuple(map(int, version.partition("-")[0].split(".")))


class Missing(jinja2.ChainableUndefined, jinja2.StrictUndefined):
    """A variable that Ansible does not know, nor anything in it: only ``default`` makes something of it."""


@pytest.mark.parametrize("file", sorted(TOP.glob("roles/*/tasks/*.yml")), ids=lambda file: "/".join(file.parts[-3:]))
def test_the_name_of_a_file_to_include_can_be_evaluated_without_a_host(file: Path) -> None:
    """ansible-core 2.17 does that where the file imports another one, and ends the playbook where it can't."""
    names = [
        task["ansible.builtin.include_tasks"] for task in read(str(file)) if "ansible.builtin.include_tasks" in task
    ]
    for name in names:
        assert jinja2.Environment(undefined=Missing, autoescape=True).from_string(name).render().strip()


def test_packages_come_without_recommended_ones() -> None:
    """No lab host would show it: a kernel, which they would bring, is pinned away there."""
    tasks = read("roles/tunnels/tasks/step_install.yml")
    asked = {
        name: task[f"ansible.builtin.{name}"]
        for name in ("apt", "dnf")
        for task in tasks
        if f"ansible.builtin.{name}" in task
    }
    assert asked["apt"]["install_recommends"] is False
    assert asked["dnf"]["install_weak_deps"] is False


@pytest.mark.parametrize("kind", types.TYPES)
def test_a_role_removes_packages_that_a_run_installs(kind: str) -> None:
    """Which they are is data of the protocol; Ansible reads the roles' as literals."""
    role, packages = types.BY_TYPE[kind].role, registry.protocol(kind).packages
    task = next(task for task in read(f"roles/{role}/tasks/main.yml") if "ansible.builtin.package" in task)
    named = str(task["ansible.builtin.package"]["name"])
    if "{{" in named:
        named = read(f"roles/{role}/vars/main.yml")[f"{role}_own_packages"]
    removed = set(re.findall(r"[a-z]+(?:-[a-z]+)*", " ".join(re.findall(r"'([a-z-]+)'", named)) or named))
    assert removed
    assert removed <= {name for names in packages.by_family.values() for name in names.values()}


@pytest.mark.parametrize("module", MODULES)
def test_each_module_is_proven_on_real_things(module: str) -> None:
    text = "".join(path.read_text() for path in TOP.glob("tests/integration/*.py"))
    roles = "".join(path.read_text() for path in TOP.glob("roles/*/tasks/*.yml"))
    asked = rf"""marzban\.tunnels\.{module}\b|\("{module}", |results\("{module}"|"{module}","""
    assert re.search(asked, text) or f"marzban.tunnels.{module}:" in roles


def test_the_action_group_holds_the_modules_that_speak_to_the_panel() -> None:
    runtime = read("meta/runtime.yml")
    speakers = {
        name for name in MODULES if "marzban.tunnels.panel\n" in (TOP / f"plugins/modules/{name}.py").read_text()
    }
    group = {name for name in runtime["action_groups"]["panel"] if isinstance(name, str)}  # the other entry is metadata
    assert group == speakers


def test_every_file_of_code_says_its_licence() -> None:
    code = [path for path in tracked() if path.suffix in (".py", ".yml", ".j2") or path.parent.name == "tools"]
    silent = [
        path for path in code if path.stat().st_size and "SPDX-License-Identifier: " not in path.read_text()[:2000]
    ]
    # antsibull-changelog rewrites its own file at each release, without comments
    assert [path.relative_to(TOP) for path in silent if path.name != "changelog.yaml"] == []


def test_what_lives_beside_marzban_is_agpl() -> None:
    package = [
        path for path in tracked() if "roles/panel/files" in str(path) and path.suffix == ".py" and path.stat().st_size
    ]
    assert package
    assert [path.name for path in package if "AGPL-3.0-or-later" not in path.read_text()[:300]] == []
