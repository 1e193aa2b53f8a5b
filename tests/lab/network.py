# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Cables: one bridge for each lab, a veth (or a tap) to each host, and a plain client behind a host for each site.

A lab has a number that no other lab on the machine has; from it come its networks (10.213.<n>.0/24 and
fd6c:6162:<n>::/64), its bridge `lab<n>`, the bridge's ends of the cables `lab<n>h<i>` and its nftables tables.
None of these overlap the ranges that the panel gives to tunnels.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from . import machine
from .machine import LabError, run

GATEWAY = 1
FIRST_HOST = 10
NUMBERS = range(1, 250)
#: What the machine's own devices had for `forwarding` before the first lab: {device: "0"}.
FORWARDING = "forwarding.json"


@dataclass
class Cable:
    """State of a host's cable: whether it is plugged in, and how many percent of what the host sends are lost."""

    up: bool = True
    loss: int = 0


@dataclass
class SitePlan:
    """A client behind a host: its networks in CIDR form. The host has the first address, the client the tenth."""

    name: str
    networks: list[str]

    def addresses(self, number: int) -> list[str]:
        """Addresses with prefix length: number 1 is the host's, number 10 the client's."""
        nets = [ipaddress.ip_network(network) for network in self.networks]
        return [f"{net[number]}/{net.prefixlen}" for net in nets]


@dataclass
class HostPlan:
    """What is fixed about a host for as long as the lab exists, replaced file system or not."""

    name: str
    image: str
    index: int
    cable: Cable = field(default_factory=Cable)
    sites: list[SitePlan] = field(default_factory=list)


@dataclass(frozen=True)
class Network:
    """The network of one lab."""

    lab: str
    number: int

    @property
    def bridge(self) -> str:
        return f"lab{self.number}"

    @property
    def subnet(self) -> ipaddress.IPv4Network:
        return subnet(self.number)

    @property
    def subnet6(self) -> ipaddress.IPv6Network:
        return ipaddress.IPv6Network(f"fd6c:6162:{self.number:x}::/64")

    def address(self, index: int) -> str:
        return str(self.subnet[index])

    def address6(self, index: int) -> str:
        return str(self.subnet6[int(str(index), 16)])  # …::11 beside ….11: the same digits

    def cable(self, index: int) -> str:
        """The bridge's end of a host's cable."""
        return f"{self.bridge}h{index}"

    def mac(self, host: HostPlan, interface: str = "eth0", client: bool = False) -> str:
        """A card keeps its address over a reboot, or the neighbours would send to the old one for a while."""
        return f"02:6c:{2 if client else 1:02x}:{self.number:02x}:{host.index:02x}:{int(interface[3:]):02x}"

    def namespace(self, host: str) -> str:
        return f"lab.{self.lab}.{host}"

    def site_namespace(self, host: str, site: str) -> str:
        return f"lab.{self.lab}.{host}.{site}"

    # -- the lab's own part ------------------------------------------------------------------------------------------

    def build(self, state: Path) -> None:
        """Make the bridge and the way out for apt. `state` is the folder of all labs."""
        _batch(
            f"link add {self.bridge} type bridge forward_delay 0 mcast_snooping 0",
            f"addr add {self.address(GATEWAY)}/24 dev {self.bridge}",
            f"addr add {self.address6(GATEWAY)}/64 dev {self.bridge} nodad",
            f"link set {self.bridge} up",
        )
        out = (
            f'type nat hook postrouting priority srcnat; ip saddr {self.subnet} oifname != "{self.bridge}" masquerade;'
        )
        # The machine would route from lab to lab, and they are to know nothing of each other.
        drop = f'iifname "{self.bridge}" oifname "lab*" oifname != "{self.bridge}" drop'
        apart = f"type filter hook forward priority 0; {drop};"
        table = f"table ip {self.bridge} {{ chain out {{ {out} }}; chain apart {{ {apart} }}; }}"
        run(["nft", "-f", "-"], input=table)
        self._forward(state)

    def _forward(self, state: Path) -> None:
        """Let packets pass between the bridge and the machine's way out, and remember what was set before."""
        memory = state / FORWARDING
        before: dict[str, str] = json.loads(memory.read_text()) if memory.exists() else {}
        routes = json.loads(run(["ip", "-j", "-4", "route", "show", "default"]).stdout)
        for device in {route["dev"] for route in routes if "dev" in route}:
            switch = _switch(device)
            if switch.read_text().strip() == "0":
                before[device] = "0"
                machine.write(memory, json.dumps(before))
                switch.write_text("1")
        _switch(self.bridge).write_text("1")

    def remove(self) -> None:
        """Take away every namespace, link and table of this lab, of whichever some are there."""
        for namespace in namespaces(self.lab):
            run(["ip", "netns", "del", namespace])
        _delete_links(name for name in links() if name == self.bridge or name.startswith(f"{self.bridge}h"))
        run(["nft", "-f", "-"], input=f"table ip {self.bridge}\ndelete table ip {self.bridge}\n")
        for family, name in _tables():
            if family == "netdev" and name.startswith(f"{self.bridge}h"):
                run(["nft", "delete", "table", family, name])

    # -- one host ----------------------------------------------------------------------------------------------------

    def plug(self, host: HostPlan) -> None:
        """Give the host a fresh network namespace with its cable and sites, as a boot of a real one would."""
        self.unplug(host)
        namespace, cable = self.namespace(host.name), self.cable(host.index)
        run(["ip", "netns", "add", namespace])
        # A new namespace copies the machine's values: a host must forward only when somebody switched it on there.
        switches = "net/ipv4/ip_forward net/ipv6/conf/all/forwarding net/ipv6/conf/default/forwarding"
        off = f"for s in {switches}; do echo 0 > /proc/sys/$s; done"
        run(["ip", "netns", "exec", namespace, "sh", "-c", off])
        _batch(
            f"link add {cable} type veth peer name eth0 address {self.mac(host)} netns {namespace}",
            f"link set {cable} master {self.bridge}",
        )
        _batch(
            "link set lo up",
            "link set eth0 up",
            f"addr add {self.address(host.index)}/24 dev eth0",
            f"addr add {self.address6(host.index)}/64 dev eth0 nodad",
            f"route add default via {self.address(GATEWAY)}",
            namespace=namespace,
        )
        self.set_cable(host)
        for site in host.sites:
            self.plug_site(host, site)

    def settings(self, host: HostPlan, manager: str | None) -> dict[str, str]:
        """The files by which networkd or NetworkManager gives eth0 what `plug` gives it: {path in the host: text}."""
        own, own6, way = f"{self.address(host.index)}/24", f"{self.address6(host.index)}/64", self.address(GATEWAY)
        if manager == "networkd":
            lines = [f"Address={own}", f"Address={own6}", f"Gateway={way}", "IPv6AcceptRA=no"]
            text = "\n".join(["[Match]", "Name=eth0", "[Network]", *lines, ""])
            return {"etc/systemd/network/10-eth0.network": text}
        if manager == "networkmanager":
            lines = ["[connection]", "id=eth0", "type=ethernet", "interface-name=eth0"]
            lines += ["[ipv4]", "method=manual", f"address1={own},{way}", "[ipv6]", "method=manual", f"address1={own6}"]
            return {"etc/NetworkManager/system-connections/eth0.nmconnection": "\n".join([*lines, ""])}
        return {}

    def plug_tap(self, host: HostPlan) -> None:
        """Give a virtual machine its cable. The namespace is its own kernel's, and so are the addresses."""
        self.unplug(host)
        cable = self.cable(host.index)
        _batch(f"tuntap add dev {cable} mode tap", f"link set {cable} master {self.bridge}")
        self.set_cable(host)

    def unplug(self, host: HostPlan) -> None:
        """Take away the host's namespace and cable. Its sites stay, as clients that lost their router."""
        mine = self.namespace(host.name)
        if mine in namespaces(self.lab):
            run(["ip", "netns", "del", mine])
        # The kernel takes the links of a dead namespace away in its own time; the next boot needs the name now.
        _delete_links(name for name in links() if name == self.cable(host.index))
        self._forget_loss(host)

    def set_cable(self, host: HostPlan) -> None:
        """Make the bridge's end of the cable what `host.cable` says."""
        cable = self.cable(host.index)
        self._forget_loss(host)
        if host.cable.loss:
            rule = f"numgen random mod 100 < {host.cable.loss} drop"
            hook = f"type filter hook ingress device {cable} priority 0"
            run(["nft", "-f", "-"], input=f"table netdev {cable} {{ chain in {{ {hook}; {rule}; }}; }}")
        run(["ip", "link", "set", cable, "up" if host.cable.up else "down"])

    def _forget_loss(self, host: HostPlan) -> None:
        cable = self.cable(host.index)
        run(["nft", "-f", "-"], input=f"table netdev {cable}\ndelete table netdev {cable}\n")

    def plug_site(self, host: HostPlan, site: SitePlan) -> None:
        """Lay a second cable, from the host's next free interface (eth1, …) to a client in a namespace of its own."""
        namespace, client = self.namespace(host.name), self.site_namespace(host.name, site.name)
        inside = site_interface(host, site)
        if client in namespaces(self.lab):
            run(["ip", "-n", client, "link", "del", "eth0"], check=False)  # may have gone with the host's last boot
        else:
            run(["ip", "netns", "add", client])
        _batch(
            f"link add {inside} address {self.mac(host, inside)} type veth"
            f" peer name eth0 address {self.mac(host, inside, client=True)} netns {client}",
            namespace=namespace,
        )
        _batch(
            *(f"addr add {address} dev {inside}{_nodad(address)}" for address in site.addresses(1)),
            f"link set {inside} up",
            namespace=namespace,
        )
        _batch(
            "link set lo up",
            "link set eth0 up",
            *(f"addr add {address} dev eth0{_nodad(address)}" for address in site.addresses(10)),
            *(f"route add default via {address.partition('/')[0]}" for address in site.addresses(1)),
            namespace=client,
        )


def subnet(number: int) -> ipaddress.IPv4Network:
    return ipaddress.IPv4Network(f"10.213.{number}.0/24")


def site_interface(host: HostPlan, site: SitePlan) -> str:
    """The host's interface towards the site."""
    return f"eth{1 + [other.name for other in host.sites].index(site.name)}"


def free_number(taken: set[int]) -> int:
    """A number whose network, links and tables nothing on this machine uses. Raises LabError when all are used."""
    routes = json.loads(run(["ip", "-j", "-4", "route", "show", "table", "all"]).stdout)
    used = []
    for route in routes:
        with contextlib.suppress(ValueError):  # "default"
            used.append(ipaddress.IPv4Network(route["dst"], strict=False))
    # A route over most of the address space (a VPN's) would leave nothing: only networks of our own size count.
    used = [net for net in used if net.prefixlen >= 16]
    present = set(links())
    for number in NUMBERS:
        free = number not in taken and f"lab{number}" not in present
        if free and not any(net.overlaps(subnet(number)) for net in used):
            return number
    raise LabError("no free network for another lab: `python3 tests/lab list` shows those that are there")


def restore_forwarding(state: Path) -> None:
    """Give the machine's devices back what they had before the first lab."""
    memory = state / FORWARDING
    if memory.exists():
        for device, value in json.loads(memory.read_text()).items():
            with contextlib.suppress(FileNotFoundError):
                _switch(device).write_text(value)
        memory.unlink()


def links() -> list[str]:
    """Names of the machine's own network links."""
    return [path.name for path in Path("/sys/class/net").iterdir()]


def namespaces(lab: str) -> list[str]:
    """Names of a lab's network namespaces."""
    folder = Path("/run/netns")
    return sorted(path.name for path in folder.glob(f"lab.{lab}.*")) if folder.is_dir() else []


def _tables() -> list[tuple[str, str]]:
    tables = json.loads(run(["nft", "-j", "list", "tables"]).stdout)["nftables"]
    return [(item["table"]["family"], item["table"]["name"]) for item in tables if "table" in item]


def _delete_links(names: Iterable[str]) -> None:
    for name in sorted(names, key=len, reverse=True):
        if run(["ip", "link", "del", name], check=False).returncode and name in links():
            raise LabError(f"the link {name} can't be removed")


def _switch(device: str) -> Path:
    return Path(f"/proc/sys/net/ipv4/conf/{device}/forwarding")


def _nodad(address: str) -> str:
    return " nodad" if ":" in address else ""


def _batch(*lines: str, namespace: str | None = None) -> None:
    where = ["-n", namespace] if namespace else []
    run(["ip", *where, "-batch", "-"], input="".join(f"{line}\n" for line in lines))
