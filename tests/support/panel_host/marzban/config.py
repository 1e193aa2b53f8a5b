# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A STAND-IN for Marzban's settings: .env in the working directory, and the environment, which comes first."""

from __future__ import annotations

import os
import re
from pathlib import Path

settings: dict[str, str] = {}
if Path(".env").exists():
    for line in Path(".env").read_text().splitlines():
        found = re.match(r"\s*(\w+)\s*=\s*(?:\"([^\"]*)\"|([^#]*))", line)
        if found:
            settings[found[1]] = found[2] if found[2] is not None else found[3].strip()
settings.update(os.environ)
