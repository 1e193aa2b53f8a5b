# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What of strongSwan, and of the kernel for it, is on this host."""

from __future__ import annotations

import contextlib
import os

PLUGINS = ("/usr/lib/ipsec/plugins", "/usr/lib64/strongswan/plugins")
MODULES = ("esp4", "xfrm_user", "xfrm_interface")  # of a kernel that can carry the packets


def kernel_lacks(root: str = "/") -> list[str]:
    """The modules that this kernel would need to carry ESP through XFRM interfaces, found out without making one."""
    wanted = [name for name in MODULES if not os.path.isdir(os.path.join(root, "sys/module", name))]
    known: set[str] = set()
    modules = os.path.join(root, "lib/modules", os.uname().release)
    for name in ("modules.dep", "modules.builtin") if wanted else ():
        with contextlib.suppress(OSError), open(
            os.path.join(modules, name), encoding="utf-8", errors="replace"
        ) as stream:
            known |= {os.path.basename(line.partition(":")[0].strip()).partition(".ko")[0] for line in stream}
    return [name for name in wanted if name not in known]


def has_plugin(name: str) -> bool:
    """Whether a plugin of strongSwan is installed."""
    return any(os.path.exists(os.path.join(folder, "libstrongswan-%s.so" % name)) for folder in PLUGINS)
