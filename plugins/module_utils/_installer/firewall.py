# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The rule that lets the panel reach a port of this host, where ufw or firewalld decides. It is said, not made."""

from __future__ import annotations

import ipaddress
import re
from typing import Sequence

from .._node.host import Host

UFW = "ufw rules this host and does not let the panel in. On this host: %s."
FIREWALLD = "firewalld rules this host and does not let the panel in. On this host: %s && firewall-cmd --reload."
PLACEHOLDER = "THE_PANELS_ADDRESS"


def rule(host: Host, port: int, addresses: Sequence[str]) -> str | None:
    """A sentence with the one rule that is missing, or None. ``addresses``: the panel's, as far as they are known."""
    panel = next((address for address in addresses if not ipaddress.ip_address(address).is_loopback), PLACEHOLDER)
    if _ufw_is_active(host):
        if not re.search(r"^%d(/tcp)?\b.*\bALLOW" % port, host.query("ufw", "status") or "", re.MULTILINE):
            return UFW % ("ufw allow proto tcp from %s to any port %d" % (panel, port))
    elif (host.query("firewall-cmd", "--state") or "").strip() == "running":
        opened = host.query("firewall-cmd", "--query-port=%d/tcp" % port, lenient=True) or ""
        rich = host.query("firewall-cmd", "--list-rich-rules") or ""
        if opened.strip() != "yes" and 'port="%d"' % port not in rich:
            family = "ipv6" if ":" in panel else "ipv4"
            text = (
                "firewall-cmd --permanent --add-rich-rule='rule family=%s source address=%s port port=%d protocol=tcp"
            )
            return FIREWALLD % ((text + " accept'") % (family, panel, port))
    return None


def _ufw_is_active(host: Host) -> bool:
    return (host.query("ufw", "status") or "").startswith("Status: active")
