# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""WireGuard's texts: the conf of wg-quick, what `wg show all dump` says. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
from typing import TYPE_CHECKING, Any, Dict, NamedTuple

from ..._errors import Error, FieldError
from ..._model import validators

if TYPE_CHECKING:
    from ..._model.shapes import View

STALE = 180  # seconds after which WireGuard drops a session, so that the endpoint it used says nothing any more
Conf = Dict[str, Any]  # as parse_conf answers it
NO_KEY = "/dev/null"  # what wg takes for "no pre-shared key"
_HOOKS = ("preup", "postup", "predown", "postdown", "dns", "table")
_NO_SECRET = "The node's private key is loaded from its own file by `PostUp = wg set %i private-key …`."


def without_ipv6(view: View, conf: str) -> str:
    """The conf (a text) of ``view`` for a host where IPv6 is off."""
    gone = [route for route in view["routes"] if ":" in route]
    lines = []
    for line in conf.split("\n"):
        key, _sign, value = (part.strip() for part in line.partition("="))
        if key.lower() == "address":
            kept = [address.strip() for address in value.split(",") if ":" not in address]
            lines += ["%s = %s" % (key, ", ".join(kept))] if kept else []
        elif not (key.lower() in _HOOKS and set(value.split()) & set(gone)):
            lines.append(line)
    return "\n".join(lines)


def preshared_fingerprint(key: str) -> str | None:
    """The SHA-256 of a pre-shared key in base64, as hex digits; None of a text that is not one."""
    try:
        raw = base64.b64decode(key.strip().encode("ascii"), validate=True)
    except (binascii.Error, ValueError, UnicodeError):
        return None
    return hashlib.sha256(raw).hexdigest() if len(raw) == 32 else None


def new_peer() -> dict[str, Any]:
    return {"allowed": set(), "endpoint": None, "keepalive": 0, "psk": None}


def parse_conf(text: str) -> Conf:
    """What a conf of wg-quick asks for, checked.

    ``{"port", "fwmark", "mtu"?, "addresses": [canonical], "peers": {public key: {"allowed": set, "endpoint":
    (host, port)?, "keepalive": seconds, "psk": fingerprint?}}}``. Raises Error.
    """
    conf: Conf = {"port": None, "fwmark": 0, "mtu": None, "addresses": [], "peers": {}}
    section: str | None = None
    peer: dict[str, Any] | None = None
    for line in text.split("\n"):
        line = line.partition("#")[0].strip()
        if not line:
            continue
        if line.startswith("["):
            section = line.lower()
            peer = None
            if section not in ("[interface]", "[peer]"):
                raise Error("The conf has a section %s, and wg-quick knows [Interface] and [Peer]." % line)
            continue
        key, sign, value = (part.strip() for part in line.partition("="))
        if not sign or section is None:
            raise Error("The conf has a line that is not a setting: %s." % key)
        try:
            if section == "[interface]":
                _interface_line(conf, key.lower(), value)
            else:
                peer = _peer_line(conf, peer, key.lower(), value)
        except (ValueError, FieldError):
            raise Error("The conf has a %s that can't be used: %s." % (key, value)) from None
    if conf["port"] is None or not conf["peers"] or not conf["addresses"]:
        raise Error("The conf needs an Address, a ListenPort and a [Peer] with its PublicKey.")
    return conf


def _interface_line(conf: Conf, key: str, value: str) -> None:
    """Takes in a setting of [Interface]."""
    if key == "privatekey" or (key == "saveconfig" and value.lower() != "false"):
        setting = "PrivateKey" if key == "privatekey" else "SaveConfig"
        raise Error("The template has %s, which puts the key into the conf. %s" % (setting, _NO_SECRET))
    if key == "address":
        conf["addresses"] += [str(ipaddress.ip_interface(address.strip())) for address in value.split(",")]
    elif key == "mtu":
        conf["mtu"] = int(value)
    elif key == "listenport":
        conf["port"] = int(value)
    elif key == "fwmark":
        conf["fwmark"] = 0 if value == "off" else int(value, 0)
    elif key not in _HOOKS and key != "saveconfig":
        raise ValueError


def _peer_line(conf: Conf, peer: dict[str, Any] | None, key: str, value: str) -> dict[str, Any] | None:
    """Takes in a setting of a [Peer]; the peer it is about."""
    if key == "publickey":
        peer = conf["peers"].setdefault(validators.wireguard_key(value), new_peer())
    elif peer is None:
        raise Error("The conf has a [Peer] that does not begin with its PublicKey.")
    elif key == "allowedips":
        peer["allowed"] |= {
            str(ipaddress.ip_network(network.strip())) for network in value.split(",") if network.strip()
        }
    elif key == "endpoint":
        peer["endpoint"] = parse_endpoint(value)
    elif key == "persistentkeepalive":
        peer["keepalive"] = 0 if value == "off" else int(value)
    elif key == "presharedkey":
        raise Error("The template has a PresharedKey, which is a secret. %s" % _NO_SECRET)
    else:
        raise ValueError
    return peer


def parse_endpoint(text: str) -> tuple[str, int]:
    """``(host, port)`` of ``host:port`` or ``[host]:port``. Raises ValueError."""
    host, _colon, port = text.rpartition(":")
    return host.strip("[]").partition("%")[0], int(port)


def parse_dump(text: str) -> dict[str, dict[str, Any]]:
    """``{interface: {"public"?, "port", "fwmark", "peers": {public key: {…, "handshake", "rx", "tx"}}}}``.

    ``text`` is the output of `wg show all dump`. The private keys in it are left out here, of pre-shared ones the
    fingerprint stays, and it goes nowhere else.
    """
    interfaces: dict[str, dict[str, Any]] = {}
    for line in text.splitlines():
        words = line.split("\t")
        if len(words) == 5:
            interfaces[words[0]] = {
                "public": None if words[2] == "(none)" else words[2],
                "port": int(words[3]),
                "fwmark": 0 if words[4] == "off" else int(words[4], 0),
                "peers": {},
            }
        elif len(words) == 9 and words[0] in interfaces:
            interfaces[words[0]]["peers"][words[1]] = {
                "psk": preshared_fingerprint(words[2]),
                "endpoint": None if words[3] == "(none)" else parse_endpoint(words[3]),
                "allowed": set() if words[4] == "(none)" else set(words[4].split(",")),
                "handshake": int(words[5]),
                "rx": int(words[6]),
                "tx": int(words[7]),
                "keepalive": 0 if words[8] == "off" else int(words[8]),
            }
    return interfaces


def parse_keys(text: str) -> dict[str, str]:
    """``{private key: public key}`` of the interfaces in the output of `wg show all dump`; it goes nowhere else."""
    lines = (line.split("\t") for line in text.splitlines())
    return {words[1]: words[2] for words in lines if len(words) == 5 and "(none)" not in words[1:3]}


class Running(NamedTuple):
    """The keys of an interface, which hold secrets: they go into the files of its tunnel and nowhere else."""

    private: str
    public: str
    preshared: Dict[str, str]  # public key of a peer: the pre-shared one


def parse_running(text: str, interface: str) -> Running | None:
    """What an interface in the output of `wg show all dump` runs with; None where it is not there or has no key."""
    lines = [line.split("\t") for line in text.splitlines()]
    its = [words for words in lines if words[0] == interface]
    for words in its:
        if len(words) == 5 and "(none)" not in words[1:3]:
            peers = {peer[1]: peer[2] for peer in its if len(peer) == 9 and peer[2] != "(none)"}
            return Running(words[1], words[2], peers)
    return None


def handshake_age(peer: dict[str, Any], now: float) -> int | None:
    """Seconds since the last handshake with a peer of the dump, or None when there was none."""
    return max(0, int(now - peer["handshake"])) if peer["handshake"] else None
