# SPDX-License-Identifier: GPL-3.0-or-later
"""Replaces the get-pip script that ansible-test downloads from a site that is not a package index.

Not every machine reaches that site, and ansible-test takes the file from its cache where it finds one. What it asks
for is the same: pip, in a virtual environment that has none. Python brings one along. It is unpacked in a process of
its own, because ensurepip hides pip's configuration from the process that it runs in.

ansible-test makes an environment for each of its tests. The first one's pip is kept beside this file, and the others
get a copy, which takes a tenth of the time.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

wanted = [argument for argument in sys.argv[1:] if argument not in ("--no-setuptools", "--no-wheel")]
packages = Path(sysconfig.get_path("purelib"))
version = "-".join(argument for argument in wanted if not argument.startswith("-"))
kept = Path(__file__).resolve().parent / f"{version}-py{sysconfig.get_python_version()}"
if not kept.exists():
    subprocess.check_call([sys.executable, "-m", "ensurepip", "--upgrade", "--default-pip"], stdout=subprocess.DEVNULL)
    subprocess.check_call([sys.executable, "-m", "pip", "install", "--quiet", *wanted])
    unfinished = kept.with_suffix(".new")
    shutil.rmtree(unfinished, ignore_errors=True)
    for folder in packages.glob("pip*"):
        shutil.copytree(folder, unfinished / folder.name)
    unfinished.rename(kept)
shutil.copytree(kept, packages, dirs_exist_ok=True)
