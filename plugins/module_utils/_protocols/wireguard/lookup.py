# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is added to wg-quick's unit, and the units that look the name of a peer up again between runs. Pure.

WireGuard looks a name up when it is set, and then never again: a peer that has moved and does not dial stays lost. So a
timer of systemd asks, as reresolve-dns.sh of wireguard-tools does, and runs for as long as the tunnel does. It sets
what the name says only where the session has ended: before that a peer behind NAT is where its packets come from.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..._node import units
from ..._node.ping import is_address
from .conf import STALE

if TYPE_CHECKING:
    from .conf import Conf

EVERY = 30  # seconds
# wireguard-go is a process of the unit, which a signal or the kernel's hunger for memory may end: wg-quick's
# stock unit, a oneshot, stays active when that dies. Where the kernel carries them no process is left, and the stock
# unit's RemainAfterExit keeps it active. wg-quick waits as long as a name does not resolve, and a oneshot may.
_SERVICE = """[Service]
Type=forking
Restart=on-failure
RestartSec=2
TimeoutStartSec=infinity
"""
_HEAD = "# Written by marzban.tunnels\n"


def timer(interface: str) -> str:
    """The timer of an interface; systemd starts the service of the same name."""
    return "marzban-wireguard-%s.timer" % interface


def units_of(interface: str) -> tuple[str, str]:
    """The timer and its service."""
    return timer(interface), "marzban-wireguard-%s.service" % interface


def paths(interface: str) -> tuple[str, str]:
    """Their files."""
    first, second = units_of(interface)
    return units.path(first), units.path(second)


def drop_in(interface: str, before: str | None, userspace: bool, looks_up: bool) -> str | None:
    """What is added to wg-quick's unit, or None; ``before``: what is. ``userspace``: a process may carry the packets.

    One that carries them already may go on, when the kernel gets its module later.
    """
    service = _SERVICE if userspace or _SERVICE in (before or "") else ""
    wants = "[Unit]\nWants=%s\n" % timer(interface) if looks_up else ""
    return _HEAD + wants + service if wants or service else None


def texts(interface: str, unit: str, conf: Conf) -> dict[str, str]:
    """``{path: text}`` of the timer and its service: {} where each peer has an address, or is not dialed."""
    commands = [_command(interface, key, *endpoint) for key, endpoint in _names(conf).items()]
    if not commands:
        return {}
    about = "[Unit]\nDescription=Look up where the peer of the tunnel %s is\n" % interface
    # A $ and a % are systemd's own unless they are doubled.
    script = "now=$(date +%s); wg show IF latest-handshakes | while read -r key seen; do case $key in CASES esac; done"
    script = script.replace("IF", interface).replace("CASES", " ".join(commands)).replace("$", "$$").replace("%", "%%")
    times = "[Timer]\nOnActiveSec=%d\nOnUnitInactiveSec=%d\nAccuracySec=1\n" % (EVERY, EVERY)
    # One that is slow leaves no unit behind, and one that is well not three lines in the journal each time.
    service = (
        "CollectMode=inactive-or-failed\n[Service]\nType=oneshot\nTimeoutStartSec=60\nLogLevelMax=notice\n"
        "Environment=WG_ENDPOINT_RESOLUTION_RETRIES=0\n"
    )
    path, other = paths(interface)
    return {
        path: "%s%sBindsTo=%s\nAfter=%s\n%s" % (_HEAD, about, unit, unit, times),
        other: "%s%s%sExecStart=-/bin/sh -c '%s'\n" % (_HEAD, about, service, script),
    }


def _names(conf: Conf) -> dict[str, tuple[str, int]]:
    """``{public key: endpoint}`` of the peers that have a name."""
    endpoints = {key: peer["endpoint"] for key, peer in conf["peers"].items()}
    return {key: endpoint for key, endpoint in endpoints.items() if endpoint and _is_name(endpoint[0])}


def _is_name(host: str) -> bool:
    return bool(re.match(r"[A-Za-z0-9_.-]+\Z", host)) and not is_address(host)


def _command(interface: str, key: str, host: str, port: int) -> str:
    """A case of the script: where no session is left, the peer gets the address that its name has now."""
    late = "[ $((now - seen)) -le %d ] || wg set %s peer %s endpoint %s:%d" % (STALE, interface, key, host, port)
    return "%s) %s;;" % (key, late)
