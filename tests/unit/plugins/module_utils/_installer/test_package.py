# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The add-on's folder, and which folders are removed with it: those that were made for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import Error, FieldError
from ansible_collections.marzban.tunnels.plugins.module_utils._installer.package import Folder, Made

FILES = {"start.py": b"", "marzban_tunnels/__init__.py": b""}


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "backups" / "folders.json"


def test_a_folder_and_the_way_back(tmp_path: Path, mark: Path) -> None:
    folder = Folder(str(tmp_path / "tunnels"), Made(str(mark)))
    assert folder.files() is None
    first, second = {"start.py": b"1", "marzban_tunnels/a/b.py": b"2"}, {"start.py": b"3"}
    folder.put(first)
    (tmp_path / "tunnels/marzban_tunnels/a/__pycache__").mkdir()
    (tmp_path / "tunnels/marzban_tunnels/a/__pycache__/b.pyc").write_bytes(b"")
    assert folder.files() == first
    folder.settle()
    fresh = Folder(folder.path, Made(str(mark)))
    fresh.put_back()
    assert fresh.files() == first, "what it has not done it does not undo"
    fresh.put(second)
    assert fresh.files() == second
    fresh.put_back()
    assert fresh.files() == first
    # Cut off between its two renames
    (tmp_path / "tunnels").rename(tmp_path / ".tunnels.old")
    Folder(folder.path, Made(str(mark))).settle()
    assert folder.files() == first
    assert [path.name for path in tmp_path.iterdir()] == ["tunnels"]
    folder.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_ours_alone(tmp_path: Path, mark: Path) -> None:
    (tmp_path / "db.sqlite3").write_text("")
    with pytest.raises(Error, match=r"holds what is not the add-on's: db\.sqlite3\. Give"):
        Folder(str(tmp_path), Made(str(mark))).files()
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(Error, match=r"holds what is not the add-on's: a link"):
        Folder(str(tmp_path / "link"), Made(str(mark))).files()
    with pytest.raises(FieldError, match="panel_directory"):
        Folder("/var/lib/marzban/$(x)", Made(str(mark)))


def test_folders_that_were_there_stay(tmp_path: Path, mark: Path) -> None:
    theirs = tmp_path / "srv"
    theirs.mkdir(mode=0o2750)
    folder = Folder(str(theirs / "tunnels"), Made(str(mark)))
    folder.put(FILES)
    folder.remove()
    Made(str(mark)).remove()
    assert list(theirs.iterdir()) == []


@pytest.mark.parametrize("run", ["same", "later"])
def test_folders_that_were_made_go(tmp_path: Path, mark: Path, run: str) -> None:
    made = Made(str(mark))
    folder = Folder(str(tmp_path / "srv/deep/er/tunnels"), made)
    folder.put(FILES)
    if run == "same":
        folder.put_back()
        made.undo()
    else:
        folder.remove()
        Made(str(mark)).remove()
    assert list(tmp_path.iterdir()) == [mark.parent]
    assert not mark.exists()


def test_a_folder_that_the_operator_uses_by_now_stays(tmp_path: Path, mark: Path) -> None:
    made = Made(str(mark))
    made.make(str(tmp_path / "srv/deep"))
    made.make(str(tmp_path / "other"))
    (tmp_path / "srv/theirs").touch()
    (tmp_path / "other").rename(tmp_path / "kept")
    (tmp_path / "other").mkdir()
    Made(str(mark)).remove()
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "backups",
        "kept",
        "other",
        "srv",
        "srv/theirs",
    ]


def test_a_mark_that_somebody_has_damaged_removes_nothing(tmp_path: Path, mark: Path) -> None:
    (tmp_path / "srv").mkdir()
    mark.parent.mkdir()
    for text in ("", "[", "[]", "3", f'{{"{tmp_path}/srv": "x"}}'):
        mark.write_text(text)
        Made(str(mark)).remove()
        assert (tmp_path / "srv").is_dir()
