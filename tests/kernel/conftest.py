# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from tests.integration.conftest import make_world

__all__ = ["make_world"]
