# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A STAND-IN for the add-on's entry. Its tables are one file in the folder that the setting DATA names."""

from __future__ import annotations

import importlib
import json
import os
import runpy
import sys
from pathlib import Path

sys.path[:] = [os.getcwd(), *sys.path]
settings = importlib.import_module("config").settings
tables = Path(settings.get("DATA", ".")) / "tables.json"

if sys.argv[1:] == ["records"]:
    there = tables.exists()
    tunnels = json.loads(tables.read_text()) if there else []
    print(json.dumps({"version": "0.0.0", "revision": "0001" if there else None, "tunnels": tunnels}))
elif sys.argv[1:] == ["remove"]:
    tables.unlink()
else:
    if not tables.exists():
        tables.write_text("[]")
    panel = importlib.import_module("marzban_tunnels").PANEL
    routes = importlib.import_module("app").routes
    routes["/api/tunnels"] = (401, {"Marzban-Panel-Id": panel}, {"detail": "Not authenticated"})
    runpy.run_path("main.py", run_name="__main__")
