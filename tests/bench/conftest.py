# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make bench BENCH="mesh ring" REPEATS=1`: which rows, by the names of their tests, and how often; all, five times."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.bench.rows import TOP, Table
from tests.integration.conftest import make_world

__all__ = ["make_world"]
TABLE = pytest.StashKey[Table]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = os.environ.get("BENCH", "").split()
    rows = {item: item.name.partition("[")[0].removeprefix("test_") for item in items}
    unknown = set(wanted) - set(rows.values())
    if unknown:
        raise pytest.UsageError(
            f"BENCH: no row {', '.join(unknown)}; there are: {', '.join(sorted(set(rows.values())))}"
        )
    if wanted:
        config.hook.pytest_deselected(items=[item for item in items if rows[item] not in wanted])
        items[:] = [item for item in items if rows[item] in wanted]


@pytest.fixture(scope="session")
def table(request: pytest.FixtureRequest) -> Table:
    """Takes the rows; printed at the end."""
    request.config.stash[TABLE] = made = Table()
    return made


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For the files of panels."""
    return tmp_path_factory.mktemp("bench")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    made = terminalreporter.config.stash.get(TABLE, None)
    if made and made.rows:
        terminalreporter.section(f"bench ({made.file.relative_to(TOP)})")
        for line in made.lines():
            terminalreporter.write_line(line)
