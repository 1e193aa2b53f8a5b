# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Fixtures for the tests of the standalone panel."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.panel import Panel
from tests.support.panel_api import Api, client
from tests.support.panel_fixtures import make_node, mariadb, pair

__all__ = ["api", "make_node", "mariadb", "pair", "panel"]


@pytest.fixture(scope="session")
def panel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Panel]:
    """A standalone panel that all tests share. Its tokens are good for 70 minutes."""
    env = {"JWT_ACCESS_TOKEN_EXPIRE_MINUTES": "70"}
    with Panel.start(tmp_path_factory.mktemp("panel"), env=env) as panel:
        yield panel


@pytest.fixture(scope="session")
def api(panel: Panel) -> Iterator[Api]:
    """A client of the shared panel."""
    api = client(panel)
    yield api
    api.session.close()
