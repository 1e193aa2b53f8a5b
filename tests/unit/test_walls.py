# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The walls between the folders of plugins/module_utils: who may import what, also through others."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2] / "plugins" / "module_utils"
FILES = {".".join(path.relative_to(TOP).with_suffix("").parts): path for path in sorted(TOP.rglob("*.py"))}
#: folder → what its files may not import, themselves or through another file of ours
FORBIDDEN = {
    "_model": {"ansible", "os", "subprocess", "socket", "requests", "_node", "_protocols", "_panel", "_installer"},
    # These two also serve where there is no Ansible.
    "_node": {"ansible", "requests", "_panel", "_installer"},
    "_protocols": {"ansible", "requests", "_panel", "_installer"},
    "_panel": {"ansible", "subprocess", "_node", "_protocols", "_installer"},
    "_installer": {"requests", "_panel", "_protocols"},
}


def imports(name: str) -> set[str]:
    """What a file imports itself: our files by their dotted names, of others the top package."""
    found = set()
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            assert node.module
            assert "module_utils" not in node.module or node.module.startswith("ansible."), (
                f"{name}: imports inside module_utils are relative, so that they hold where there is no Ansible"
            )
            found.add(node.module.partition(".")[0])
        elif isinstance(node, ast.ImportFrom):
            base = [*name.split(".")[: -node.level], *(node.module or "").split(".")]
            for alias in node.names:
                inner = ".".join(filter(None, [*base, alias.name]))
                found.add(inner if inner in FILES else ".".join(filter(None, base)))
    return found


def reached(name: str) -> dict[str, list[str]]:
    """Everything that a file imports, with the way there."""
    ways: dict[str, list[str]] = {}
    todo = [(name, [name])]
    while todo:
        file, way = todo.pop()
        for found in imports(file):
            if found not in ways:
                ways[found] = [*way, found]
                if found in FILES:
                    todo.append((found, [*way, found]))
    return ways


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_a_folder_imports_nothing_from_behind_its_wall(folder: str) -> None:
    files = [name for name in FILES if name.startswith(folder + ".")]
    assert files
    for name in files:
        for found, way in reached(name).items():
            assert not {found, found.partition(".")[0]} & FORBIDDEN[folder], " → ".join(way)


def test_every_file_is_in_a_folder_with_walls() -> None:
    assert {name for name in FILES if name.partition(".")[0] not in FORBIDDEN} == {
        "_errors",
        "_module",
        "_panel_module",
    }


def test_no_file_imports_itself_through_others() -> None:
    for name in FILES:
        assert name not in reached(name), " → ".join(reached(name)[name])
