# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""`python3 tests/lab …`, and `python3 -m tests.lab …`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

if __package__:
    from .cli import main
else:
    # Run as a folder: its modules must not hide others of their names (apt, …), and import each other as a package.
    here = Path(__file__).resolve().parent
    sys.path[:] = [str(here.parent), *(p for p in sys.path if p and Path(p).resolve() != here)]
    main = importlib.import_module(f"{here.name}.cli").main

if __name__ == "__main__":
    sys.exit(main())
