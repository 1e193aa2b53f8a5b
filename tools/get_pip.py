# SPDX-License-Identifier: GPL-3.0-or-later
"""Replaces the get-pip script that ansible-test downloads from a site that is not a package index.

Not every machine reaches that site, and ansible-test takes the file from its cache where it finds one. What it asks
for is the same: pip, in a virtual environment that has none. Python brings one along. It is unpacked in a process of
its own, because ensurepip hides pip's configuration from the process that it runs in.
"""

from __future__ import annotations

import subprocess
import sys

wanted = [argument for argument in sys.argv[1:] if argument not in ("--no-setuptools", "--no-wheel")]
subprocess.check_call([sys.executable, "-m", "ensurepip", "--upgrade", "--default-pip"], stdout=subprocess.DEVNULL)
subprocess.check_call([sys.executable, "-m", "pip", "install", "--quiet", *wanted])
