# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""OpenVPN's texts: its conf, what is added to the stock unit, what its management socket says. Pure."""

from __future__ import annotations

import re
from typing import Any, Dict, Tuple

from ..._errors import Error
from ..._node import netdev

#: of OpenVPN and of its OpenSSL; () where unknown
Versions = Tuple[Tuple[int, ...], Tuple[int, ...]]
Said = Dict[str, Any]  # as ``parse`` answers it

QUANTUM, CLASSIC = "X25519MLKEM768", "X25519"  # TLS groups
_VERSION = re.compile(r"^OpenVPN (\d+)\.(\d+)", re.MULTILINE)
_LIBRARY = re.compile(r"OpenSSL (\d+)\.(\d+)")
_LETS_IN = re.compile(r"<peer-fingerprint>(.*?)</peer-fingerprint>", re.DOTALL)
_STATE = re.compile(r"^\d+,(\w+),", re.MULTILINE)
_HANDSHAKE = re.compile(r"^(\d+),\w*,Control Channel: (.*)$", re.MULTILINE)
_KEY_EXCHANGE = re.compile(r"(?:key agreement: |peer temporary key: \d+ bits )([\w-]+)")
_CIPHERS = re.compile(r"^\d+,\w*,peer info: IV_CIPHERS=([\w:-]+)$", re.MULTILINE)
_ENTRY = re.compile(r"^(\d+),\w*,(.*)$", re.MULTILINE)
_CONNECTED = "Initialization Sequence Completed"
_PORT = re.compile(r"^lport (\d+)$", re.MULTILINE)


def versions(said: str) -> Versions:
    """``((2, 6), (3, 5))`` of OpenVPN and of its OpenSSL, out of what ``openvpn --version`` said; () where unknown."""
    own, library = (
        tuple(int(number) for number in found.groups()) if found else ()
        for found in (_VERSION.search(said), _LIBRARY.search(said))
    )
    return own, library


def tls_groups(post_quantum: str, able: bool) -> str:
    """The groups of the key exchange, the best one first. ``able``: OpenSSL has the one against quantum computers."""
    if post_quantum == "require":
        return QUANTUM
    return "%s:%s" % (QUANTUM, CLASSIC) if able and post_quantum == "auto" else CLASSIC


# The conf


def lines(conf: str) -> list[str]:
    """The settings of a conf, without comments."""
    return [line for line in (text.strip() for text in conf.splitlines()) if line and line[0] not in "#;"]


def lets_in(conf: str) -> set[str]:
    """The fingerprints of a conf as 64 hex digits."""
    found = _LETS_IN.search("\n".join(lines(conf)))
    return set(found.group(1).replace(":", "").lower().split()) if found else set()


def fingerprint_lines(fingerprints: list[str]) -> str:
    """Fingerprints as OpenVPN wants them: a line each, with colons."""
    spelled = (":".join(text[place : place + 2] for place in range(0, 64, 2)).upper() for text in fingerprints)
    return "\n".join(spelled)


def same_process(before: str | None, after: str) -> bool:
    """Whether a process that was started with the conf ``before`` (a text or None) does as well for ``after``.

    A certificate that is let in no longer may be so until the next start: its key is gone.
    """
    if before is None or not lets_in(after) <= lets_in(before):
        return False
    old, new = (_LETS_IN.sub("", "\n".join(lines(conf))) for conf in (before, after))
    return old == new


def listens(conf: str) -> tuple[str, int] | None:
    """``("udp" or "tcp", port)`` where a conf listens, or None."""
    settings = lines(conf)
    port = _PORT.search("\n".join(settings))
    kind = next((line.split()[1][:3] for line in settings if line.startswith("proto ")), "udp")
    return (kind, int(port.group(1))) if port else None


def check(conf: str) -> None:
    """Refuses a conf that would not do what every tunnel has to. Raises Error."""
    settings = lines(conf)
    words = {line.split()[0] for line in settings}
    for wanted in ("dev", "cert", "key", "tls-crypt", "persist-tun"):
        if wanted not in words:
            raise Error("The template has no %s: take it over from the role's own." % wanted)
    if not lets_in(conf):
        raise Error("The template lets in no certificate: it needs node.peer_fingerprints in <peer-fingerprint>.")
    if "<key>" in words or "<tls-crypt>" in words:
        raise Error("The template holds a key: name its file instead, below node.dir.")


def unit(folder: str, uuid: str) -> str:
    """What is added to the stock unit: the rules before it, addresses and routes once the interface is there."""
    table = netdev.table(uuid)
    return "\n".join(
        (
            "# Written by marzban.tunnels",
            "[Service]",
            "ExecStartPre=nft -f %s/rules.nft" % folder,
            # The unit counts as started a moment before its interface is there.
            "ExecStartPost=sh -c 'until test -e /sys/class/net/%%i; do kill -0 $$MAINPID || exit 1; sleep 0.02; done;"
            " exec ip -batch %s/link.ip'" % folder,
            "ExecStopPost=nft 'add table inet %s; delete table inet %s'" % (table, table),
            # The stock unit of a TLS server leaves it behind.
            "ExecStopPost=rm -f %t/openvpn-server/status-%i.log",
            "",
        )
    )


# The management socket


def parse(said: str, conf: str) -> Said:
    """What a process reports: ``{"handshake", "cipher", "key_exchange"}``, or ``{"lost"}`` while not connected.

    ``handshake`` is when the last one ended, ``lost`` since when there is no session, as far as is known (both in
    seconds since 1970). ``said`` are the answers to ``state`` and ``log all``, ``conf`` is what it was started with.
    """
    state = _STATE.search(said)
    if not state or state.group(1) != "CONNECTED":
        return {"lost": _lost(said)} if state else {}
    handshakes, ciphers = _HANDSHAKE.findall(said), _CIPHERS.findall(said)
    found: Said = {"cipher": _agreed(conf, ciphers[-1].split(":")) if ciphers else None}
    if handshakes:
        when, about = handshakes[-1]
        group = _KEY_EXCHANGE.search(about)
        # 2.6 as a TLS client has no word for a group with ML-KEM, and has one for each other.
        silent = QUANTUM if QUANTUM in _setting(conf, "tls-groups") else None
        name = group.group(1) if group else silent
        found.update(handshake=int(when), key_exchange=CLASSIC if name == "x25519" else name)
    return found


def _lost(said: str) -> int | None:
    entries = [(int(when), what) for when, what in _ENTRY.findall(said.partition("END")[2])]
    ends = [place for place, (_when, what) in enumerate(entries) if _CONNECTED in what]
    since = entries[ends[-1] + 1 :] if ends else entries
    return since[0][0] if since else None


def _agreed(conf: str, theirs: list[str]) -> str | None:
    """The data cipher that both ends agree on: the first one of the TLS server's that the other one has, too."""
    ours = _setting(conf, "data-ciphers")
    first, second = (ours, theirs) if "tls-server" in lines(conf) else (theirs, ours)
    return next((cipher for cipher in first if cipher in second), None)


def _setting(conf: str, name: str) -> list[str]:
    """The values of a setting, which colons part."""
    return next((line.split()[1].split(":") for line in lines(conf) if line.startswith(name + " ")), [])
