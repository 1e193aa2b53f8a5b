# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is copied beside the add-on for its metrics, out of the host's own Python."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import prometheus_client
import pytest

from ansible_collections.marzban.tunnels.plugins.module_utils._installer import library, package
from tests.support.world import TOP


@pytest.fixture
def debian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of Debian's; nothing else is in Python's path."""
    place = tmp_path / "dist-packages"
    place.mkdir()
    monkeypatch.setattr(library, "_DEBIAN", str(place))
    monkeypatch.setattr(sys, "path", [])
    return place


def test_nothing_where_the_host_lacks_it(debian: Path) -> None:
    assert library.files() == {}
    (debian / "prometheus_client").mkdir()  # what is left of a package that was removed
    assert library.files() == {}
    installed = {"start.py": b"", "libraries/prometheus_client/__init__.py": b"1"}
    assert library.kept(installed) == {"libraries/prometheus_client/__init__.py": b"1"}
    assert library.kept(None) == {}


def test_the_copy_works_alone(debian: Path, tmp_path: Path) -> None:
    shutil.copytree(Path(prometheus_client.__file__).parent, debian / "prometheus_client")
    (debian / "decorator.py").write_text("")  # Debian's package has it apart
    (debian / "prometheus_client/x.so").write_bytes(b"\x7fELF")
    (debian / "other.py").write_text("")
    found = library.files()
    assert "libraries/decorator.py" in found
    assert {name.rpartition(".")[2] for name in found} == {"py"}
    assert not [name for name in found if "other" in name]
    assert package.unpack(package.pack({"start.py": b"", **found})) == {"start.py": b"", **found}
    for name, content in found.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    code = (
        "import sys; sys.path[0:0] = sys.argv[1:]; from marzban_tunnels import end_metrics;"
        " print(end_metrics.text(end_metrics.families([])).decode())"
    )
    command = [sys.executable, "-I", "-S", "-c", code, str(tmp_path / "libraries"), str(TOP / "roles/panel/files")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "# TYPE marzban_tunnel_recoveries_total counter" in said


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [({}, False), ({"TUNNEL_METRICS_KEY": " "}, False), ({"TUNNEL_METRICS_KEY": "x"}, True)],
)
def test_when_it_is_wanted(environment: dict[str, str], wanted: bool) -> None:
    assert library.is_wanted(environment) == wanted
