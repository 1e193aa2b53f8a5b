# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host has to reach, so that no tunnel may take the way there: the one list. ``guard`` refuses it.

Beside these it guards who drives the host (``net.Controllers``), and where tunnels send their packets.
"""

from __future__ import annotations

import glob
import ipaddress
import os
import re
from typing import Iterable
from urllib.parse import urlsplit

from .._errors import Error
from . import net
from .files import read
from .host import Host

# systemd-resolved writes its own address into the first one, and the servers that it asks into the second.
RESOLVERS = ("etc/resolv.conf", "run/systemd/resolve/resolv.conf")
APT = ("etc/apt/apt.conf", "etc/apt/apt.conf.d/*")
DNF = ("etc/dnf/dnf.conf", "etc/yum.conf")
# `Acquire::http::Proxy "http://10.0.0.1:3142";`, and the same in braces; a host may have one of its own.
_APT_PROXY = re.compile(r'^[^#/\n]*\bProxy(?:::[\w.-]+)?\s+"([^"]+)"', re.MULTILINE | re.IGNORECASE)
_DNF_PROXY = re.compile(r"^\s*proxy\s*=\s*(\S+)", re.MULTILINE)


def find(host: Host, others: Iterable[str] = (), root: str = "/") -> dict[str, str]:
    """``{address: what is there}``. ``others``: addresses that the controller knows, the panel's."""
    found = {str(ipaddress.ip_address(address)): "the panel" for address in others}
    proxies = {name: "the proxy of %s" % manager for manager, name in _proxies(root)}
    for name, addresses in net.resolve(proxies).items():
        found.update((address, proxies[name]) for address in addresses)
    found.update((address, "a name server of this host") for address in _resolvers(root))
    found.update((address, "the gateway of this host") for address in net.gateways(host))
    return {address: what for address, what in found.items() if not ipaddress.ip_address(address).is_loopback}


def _texts(root: str, patterns: Iterable[str]) -> Iterable[str]:
    for pattern in patterns:
        for path in sorted(glob.glob(os.path.join(root, pattern))):
            try:
                yield read(path) or ""
            except Error:  # a folder, or what nobody may read
                continue


def _resolvers(root: str) -> Iterable[str]:
    for text in _texts(root, RESOLVERS):
        for line in text.splitlines():
            words = line.split()
            if words[:1] == ["nameserver"] and len(words) > 1:
                try:
                    yield str(ipaddress.ip_address(words[1].partition("%")[0]))
                except ValueError:
                    continue


def _proxies(root: str) -> Iterable[tuple[str, str]]:
    """``(package manager, host)``."""
    for manager, patterns, proxy in (("apt", APT, _APT_PROXY), ("dnf", DNF, _DNF_PROXY)):
        for text in _texts(root, patterns):
            for value in proxy.findall(text):
                try:
                    name = urlsplit(value if "://" in value else "//" + value).hostname
                except ValueError:
                    continue
                if name and name not in ("direct", "false", "none", "_none_"):
                    yield manager, name
