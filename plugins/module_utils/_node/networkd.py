# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""systemd-networkd, which takes routing rules away that are in none of its files (networkd.conf(5)). Pure.

It does so when it starts (each update of systemd restarts it) and when it configures an interface again, since systemd
248. Routes it takes only from its own interfaces, so that those of a tunnel need no setting. It reads the drop-in when
it starts, not when it reloads. It is not restarted here: that would take away addresses of its interfaces that others
have added.
"""

from __future__ import annotations

from .netdev import Live

UNIT = "systemd-networkd.service"
DROP_IN = "/etc/systemd/networkd.conf.d/marzban-tunnels.conf"
TEXT = """# Written by marzban.tunnels for tunnels whose packets follow a routing rule, which networkd would take away.
# It is removed with the last of them (host.json beside their folders lists them). networkd reads it when it starts.
[Network]
ManageForeignRoutingPolicyRules=no
"""


def needed(live: Live, now: str | None) -> dict[str, str]:
    """``{path: text}`` that a tunnel with a rule of its own needs; ``now``: the drop-in's text.

    Where it is there it stays, also while networkd does not run: it may be restarting.
    """
    runs = live["units"].get(UNIT, {}).get("active") == "active"
    return {DROP_IN: TEXT} if runs or now == TEXT else {}
