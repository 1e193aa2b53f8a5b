# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest

from tests.support.costs import Costs


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Costs())
