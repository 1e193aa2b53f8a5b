# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The contract: what every door says over HTTP.

``api`` is a client of each door in turn: the standalone panel, the add-on in a stand-in for Marzban, and, where
MARZBAN_SRC names a checkout, in a real Marzban on SQLite and on MariaDB. DOORS="standalone marzban-mariadb" picks some.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import marzban
from tests.support.marzban import Marzban
from tests.support.panel import Panel
from tests.support.panel_api import Api, client
from tests.support.panel_fixtures import make_node, mariadb, pair

__all__ = ["api", "make_node", "mariadb", "pair"]
# The contract is the panel's alone. Without the variable Marzban's door calls the nodes by its client certificate.
NO_MANAGER: dict[str, Any] = {"NODE_API_KEY": ""}
METRICS_KEY = "fedcba9876543210" * 4
SETTINGS = {**NO_MANAGER, "TUNNEL_METRICS_KEY": METRICS_KEY}
DOORS = os.environ.get("DOORS", "standalone mounted marzban-sqlite marzban-mariadb").split()


@pytest.fixture(scope="session", params=DOORS)
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A client of the door."""
    door = request.param
    directory = tmp_path_factory.mktemp(door)
    # tokens are good for 70 minutes
    if door == "standalone":
        with Panel.start(directory, env={"JWT_ACCESS_TOKEN_EXPIRE_MINUTES": "70", **SETTINGS}) as panel:
            api = client(panel)
            yield api
            api.session.close()
        return
    real = door != "mounted"
    if real and not marzban.source():
        pytest.skip(marzban.MISSING)
    database = request.getfixturevalue("mariadb").database("marzban") if door == "marzban-mariadb" else ""
    with Marzban(directory, database, real=real, **SETTINGS) as running:
        api = running.api()
        yield api
        api.session.close()
