# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host has to be before anything is done on it."""

from __future__ import annotations

import os
import pwd

from .._errors import Error

SYSTEMD = "/run/systemd/system"  # sd_booted(3)


def require_root() -> None:
    """Raises Error where this process isn't root's."""
    if os.geteuid() != 0:
        try:
            user = pwd.getpwuid(os.geteuid()).pw_name
        except KeyError:
            user = "user %d" % os.geteuid()
        raise Error("Connected as %s, and tunnels need root. Set become to true." % user)


def require_systemd() -> None:
    """Raises Error where systemd isn't the service manager."""
    if not os.path.isdir(SYSTEMD):
        try:
            with open("/proc/1/comm", encoding="utf-8", errors="replace") as stream:
                manager = stream.read().strip()
        except OSError:
            manager = "unknown"
        raise Error("Tunnels run under units of systemd, and this host's service manager is %s." % manager)
