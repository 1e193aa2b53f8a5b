# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What all protocols ask about the host: interfaces, routes, ports, names, who drives it. Nothing here changes it."""

from __future__ import annotations

import ipaddress
import json
import os
import socket
from concurrent.futures import ThreadPoolExecutor

from .._errors import Error

RESOLVE = 5  # seconds that all names together may take to resolve
SSH_PORT = 22


# Interfaces and routes


def _json(text, what):
    """What a command said in JSON; nothing where it said nothing."""
    try:
        return json.loads(text or "[]")
    except ValueError:
        raise Error("%s gave no JSON: iproute2 4.17 or newer is needed" % what) from None


def look_links(host):
    """``{interface: {"up", "mtu", "addresses": [canonical]}}`` of all interfaces, link-local addresses left out."""
    links = {}
    for link in _json(host.query_or_fail("ip", "-j", "addr", "show"), "ip -j addr"):
        if "ifname" not in link:  # older iproute2 prints empty objects
            continue
        addresses = [
            str(ipaddress.ip_interface("%s/%d" % (one["local"], one["prefixlen"])))
            for one in link.get("addr_info", [])
            if "local" in one and one.get("scope") != "link"
        ]
        links[link["ifname"]] = {
            "up": "UP" in link.get("flags", []),
            "mtu": link.get("mtu"),
            "addresses": addresses,
        }
    return links


def look_routes(host):
    """``[(network, interface or None, made by the kernel)]`` of the main table, both families."""
    routes = []
    for family, everything in (("-4", "0.0.0.0/0"), ("-6", "::/0")):
        said = host.query_or_fail("ip", "-j", family, "route", "show", "table", "main")
        for route in _json(said, "ip -j route"):
            text = everything if route.get("dst") == "default" else route.get("dst")
            try:
                network = ipaddress.ip_network(text)
            except ValueError:
                continue
            if network.version == 6 and (network.is_link_local or network.is_multicast):
                continue
            routes.append((str(network), route.get("dev"), route.get("protocol") == "kernel"))
    return routes


def covers(route, addresses):
    """The first of ``addresses`` (texts) that lies in the network ``route``, or None."""
    network = ipaddress.ip_network(route)
    for address in addresses:
        found = ipaddress.ip_address(address)
        if found.version == network.version and found in network:
            return address
    return None


def path_mtu(host, address, links):
    """The MTU of the route to ``address`` in bytes, or None where there is no route."""
    for route in _json(host.query("ip", "-j", "route", "get", address), "ip -j route get"):
        for metrics in route.get("metrics") or []:
            if "mtu" in metrics:
                return metrics["mtu"]
        return links.get(route.get("dev"), {}).get("mtu")
    return None


def udp_ports(host):
    """The UDP ports that something on this host listens at."""
    ports = set()
    for line in (host.query("ss", "-H", "-l", "-u", "-n") or "").splitlines():
        words = line.split()
        if len(words) >= 4 and words[3].rpartition(":")[2].isdigit():
            ports.add(int(words[3].rpartition(":")[2]))
    return ports


def listening(host):
    """``{("udp" or "tcp", port)}`` that something on this host listens at."""
    places = set()
    for line in (host.query("ss", "-H", "-l", "-u", "-t", "-n") or "").splitlines():
        words = line.split()
        if len(words) >= 5 and words[4].rpartition(":")[2].isdigit():
            places.add((words[0], int(words[4].rpartition(":")[2])))
    return places


# Names


def resolve(names):
    """``{name: [addresses]}`` of host names and addresses; a name that can't be resolved in time has none."""
    answers = {}
    unknown = []
    for name in set(names):
        try:
            answers[name] = [str(ipaddress.ip_address(name))]
        except ValueError:
            unknown.append(name)
    if unknown:
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


def _addresses(name):
    found = socket.getaddrinfo(name, None, type=socket.SOCK_DGRAM)
    addresses = {str(one[4][0]) for one in found}
    return sorted(address for address in addresses if "%" not in address)


# Who drives this host


def _ancestors():
    pid = os.getpid()
    while pid > 1:
        yield pid
        try:
            with open("/proc/%d/stat" % pid, encoding="utf-8", errors="replace") as stream:
                pid = int(stream.read().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return


def _ssh_connection(pid):
    """``(the other side's address, our port)`` in a process's SSH_CONNECTION, or None."""
    try:
        with open("/proc/%d/environ" % pid, "rb") as stream:
            variables = stream.read().split(b"\0")
    except OSError:
        return None
    for variable in variables:
        if variable.startswith(b"SSH_CONNECTION="):
            words = variable.partition(b"=")[2].decode("ascii", "replace").split()
            if len(words) == 4 and words[3].isdigit():
                return words[0], int(words[3])
    return None


def controllers(host):
    """The addresses that drive this host: of this process's SSH session, and of all inbound ones."""
    found = set()
    ports = {SSH_PORT}
    for pid in _ancestors():
        connection = _ssh_connection(pid)
        if connection:
            found.add(connection[0])
            ports.add(connection[1])
    for line in (host.query("ss", "-H", "-t", "-n", "state", "established") or "").splitlines():
        words = line.split()
        if len(words) >= 4:
            port = words[2].rpartition(":")[2]
            if port.isdigit() and int(port) in ports:
                found.add(words[3].rpartition(":")[0].strip("[]"))
    return sorted(filter(None, (_plain_address(text) for text in found)))


def _plain_address(text):
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return None if address.is_loopback else str(getattr(address, "ipv4_mapped", None) or address)
