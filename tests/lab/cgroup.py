# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Processes of a lab, held together by control groups (version 2): /marzban-tunnels-lab/<lab>/<host>.

A lab ends by its group's `cgroup.kill`, so nothing is ever ended by a name that another process may have.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from . import machine

TOP = "marzban-tunnels-lab"
#: Where the hierarchy is mounted on a machine that has none.
OWN_MOUNT = Path("/run/marzban-tunnels-lab.cgroup")
#: Names a file to which `kill` adds a line for each lab that it ends: its CPU seconds, its name.
COSTS = "MARZBAN_LAB_COSTS"

#: Groups of the labs in which this process has started something.
_labs: set[Path] = set()
#: CPU seconds of those that it has ended.
_spent = 0.0


def hierarchy() -> Path:
    """Where the machine's cgroup2 is mounted; on a machine without it, it is mounted now."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    found = [where for _source, where, kind, *_rest in mounts if kind == "cgroup2"]
    if found:
        return Path(found[0])
    OWN_MOUNT.mkdir(exist_ok=True)
    machine.run(["mount", "-t", "cgroup2", "none", str(OWN_MOUNT)])
    return OWN_MOUNT


def group(*names: str) -> Path:
    """The folder of a group, which need not exist: group("demo", "a")."""
    return hierarchy().joinpath(TOP, *names)


def joining(path: Path, command: Sequence[str]) -> list[str]:
    """The command that runs `command` inside the group, which is made when it is missing."""
    path.mkdir(parents=True, exist_ok=True)
    if lab := _lab(path):
        _labs.add(lab)
    return ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(path / "cgroup.procs"), *command]


def processes(path: Path) -> list[int]:
    """Numbers of the processes in exactly this group."""
    try:
        return [int(word) for word in (path / "cgroup.procs").read_text().split()]
    except OSError:
        return []


def kill(path: Path) -> None:
    """End every process in the group and below, wait until they are gone, and remove the groups."""
    if not path.exists():
        return
    _account(path)
    with contextlib.suppress(FileNotFoundError):
        (path / "cgroup.kill").write_text("1")
        events = path / "cgroup.events"
        machine.until(f"end of the processes in {path}", lambda: "populated 0" in events.read_text(), 20, 0.005)
    # A dying process can hold its group for an instant.
    machine.until(f"removal of {path}", lambda: _removed(path), 5, 0.005)


def cpu_seconds() -> float:
    """CPU seconds of the labs in which this process has started something, the ended ones too."""
    return _spent + sum(map(_usage, _labs))


def _lab(path: Path) -> Path | None:
    """The group of the lab that this group belongs to."""
    top = group()
    return next((folder for folder in (path, *path.parents) if folder.parent == top), None)


def _account(path: Path) -> None:
    """Keep what a lab has cost whose group is about to be removed."""
    global _spent
    if path != _lab(path):
        return
    usage = _usage(path)
    if path in _labs:
        _labs.remove(path)
        _spent += usage
    if log := os.environ.get(COSTS):
        with open(log, "a") as file:
            file.write(f"{usage:.1f} {path.name}\n")


def _usage(path: Path) -> float:
    try:
        words = (path / "cpu.stat").read_text().split()
    except OSError:  # not made yet, or removed
        return 0.0
    return int(words[words.index("usage_usec") + 1]) / 1e6


def _removed(path: Path) -> bool:
    for folder, _folders, _files in os.walk(path, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(folder)
    return not path.exists()
