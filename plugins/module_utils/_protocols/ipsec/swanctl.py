# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""strongSwan's texts: what is in our files, what ``swanctl --raw`` says, what is proposed and selected. Pure."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from typing import TYPE_CHECKING, Any, Dict, Iterable, List

if TYPE_CHECKING:
    from ..._model.shapes import Side, View


Message = Dict[str, Any]  # texts, lists and messages, as swanctl prints them
Messages = List[Message]

HEAD = "# Written by marzban.tunnels: what is changed by hand is put back by the next run.\n"
CONNECTIONS = "marzban-*.conf"  # the names of ours in swanctl's conf.d
WATCH_UNIT = "marzban-ipsec.service"
KERNEL, USERSPACE = "kernel", "userspace"
USERSPACE_DEVICE = "ipsec0"  # where kernel-libipsec's packets come out, of all tunnels
USERSPACE_MTU = 1400  # of that device

# A dead peer is noticed after 5 s of silence and 9 s of repeating: 1 + 1.3 + 1.69 + 2.2 + 2.86.
_SETTINGS = """charon {
  retransmit_timeout = 1.0
  retransmit_base = 1.3
  retransmit_tries = 4
%s}
# Or each sign of life fills five lines of the journal.
charon-systemd {
  journal {
    net = 0
    enc = 0
  }
}
"""
_USERSPACE = """  plugins {
    kernel-libipsec {
      load = yes
    }
  }
"""

_UNIT = """[Unit]
Description=Interface %(name)s of an IPsec tunnel
Wants=strongswan.service %(watch)s
After=nftables.service
# A peer that calls finds the interface there.
Before=strongswan.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=nft -f %(folder)s/rules.nft
ExecStart=ip -force -batch %(folder)s/link.ip
ExecStop=-swanctl --terminate --ike %(name)s --timeout 2
ExecStopPost=-ip link delete dev %(name)s
ExecStopPost=-nft delete table inet %(table)s

[Install]
WantedBy=multi-user.target
"""

_WATCH = """[Unit]
Description=Calls the peers of IPsec tunnels that are down
After=strongswan.service
StopWhenUnneeded=yes

[Service]
ExecStart=/bin/sh %s
Restart=always
RestartSec=2
"""

# The pause is never the same, or two peers might call each other at the same moment again and again. Calls do not wait
# for their answers: each would take one of charon's 16 threads, and where many peers are away it would answer nobody.
_SCRIPT = r"""# strongSwan calls a peer once. What is down is called again here, by the ends that shall call.
while sleep "3.$(($(od -An -N1 -tu1 /dev/urandom)))"; do
    down=$(swanctl --list-sas 2>/dev/null | awk '
        !conf && /, (CONNECTING|INSTALLED|REKEYING),/ { sub(/:.*/, ""); gsub(/ /, ""); busy[$0] }
        conf && $1 == "remote_addrs" && $3 != "%%any" {
            sub(/.*\/marzban-/, "", FILENAME)
            sub(/\.conf$/, "", FILENAME)
            if (!(FILENAME in busy)) print FILENAME
        }' conf=0 - conf=1 %s/marzban-*.conf 2>/dev/null)
    for name in $down; do
        [ -e "/sys/class/net/$name" ] && swanctl --initiate --child "$name" --timeout -1 >/dev/null 2>&1 &
    done
    wait
done
"""


def settings(path: str) -> str:
    """What charon is told as a whole; ``path`` is the data path."""
    return HEAD + _SETTINGS % (_USERSPACE if path == USERSPACE else "")


def unit(name: str, folder: str, table: str) -> str:
    """The unit that makes the interface ``name``, out of the files in ``folder``."""
    return HEAD + _UNIT % {"name": name, "folder": folder, "table": table, "watch": WATCH_UNIT}


def watch(script: str) -> str:
    """The unit that runs the file ``script``."""
    return HEAD + _WATCH % script


def script(connections: str) -> str:
    """What it runs; ``connections`` is swanctl's conf.d."""
    return HEAD + _SCRIPT % connections


def make_link(name: str, path: str, if_id: int) -> str:
    """The line for `ip -batch` that makes the interface."""
    if path == KERNEL:
        return "link add dev %s type xfrm dev lo if_id %d\n" % (name, if_id)
    # Nobody reads it: what goes there while the tunnel is down is dropped. While it is up, charon's routes come first.
    return "tuntap add dev %s mode tun\n" % name


def if_id(uuid: str) -> int:
    """The number that ties an XFRM interface to its security associations."""
    return int(uuid[:8], 16) or 1


def digest(conf: str) -> str:
    """What tells whether charon has been given this conf; comments don't count."""
    lines = (line.split("#")[0].strip() for line in conf.split("\n"))
    return hashlib.sha256("\n".join(line for line in lines if line).encode("utf-8")).hexdigest()


# What is proposed and selected

_CIPHERS = ("aes256gcm16", "chacha20poly1305")
# A tenth of the throughput is worth more than the longer key, unless somebody asks for strength above all.
_QUICK = ("aes128gcm16", *_CIPHERS)


def proposals(post_quantum: str, able: bool) -> tuple[str, str]:
    """``(for IKE, for ESP)``, the best first. ``able``: this host has ML-KEM."""
    kinds = {"auto": ["-ke1_mlkem768", ""] if able else [""], "require": ["-ke1_mlkem768"], "off": [""]}
    suffixes = kinds[post_quantum]
    ike = ["%s-prfsha384-x25519%s" % (cipher, suffix) for suffix in suffixes for cipher in _CIPHERS]
    ciphers = _CIPHERS if post_quantum == "require" else _QUICK
    esp = ["%s-x25519%s" % (cipher, suffix) for suffix in suffixes for cipher in ciphers]
    return ", ".join(ike), ", ".join(esp)


def selectors(view: View, path: str) -> tuple[list[str], list[str]]:
    """``(here, there)``: the networks that go through the tunnel, canonical, of the families that it has here."""
    if path == KERNEL:
        both = ["0.0.0.0/0", "::/0"]
        return both, both
    families = {ipaddress.ip_interface(address).version for address in view["local"]["addresses"]}

    def of(side: Side) -> list[str]:
        networks = [ipaddress.ip_network(ipaddress.ip_interface(address).ip) for address in side["addresses"]]
        networks += [ipaddress.ip_network(route) for route in side["routes"]]
        return [str(network) for network in networks if network.version in families]

    return of(view["local"]), of(view["peer"])


def overlap(networks: Iterable[str], others: Iterable[str]) -> tuple[str, str] | None:
    """The first of ``networks`` that shares addresses with one of ``others``, and that one; or None."""
    others = list(others)
    for network in networks:
        for other in others:
            a, b = ipaddress.ip_network(network), ipaddress.ip_network(other)
            if a.version == b.version and a.overlaps(b):
                return network, other
    return None


# What swanctl says

_WORD = re.compile(r"([^\s={}]+)=\[([^\]]*)\]|([^\s={}]+)=([^\s{}]*)|([^\s={}]+) \{|(\})")


def parse_raw(text: str) -> Messages:
    """The messages in the output of ``swanctl --raw``, as dicts of texts, lists and dicts."""
    found = []
    for line in text.splitlines():
        match = re.match(r"\S+ (?:event|reply) \{(.*)\}\s*\Z", line)
        if not match:
            continue
        message: Message = {}
        places = [message]
        for word in _WORD.finditer(match.group(1)):
            if word.group(1):
                places[-1][word.group(1)] = word.group(2).split()
            elif word.group(3):
                places[-1][word.group(3)] = word.group(4)
            elif word.group(5):
                places[-1][word.group(5)] = inner = {}
                places.append(inner)
            elif len(places) > 1:
                places.pop()
        found.append(message)
    return found


def by_name(messages: Messages) -> dict[str, Messages]:
    """``{connection: [what the messages say about it]}``: a connection may have several associations."""
    found: dict[str, Messages] = {}
    for message in messages:
        for name, body in message.items():
            if isinstance(body, dict):
                found.setdefault(name, []).append(body)
    return found


def session(sas: Messages) -> tuple[Message | None, Messages]:
    """``(IKE_SA, [its CHILD_SAs that carry traffic])`` of one connection, the newest that has any; or (None, [])."""
    for ike in sorted(sas, key=lambda sa: _number(sa, "established")):
        children = [sa for sa in ike.get("child-sas", {}).values() if sa.get("state") in ("INSTALLED", "REKEYING")]
        if children:
            return ike, children
    return None, []


def measured(sas: Messages, data_path: str) -> dict[str, Any]:
    """What of MEASURED the associations of a connection show."""
    ike, children = session(sas)
    if ike is None:
        return {"handshake_age": None, "rx_bytes": None, "tx_bytes": None, "data_path": data_path}
    newest = min(children, key=lambda sa: _number(sa, "install-time"))
    exchanges = [_exchange(ike[key]) for key in ("dh-group", *("ake%d" % step for step in range(1, 8))) if ike.get(key)]
    return {
        "handshake_age": _number(ike, "established"),
        "rx_bytes": sum(_number(sa, "bytes-in") for sa in children),
        "tx_bytes": sum(_number(sa, "bytes-out") for sa in children),
        "cipher": _cipher(newest),
        "key_exchange": "+".join(exchanges) or None,
        "post_quantum": any(name.startswith("ML-KEM") for name in exchanges),
        "data_path": data_path,
    }


def _number(found: Message, key: str) -> int:
    text = found.get(key, "0")
    return int(text) if text.isdigit() else 0


def _cipher(child: Message) -> str | None:
    name = child.get("encr-alg", "")
    if name.startswith("AES_GCM"):
        return "AES-%s-GCM" % child.get("encr-keysize", "?")
    return name.replace("_", "-") or None


def _exchange(name: str) -> str:
    return {"CURVE_25519": "X25519"}.get(name, name.replace("_", "-"))
