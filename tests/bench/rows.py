# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Rows of the bench: how they are measured, and the table and the JSON that they become.

A row is one thing beside another in the same run, because a second here is not a second there.
"""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ansible.release import __version__ as ansible_version

TOP = Path(__file__).resolve().parents[2]
FILE = TOP / ".cache/bench/bench.json"
REPEATS = int(os.environ.get("REPEATS") or 5)


@dataclass
class Row:
    """One line of the table. ``values`` are ratios, or counts of what ``unit`` names; the row's value is their median.

    ``seconds`` are the pairs of which the ratios were made, the first over the second: to check them, not to compare
    them with those of another machine. ``load`` is the machine's load average (1 minute) when the row began.
    """

    name: str
    goal: float  # at most
    values: list[float]
    unit: str = "ratio"
    seconds: list[tuple[float, float]] = field(default_factory=list)
    load: float = 0

    @property
    def value(self) -> float:
        return statistics.median(self.values)

    @property
    def met(self) -> bool:
        return self.value <= self.goal

    def cells(self) -> tuple[str, str, str, str]:
        """For the table: name, median, the lowest and the highest of how many, goal."""
        name = self.name if self.unit == "ratio" else f"{self.name}: {self.unit}"
        spread = f"{min(self.values):.3g} to {max(self.values):.3g} of {len(self.values)}"
        return name, f"{self.value:.3g}", spread, f"≤ {self.goal:g}{'' if self.met else ', not met'}"


def timed(run: Callable[[], object]) -> float:
    """Seconds that it takes."""
    start = time.monotonic()
    run()
    return time.monotonic() - start


def ratio(
    name: str,
    over: Callable[[], object],
    under: Callable[[], object],
    goal: float,
    *,
    prepare: Callable[[], object] | None = None,
    share: float = 1,
) -> Row:
    """Measure ``over`` ÷ ``under`` in turns, so that a disturbance hits both.

    ``prepare`` runs before each pair, outside the clock. ``share`` is multiplied into each ratio, for what is told per
    item when the two do different numbers of items.
    """
    load = os.getloadavg()[0]
    seconds = []
    for _time in range(REPEATS):
        if prepare:
            prepare()
        below = timed(under)
        seconds.append((timed(over), below))
    return Row(name, goal, [above / below * share for above, below in seconds], seconds=seconds, load=load)


def machine() -> dict[str, Any]:
    """Where it was measured. ``cores`` are those that this process may use; memory is in MiB."""
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": model.group(1) if model else platform.machine(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        "kernel": platform.release(),
    }


def versions() -> dict[str, str]:
    """What was measured."""
    version = re.search(r"^version: (.*)$", (TOP / "galaxy.yml").read_text(), re.MULTILINE)
    assert version
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=TOP, capture_output=True, text=True, check=False
    )
    return {
        "ansible-core": ansible_version,
        "Python": platform.python_version(),
        "collection": version.group(1),
        "commit": commit.stdout.strip() or "unknown",
    }


class Table:
    """The rows so far, written to ``file`` at each new one.

    Rows that the file has from an earlier run on the same machine and with the same versions stay in it, so that rows
    can be measured one at a time.
    """

    def __init__(self, file: Path = FILE) -> None:
        self.file = file
        self.head = {"machine": machine(), "versions": versions()}
        self.rows: dict[str, Row] = {}
        if file.exists():
            known = json.loads(file.read_text())
            if {key: known[key] for key in self.head} == self.head:
                for row in known["rows"]:
                    del row["value"], row["met"]
                    self.add(Row(**row))

    def add(self, *rows: Row) -> None:
        """Take these, in the place of earlier ones of the same name."""
        self.rows |= {f"{row.name} {row.unit}": row for row in rows}
        lines = [{**asdict(row), "value": row.value, "met": row.met} for row in self.rows.values()]
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps({**self.head, "rows": lines}, indent=1, ensure_ascii=False) + "\n")

    def lines(self) -> list[str]:
        """For a person: what was measured, where, and a table in Markdown."""
        where, what = self.head["machine"], self.head["versions"]
        rows = [("what", "median", "measured", "goal"), *(row.cells() for row in self.rows.values())]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
        lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
        return [
            f"{where['cores']} cores, {where['cpu']}, {where['memory']} MiB, Linux {where['kernel']}",
            ", ".join(f"{name} {version}" for name, version in what.items()),
            "",
            *lines,
        ]
