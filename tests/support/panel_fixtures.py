# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Nodes for a test, on whatever panel ``api`` speaks to, and a database server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.panel_api import Api
from tests.support.servers import MariaDB


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    """A MariaDB server."""
    with MariaDB() as server:
        yield server


@pytest.fixture
def make_node(api: Api) -> Iterator[Callable[..., Any]]:
    """Makes nodes, and deletes them after the test (with their tunnels)."""
    made = []

    def make(**fields: Any) -> Any:
        made.append(api.node(**fields))
        return made[-1]

    yield make
    for node in made:
        assert api.own("DELETE", f"/api/node/{node['id']}").status_code in (200, 404)


@pytest.fixture
def pair(make_node: Callable[..., Any]) -> tuple[Any, Any]:
    """Two nodes."""
    return make_node(address="203.0.113.1"), make_node(address="203.0.113.2")
