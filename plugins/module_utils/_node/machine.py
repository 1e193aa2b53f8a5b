# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which machine this is, so that two hosts of an inventory that are one machine can be found."""

from __future__ import annotations

import hashlib
import hmac
import os

from .._errors import Error
from .files import read

MACHINE_ID = "/etc/machine-id"
BOOT_ID = "/proc/sys/kernel/random/boot_id"
NETWORK = "/proc/self/ns/net"


def machine() -> str | None:
    """64 hex digits that only this machine has, since its last boot; None where that can't be told.

    Cloned servers have the same machine id, but not the same boot id. Cloned containers of one kernel have both in
    common, but not the network. A machine id is not shown to others (machine-id(5)), so it is the key of a hash.
    """
    try:
        machine_id, boot_id = (read(path) or "" for path in (MACHINE_ID, BOOT_ID))
        network = os.stat(NETWORK).st_ino
    except (Error, OSError):
        return None
    if not machine_id.strip() or not boot_id.strip():
        return None
    text = "marzban.tunnels %s %d" % (boot_id.strip(), network)
    return hmac.new(machine_id.strip().encode("utf-8"), text.encode("utf-8"), hashlib.sha256).hexdigest()
