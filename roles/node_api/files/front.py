# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The front of the node service, as its unit starts it: ``front.py PORT [SOCKET OF THE ROOT HALF]``."""

from __future__ import annotations

import os
import sys

# python3 -I does not look beside this file.
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

from marzban_node import front

if __name__ == "__main__":
    front.main(sys.argv[1:])
