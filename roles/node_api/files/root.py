# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Starts the root half of the node service, from the folder that this file is in."""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from marzban_node.root import main

if __name__ == "__main__":
    sys.exit(main())
