# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Allow-lists, one per kind of value. Pure: each returns the value in its canonical form or raises ValueError
with a sentence that holds the value and the hint. A sentence with a code is one that the page says in its language."""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_interface, ip_network

from marzban_tunnels.errors import shown, wrong

NAME_LENGTH = 128
_NAME_SIGNS = frozenset("._-()# ")
_JOINER = "\u200d"  # joins emoji to one sign
# What may be joined. The collection has the same ranges, because its Python may have older tables of Unicode.
_JOINED = re.compile("[\u2190-\u2bff\U0001f000-\U0001faff]")
_INTERFACE = re.compile(r"[a-zA-Z0-9_.][a-zA-Z0-9_.-]{0,14}\Z")
_TAKEN_INTERFACES = re.compile(r"(lo|all|default|\.{1,2}|(eth|en|wl).*)\Z")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\Z", re.IGNORECASE | re.ASCII)
_NUMBER = re.compile(r"([0-9]+|0x[0-9a-f]*)\Z", re.IGNORECASE)
_WIDEST = {4: 8, 6: 7}  # the shortest prefix of a network that a tunnel may take
_FINGERPRINT = re.compile(r"[0-9a-f]{64}\Z")
_ALGORITHM = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ()+,./:_-]{0,63}\Z")
_ED25519 = bytes.fromhex("302a300506032b6570032100")  # what is before the 32 bytes of a key in DER
_NOT_ROUTED_IPV4 = [IPv4Network(text) for text in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3")]
_NOT_ROUTED_IPV6 = [IPv6Network(text) for text in ("::/127", "::ffff:0:0/96", "fe80::/10", "ff00::/8")]


def _emoji(char: str) -> bool:
    return unicodedata.category(char) == "So" or "\U0001f3fb" <= char <= "\U0001f3ff"


def alike(text: str) -> str:
    """What names have in common that people may take for each other: in upper or lower case, fullwidth, with a letter
    and its accent in one sign or in two."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def name(text: str) -> str:
    """A tunnel's name: letters, marks, digits, emoji, ``. _ - ( ) #`` and single spaces inside; answered in Unicode's
    composed form (NFC), whatever the keyboard has made."""
    text = unicodedata.normalize("NFC", text)
    if not 1 <= len(text) <= NAME_LENGTH:
        raise wrong(
            "name_length",
            "{name}: a name has 1 to {most} characters, this one has {length}",
            name=shown(text),
            most=NAME_LENGTH,
            length=len(text),
        )
    if text != text.strip(" ") or "  " in text:
        raise wrong(
            "name_spaces", "{name}: no space at the start or end of a name, and single ones inside", name=shown(text)
        )
    for position, char in enumerate(text):
        if char == _JOINER:
            before, after = text[:position].rstrip("\ufe0f")[-1:], text[position + 1 : position + 2]
            fine = bool(_JOINED.match(before) and _JOINED.match(after))
        else:
            fine = char in _NAME_SIGNS or unicodedata.category(char)[0] in "LM" or char.isdecimal() or _emoji(char)
        if not fine:
            raise wrong(
                "name_sign",
                "{name}: {sign} can't be in a name; use letters, digits, spaces and . _ - ( ) #",
                name=shown(text),
                sign=shown(char),
            )
    if not (text[0].isalpha() or text[0].isdecimal() or _emoji(text[0])):
        raise wrong("name_start", "{name}: a name begins with a letter, a digit or an emoji", name=shown(text))
    return text


def interface(text: str) -> str:
    """The name of a network interface that may be made on a node."""
    if set(text) & set("=+"):
        raise wrong(
            "interface_unit",
            "{given}: systemd can't run a unit for a name with = or +; choose another, or leave it out",
            given=shown(text),
        )
    if not _INTERFACE.match(text):
        raise wrong(
            "interface_name",
            "{given} is not an interface name: 1 to 15 letters, digits and _ . - (no - in front)",
            given=shown(text),
        )
    if _TAKEN_INTERFACES.match(text):
        raise wrong(
            "interface_system",
            "{given} can be the system's own interface; choose another name, such as {example}",
            given=shown(text),
            example=f"wg-{text[:12]}",
        )
    return text


def _no_zone(text: str) -> None:
    """Python takes any character for the zone behind an address, line ends included."""
    if "%" in text:
        raise wrong(
            "zone", "{given}: % is for a zone, which means something on one host only; leave it out", given=shown(text)
        )


def address(text: str) -> str:
    """An address inside the tunnel with its prefix, such as 10.9.0.1/30."""
    _no_zone(text)
    try:
        if "/" not in text:
            raise ValueError
        value = ip_interface(text)
    except ValueError:
        raise wrong(
            "address_prefix",
            "{given} is not an address with a prefix; write it as {one} or {other}",
            given=shown(text),
            one="10.9.0.1/30",
            other="fd00:9::1/64",
        ) from None
    if str(value) != text:
        raise _written_as(text, value)
    host = value.ip  # an interface's own is_loopback looks at its network
    if isinstance(host, IPv6Address) and host.ipv4_mapped:
        raise wrong("address_mapped", "{given}: give a plain address, not an IPv4-mapped one", given=shown(text))
    if host.version == 6 and host.is_link_local:
        raise wrong(
            "address_link_local",
            "{given} is link-local and can't be routed; take one of {network}",
            given=shown(text),
            network="fd00::/8",
        )
    if value.network.prefixlen < _WIDEST[value.version]:
        raise wrong(
            "address_wide",
            "{given} is of a network so wide that it takes the host's other ways; make it smaller",
            given=shown(text),
        )
    if host.is_loopback or host.is_multicast or host.is_unspecified or (host.version == 4 and host.is_reserved):
        raise wrong(
            "address_host",
            "{given} is not an address for a host; take one of a private network, or leave addresses out",
            given=shown(text),
        )
    network = value.network
    if network.num_addresses > 2:
        if host == network.network_address:
            raise wrong(
                "address_network",
                "{given} is the network itself; take {example}",
                given=shown(text),
                example=f"{network[1]}/{network.prefixlen}",
            )
        if value.version == 4 and host == network.broadcast_address:
            raise wrong(
                "address_broadcast",
                "{given} is the network's broadcast address; take {example}",
                given=shown(text),
                example=f"{network[1]}/{network.prefixlen}",
            )
    return text


def route(text: str) -> str:
    """A network behind an end, such as 192.168.1.0/24."""
    _no_zone(text)
    try:
        if "/" not in text:
            raise ValueError
        value = ip_network(text)
    except ValueError:
        try:
            example = str(ip_network(text, strict=False))
        except ValueError:
            example = "192.168.1.0/24"
        raise wrong(
            "route_network", "{given} is not a network; write it as {example}", given=shown(text), example=example
        ) from None
    if str(value) != text:
        raise _written_as(text, value)
    if value.prefixlen == 0:
        raise wrong(
            "route_default",
            "{given}: a default route through a tunnel cuts the node off and isn't supported; name the networks",
            given=shown(text),
        )
    if value.prefixlen < _WIDEST[value.version]:
        raise wrong(
            "route_wide",
            "{given}: too large, it works like a default route and cuts the node off; name the networks",
            given=shown(text),
        )
    others = _NOT_ROUTED_IPV4 if value.version == 4 else _NOT_ROUTED_IPV6
    never = next((other for other in others if value.overlaps(other)), None)
    if never:
        raise wrong(
            "route_never",
            "{given} covers addresses that are never routed ({never}); name the networks behind the node",
            given=shown(text),
            never=str(never),
        )
    return text


def _written_as(text: str, value: object) -> ValueError:
    return wrong("written_as", "{given}: write it as {value}", given=shown(text), value=str(value))


def _reached_from_nowhere(text: str) -> ValueError:
    return wrong(
        "endpoint_unreached",
        "{given} is reached from no other host; give the node's public address or name",
        given=shown(text),
    )


def endpoint(text: str) -> str:
    """Where an end is reached from outside: a host name or an address."""
    _no_zone(text)
    try:
        value: IPv4Address | IPv6Address | None = ip_address(text)
    except ValueError:
        value = None
    if value is not None:
        link_local = value.version == 6 and value.is_link_local
        broadcast = str(value) == "255.255.255.255"
        if value.is_loopback or value.is_multicast or value.is_unspecified or link_local or broadcast:
            raise _reached_from_nowhere(text)
        if isinstance(value, IPv6Address) and value.ipv4_mapped:
            raise wrong("address_mapped", "{given}: give a plain address, not an IPv4-mapped one", given=shown(text))
        return text
    labels = text.split(".")
    # a last label that is a number makes a misspelled IPv4 address
    plain = len(text) <= 253 and all(_LABEL.match(label) for label in labels) and not _NUMBER.match(labels[-1])
    if not plain:
        raise wrong(
            "endpoint_form",
            "{given} is neither a host name nor an address (without brackets and port)",
            given=shown(text),
        )
    if labels[-1].lower() in ("localhost", "localdomain") or labels[0].lower() in ("ip6-localhost", "ip6-loopback"):
        raise _reached_from_nowhere(text)
    return text


# What is sent as a public half is not shown in an error: by mistake it may be a secret.


def public_key(text: str) -> str:
    """An end's public key: base64 of an X25519 key (WireGuard, OpenVPN), or of an Ed25519 one in DER (IPsec)."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if base64.b64encode(raw).decode() == text:
        if len(raw) == 32 and any(raw):
            return text
        if len(raw) == 44 and raw.startswith(_ED25519) and any(raw[len(_ED25519) :]):
            return text
    raise ValueError(
        "This is not a public key: 44 characters of base64, as `wg pubkey` prints it, or 60 for IPsec, as in a PEM"
    )


def fingerprint(text: str) -> str:
    """A SHA-256 in hex."""
    if not _FINGERPRINT.match(text):
        raise ValueError("This is not a SHA-256: give 64 hex digits in lower case, without colons")
    return text


def algorithm(text: str) -> str:
    """What a daemon calls a cipher or a key exchange."""
    if not _ALGORITHM.match(text):
        raise ValueError(
            f"{shown(text)} is not an algorithm's name: 1 to 64 letters, digits, spaces and ( ) + , . / : _ -"
        )
    return text


def one_line(text: str, length: int) -> str:
    """Text for people: control and format characters become spaces, and it is cut to ``length`` characters."""
    plain = "".join(" " if unicodedata.category(char)[0] == "C" else char for char in text)
    return " ".join(plain.split())[:length]
