# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Panels with a manager, and stand-ins for the node service."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from marzban_tunnels.standalone.database import Database
from tests.support.managed_pair import Pair, copied
from tests.support.managed_panel import ManagedPanel
from tests.support.simulated_node import Nodes


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with Nodes() as nodes:
        yield nodes


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database with all tables, which cost more than a copy."""
    path = tmp_path_factory.mktemp("tables") / "panel.db"
    with Database(str(path)) as database:
        database.upgrade()
    return path


@pytest.fixture
def database(tables: Path, tmp_path: Path) -> Path:
    return copied(tables, tmp_path / "panel.db")


@pytest.fixture(scope="module")
def panel(tables: Path) -> Iterator[ManagedPanel]:
    """One that the tests share; each has nodes of its own."""
    with ManagedPanel(copied(tables, tables.with_name("shared.db"))) as panel:
        yield panel


@pytest.fixture
def pair(panel: ManagedPanel, nodes: Nodes, request: pytest.FixtureRequest) -> Iterator[Pair]:
    pair = Pair(panel, nodes, request.node.name[:40])
    yield pair
    for number in pair.ids:
        assert panel.api.own("DELETE", f"/api/node/{number}").status_code in (200, 404)


@pytest.fixture(scope="module")
def shared(panel: ManagedPanel, nodes: Nodes) -> Pair:
    return Pair(panel, nodes, "shared")
