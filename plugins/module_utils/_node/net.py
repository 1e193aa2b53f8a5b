# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What all protocols ask about the host: interfaces, routes, ports, names, who drives it. Nothing here changes it."""

from __future__ import annotations

import ipaddress
import json
import os
import socket
from typing import Any, Dict, Iterable, Iterator, NamedTuple, Tuple

from .._errors import Error
from .files import read
from .host import Host

RESOLVE = 5  # seconds that all names together may take to resolve
SSH_PORT = 22

LINKS = ("ip", "-j", "addr", "show")
ROUTES = tuple(("ip", "-j", family, "route", "show", "table", "main") for family in ("-4", "-6"))
LISTENING = ("ss", "-H", "-l", "-u", "-t", "-n")
PATHS = ("ip", "-j", "-force", "-batch", "-")  # goes on after an address without a route

#: ``{interface: {"up": bool, "mtu": bytes, "ipv6": whether it may have such addresses, "addresses": [canonical]}}``
Links = Dict[str, Dict[str, Any]]
#: network, interface or None, whether the kernel made it
Route = Tuple[str, "str | None", bool]


# Interfaces and routes


def _json(text: str | None, what: str) -> list[Any]:
    """The arrays of JSON that a command printed, as one list; nothing where it printed nothing."""
    found: list[Any] = []
    text = (text or "").strip()
    try:
        while text:
            part, end = json.JSONDecoder().raw_decode(text)
            found += part
            text = text[end:].lstrip()
    except (TypeError, ValueError):
        raise Error("%s gave no JSON: iproute2 4.17 or newer is needed" % what) from None
    return found


def links(host: Host) -> Links:
    """All interfaces, without link-local addresses."""
    found: Links = {}
    for link in _json(host.query_or_fail(*LINKS), "ip -j addr"):
        if "ifname" not in link:  # older iproute2 prints empty objects
            continue
        addresses = [
            str(ipaddress.ip_interface("%s/%d" % (address["local"], address["prefixlen"])))
            for address in link.get("addr_info", [])
            if "local" in address and address.get("scope") != "link"
        ]
        found[link["ifname"]] = {
            "up": "UP" in link.get("flags", []),
            "mtu": link.get("mtu"),
            "ipv6": read("/proc/sys/net/ipv6/conf/%s/disable_ipv6" % link["ifname"]) != "1\n",
            "addresses": addresses,
        }
    return found


def routes(host: Host) -> list[Route]:
    """The main table, both families."""
    found: list[Route] = []
    for argv, everything in zip(ROUTES, ("0.0.0.0/0", "::/0")):
        for route in _json(host.query_or_fail(*argv), "ip -j route"):
            text = everything if route.get("dst") == "default" else route.get("dst")
            try:
                network = ipaddress.ip_network(text)
            except ValueError:
                continue
            if network.version == 6 and (network.is_link_local or network.is_multicast):
                continue
            found.append((str(network), route.get("dev"), route.get("protocol") == "kernel"))
    return found


def gateways(host: Host) -> set[str]:
    """The addresses that the host's other packets go to."""
    found = set()
    for argv in ROUTES:
        for route in _json(host.query(*argv), "ip -j route"):
            for hop in [route, *(route.get("nexthops") or [])] if route.get("dst") == "default" else []:
                way = hop.get("gateway") or (hop.get("via") or {}).get("host")
                if way and not ipaddress.ip_address(way).is_link_local:
                    found.add(str(ipaddress.ip_address(way)))
    return found


def covers(route: str, addresses: Iterable[str]) -> str | None:
    """The first of ``addresses`` that is in the network ``route``, or None."""
    network = ipaddress.ip_network(route)
    for address in addresses:
        found = ipaddress.ip_address(address)
        if found.version == network.version and found in network:
            return address
    return None


def path_mtus(host: Host, addresses: Iterable[str], known: Links) -> dict[str, int]:
    """``{address: MTU of the route there in bytes}``, without those that have no route. ``known``: the interfaces.

    What the kernel learned from the way's routers does not count: it forgets that after ten minutes, and the other end
    may have learned something else. Whether packets of that size pass is measured.
    """
    wanted = sorted(set(addresses))
    if not wanted:
        return {}
    found, learned = {}, {}
    for route in _json(_paths(host, wanted), "ip -j route get"):
        size = _mtu(route) or known.get(route.get("dev"), {}).get("mtu")
        if size and "dst" in route:
            address = str(ipaddress.ip_address(route["dst"]))
            found[address] = size
            if "expires" in route and _mtu(route):  # of what was learned, or of a router's advertisement
                learned[address] = known.get(route.get("dev"), {}).get("mtu")
    if learned:
        own = _json(_paths(host, ["fibmatch " + address for address in learned]), "ip -j route get")
        own = own if len(own) == len(learned) else [{}] * len(learned)
        for (address, size), route in zip(learned.items(), own):
            found[address] = _mtu(route) or size or found[address]
    return found


def ways(host: Host, addresses: Iterable[str]) -> dict[str, str]:
    """``{address: by which interface, gateway and own address packets go there}``, to see whether that changes."""
    wanted = sorted(set(addresses))
    found = _json(_paths(host, wanted), "ip -j route get") if wanted else []
    names = ("dev", "gateway", "prefsrc")
    return {route["dst"]: " ".join(str(route.get(name)) for name in names) for route in found if "dst" in route}


def _paths(host: Host, wanted: Iterable[str]) -> str | None:
    stdin = "".join("route get %s\n" % address for address in wanted)
    return host.query(*PATHS, stdin=stdin, lenient=True)


def _mtu(route: dict[str, Any]) -> int | None:
    """The MTU that a route itself has, not its interface."""
    return next((metrics["mtu"] for metrics in route.get("metrics") or [] if "mtu" in metrics), None)


def listening(host: Host) -> set[tuple[str, int]]:
    """``{("udp" or "tcp", port)}`` that something on this host listens at."""
    places = set()
    for line in (host.query(*LISTENING) or "").splitlines():
        words = line.split()
        if len(words) >= 5 and words[4].rpartition(":")[2].isdigit():
            places.add((words[0], int(words[4].rpartition(":")[2])))
    return places


# Names


def resolve(names: Iterable[str]) -> dict[str, list[str]]:
    """``{name: [addresses]}`` of host names and addresses; a name that can't be resolved in time has none."""
    answers: dict[str, list[str]] = {}
    unknown = []
    for name in set(names):
        try:
            answers[name] = [str(ipaddress.ip_address(name))]
        except ValueError:
            unknown.append(name)
    if unknown:
        from concurrent.futures import ThreadPoolExecutor  # most tunnels have addresses

        # Not as a context manager: leaving it would wait for a resolver that hangs.
        pool = ThreadPoolExecutor(max_workers=min(32, len(unknown)))
        futures = {name: pool.submit(_addresses, name) for name in unknown}
        for name, future in futures.items():
            try:
                answers[name] = future.result(timeout=RESOLVE)
            except Exception:  # whatever a resolver raises, and the time-out
                answers[name] = []
        pool.shutdown(wait=False)
    return answers


def _addresses(name: str) -> list[str]:
    found = socket.getaddrinfo(name, None, type=socket.SOCK_DGRAM)
    addresses = {str(entry[4][0]) for entry in found}
    return sorted(address for address in addresses if "%" not in address)


# Who drives this host


def _ancestors() -> Iterator[int]:
    pid = os.getpid()
    while pid > 1:
        yield pid
        try:
            with open("/proc/%d/stat" % pid, encoding="utf-8", errors="replace") as stream:
                pid = int(stream.read().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return


def _ssh_connection(pid: int) -> tuple[str, str, int] | None:
    """``(the other side's address, our address, our port)`` in a process's SSH_CONNECTION, or None."""
    try:
        with open("/proc/%d/environ" % pid, "rb") as stream:
            variables = stream.read().split(b"\0")
    except OSError:
        return None
    for variable in variables:
        if variable.startswith(b"SSH_CONNECTION="):
            words = variable.partition(b"=")[2].decode("ascii", "replace").split()
            if len(words) == 4 and words[3].isdigit():
                return words[0], words[2], int(words[3])
    return None


class Session(NamedTuple):
    """An SSH session into this host. ``driving``: it is this run's own, the others are somebody's."""

    address: str  # of the other side
    own: str | None  # the address of this host that it goes to
    driving: bool


class Controllers:
    """Who drives this host: the other side of this process's SSH session, and of all inbound ones."""

    def __init__(self) -> None:
        connections = [found for found in map(_ssh_connection, _ancestors()) if found]
        self._driving = {(address, own) for address, own, _port in connections}
        self._ports = {SSH_PORT} | {port for _address, _own, port in connections}
        ports = " or ".join("sport = :%d" % port for port in sorted(self._ports))
        # Filtered in the kernel: a busy host has many thousands of others.
        self.command = ("ss", "-H", "-t", "-n", "state", "established", "( %s )" % ports)

    def sessions(self, host: Host) -> list[Session]:
        """All of them, without those of this host with itself."""
        found = {(_plain_address(address), _plain_address(own)): True for address, own in sorted(self._driving)}
        for line in (host.query(*self.command) or "").splitlines():
            words = line.split()
            if len(words) >= 4:
                own, _colon, port = words[2].rpartition(":")
                if port.isdigit() and int(port) in self._ports:
                    address = words[3].rpartition(":")[0]
                    found.setdefault((_plain_address(address), _plain_address(own)), False)
        return [Session(address, own, driving) for (address, own), driving in found.items() if address]


def _plain_address(text: str) -> str | None:
    try:
        address = ipaddress.ip_address(text.strip("[]").partition("%")[0])
    except ValueError:
        return None
    return None if address.is_loopback else str(getattr(address, "ipv4_mapped", None) or address)
