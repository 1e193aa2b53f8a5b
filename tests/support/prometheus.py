# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Prometheus, and its promtool, out of Debian's package: as files only, so that no service of this machine starts."""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.lab import machine
from tests.support.marzban import TOP

FOLDER = TOP / ".cache/prometheus"


@functools.cache
def tool(name: str) -> str:
    """The path of ``prometheus`` or ``promtool``."""
    if found := shutil.which(name, path=machine.SYSTEM_PATH):
        return found
    FOLDER.parent.mkdir(exist_ok=True)
    with machine.lock(FOLDER.parent / "prometheus.lock"):
        if not FOLDER.exists():
            _unpack()
    return str(FOLDER / "usr/bin" / name)


def _unpack() -> None:
    with tempfile.TemporaryDirectory(dir=FOLDER.parent, prefix="prometheus-") as place:
        get = ["apt-get", "-q", "download", "prometheus"]
        if subprocess.run(
            get, cwd=place, capture_output=True, check=False
        ).returncode:  # the lists may be old, or absent
            machine.run(["apt-get", "update", "-q"], timeout=300)
            subprocess.run(get, cwd=place, check=True)
        (package,) = Path(place).glob("*.deb")
        machine.run(["dpkg-deb", "--extract", str(package), f"{place}/files"], timeout=120)
        Path(place, "files").rename(FOLDER)


def promtool(*words: str, text: str | None = None) -> str:
    """What it says; fails where it finds something wrong."""
    done = subprocess.run([tool("promtool"), *words], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
