# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""``python -m marzban_tunnels``."""

from __future__ import annotations

import sys

from marzban_tunnels.standalone.cli import main

if __name__ == "__main__":
    sys.exit(main())
