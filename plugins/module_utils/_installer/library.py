# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What Marzban's own Python lacks for the add-on's metrics: prometheus_client, out of this host's distribution.

It is Python only, so the copy beside the add-on works in a container as well, and with another Python than the host's.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Dict

from .._node import packages
from .._node.files import read

KEY = "TUNNEL_METRICS_KEY"
FOLDER = "libraries"  # beside start.py, which puts it at the end of Python's path
#: Debian's package has taken "decorator" out of prometheus_client, and depends on its own one.
NAMES = ("prometheus_client", "decorator.py")
_DEBIAN = "/usr/lib/python3/dist-packages"
_PACKAGES = packages.Packages(
    by_family={
        "Debian": {"prometheus_client": "python3-prometheus-client"},
        "RedHat": {"prometheus_client": "python3-prometheus_client"},
    },
    lacking={},
    hint="Install prometheus-client for this host's Python.",
)
Files = Dict[str, bytes]


def is_wanted(environment: Mapping[str, str]) -> bool:
    """Whether Marzban's environment has a key for the metrics."""
    return bool(environment.get(KEY, "").strip())


def files() -> Files:
    """The library's files as they are beside the add-on, ``{relative path: bytes}``; empty where this host lacks it."""
    for place in (_DEBIAN, *sys.path):
        if os.path.isfile(os.path.join(place, NAMES[0], "metrics_core.py")):
            return _read(place)
    return {}


def kept(installed: Mapping[str, bytes] | None) -> Files:
    """Those that are beside the add-on already."""
    return {name: content for name, content in (installed or {}).items() if name.startswith(FOLDER + "/")}


def choice() -> list[str]:
    """The packages that bring it here; empty where none does."""
    release = read(packages.OS_RELEASE) or ""
    return list(packages.choose(release, [(_PACKAGES, ["prometheus_client"])])["packages"])


def _read(place: str) -> Files:
    found: Files = {}
    for name in NAMES:
        path = os.path.join(place, name)
        paths = [path] if os.path.isfile(path) else []
        for folder, _folders, names in os.walk(path):
            paths += [os.path.join(folder, inner) for inner in names if inner.endswith(".py")]
        for path in paths:
            with open(path, "rb") as stream:
                found["%s/%s" % (FOLDER, os.path.relpath(path, place))] = stream.read()
    return found
