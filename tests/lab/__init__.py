# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Real Debian hosts on one machine: each has systemd, sshd, apt, a network of its own and /dev/net/tun.

from tests.lab import Lab

with Lab.up("try", {"a": "bookworm", "b": "trixie"}) as lab:
    lab.host("a").run(["ping", "-c1", lab.host("b").address])

Containers share the machine's kernel; a host with an image like "forky+kernel" is a virtual machine with Debian's own.
"""

from __future__ import annotations

from .host import Host
from .lab import Lab
from .machine import LabError, Unable
from .site import Site

__all__ = ["Host", "Lab", "LabError", "Site", "Unable"]
