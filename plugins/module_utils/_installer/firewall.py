# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The rule that lets the panel reach a port of this host, where ufw or firewalld decides. It is said, not made."""

from __future__ import annotations

import ipaddress
import re
from typing import Sequence, Union

from .._node.host import Host

Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]

_SAID = "%s rules this host and does not let the panel in. On this host:"
_UFW = "ufw allow proto tcp from %s to any port %d"
_FIREWALLD = (
    "firewall-cmd --permanent --add-rich-rule='rule family=%s source address=%s port port=%d protocol=tcp accept'"
)
_PORTS = r"\d+(?::\d+)?"  # one, or a range
PLACEHOLDER = "THE_PANELS_ADDRESS"


def rule(host: Host, port: int, addresses: Sequence[str]) -> str | None:
    """A sentence and, line by line, the commands that are missing; or None. ``addresses``: the panel's, as far as they
    are known; it may come from each that is not a loopback's."""
    known = [address for address in map(ipaddress.ip_address, addresses) if not address.is_loopback]
    panels: list[Address | str] = [*known] or [PLACEHOLDER]
    status = host.query("ufw", "status") or ""
    if status.startswith("Status: active"):
        commands = [_UFW % (panel, port) for panel in panels if not _ufw_lets_in(status, port, panel)]
        return "\n".join([_SAID % "ufw", *commands]) if commands else None
    if (host.query("firewall-cmd", "--state") or "").strip() != "running":
        return None
    if (host.query("firewall-cmd", "--query-port=%d/tcp" % port, lenient=True) or "").strip() == "yes":
        return None
    rich = host.query("firewall-cmd", "--list-rich-rules") or ""
    commands = [
        _FIREWALLD % ("ipv6" if ":" in str(panel) else "ipv4", panel, port)
        for panel in panels
        if not _rich_rule_lets_in(rich, port, panel)
    ]
    return "\n".join([_SAID % "firewalld", *commands, "firewall-cmd --reload"]) if commands else None


def _ufw_lets_in(status: str, port: int, panel: Address | str) -> bool:
    """By a row such as ``62052/tcp    ALLOW    203.0.113.5``, whose columns are separated by two or more spaces."""
    for line in status.splitlines():
        columns = re.split(r"\s{2,}", line.strip())
        if len(columns) < 3 or columns[1] not in ("ALLOW", "ALLOW IN", "LIMIT", "LIMIT IN"):
            continue
        to = re.fullmatch(r"(?:Anywhere|(%s(?:,%s)*)(?:/tcp)?)(?: \(v6\))?" % (_PORTS, _PORTS), columns[0])
        if to and _has(to.group(1), port) and _is_from(columns[2], panel, "(v6)" in line):
            return True
    return False


def _rich_rule_lets_in(rules: str, port: int, panel: Address | str) -> bool:
    for line in rules.splitlines():
        there = re.search(r'\bport port="([\d-]+)" protocol="tcp"', line)
        if there and line.rstrip().endswith("accept") and _has(there.group(1).replace("-", ":"), port):
            source, is_v6 = re.search(r'\bsource (?:address="([^"]+)")?', line), 'family="ipv6"' in line
            if _is_from((source.group(1) or "") if source else "Anywhere", panel, is_v6):
                return True
    return False


def _has(ports: str | None, port: int) -> bool:
    """Whether ``80,62000:62100`` has this port; None has all."""
    ranges = [part.partition(":") for part in (ports or "").split(",") if part]
    return ports is None or any(int(first) <= port <= int(last or first) for first, _colon, last in ranges)


def _is_from(source: str, panel: Address | str, is_v6: bool) -> bool:
    """Whether a rule's source is the panel's. Where nobody knows the panel's address, any source may be."""
    if isinstance(panel, str):
        return True
    if source.startswith("Anywhere"):
        return (panel.version == 6) == is_v6
    try:
        return panel in ipaddress.ip_network(source.split("/tcp")[0], strict=False)
    except ValueError:
        return False  # an application's name, or a set of addresses
