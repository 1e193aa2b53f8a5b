# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One allow-list per field, for every value that comes from a panel or a hand-written list.

Each check takes ``(value, field)``, where ``field`` is the name that an error shows, and returns the value in its
canonical form, or raises FieldError. A panel may be hostile or broken: only what is known to be good passes.
No string that passes contains an ``@`` (it marks the node's own values in rendered text), a quote, or a line break.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import math
import re
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any, Callable, Sequence, TypeVar, Union, cast

from .._errors import FieldError
from . import names, types
from .types import BY_TYPE

if TYPE_CHECKING:
    from .shapes import Measured, Public

TYPES = types.TYPES
STATUSES = ("active", "inactive", "error", "connecting")
NODE_STATUSES = ("connected", "connecting", "error", "disabled")
ROLES = ("source", "target")
OTHER_ROLE = {"source": "target", "target": "source"}
DIALS = ("both", "source", "target")
TRANSPORTS = ("udp", "tcp")
POST_QUANTUM = ("auto", "require", "off")
DATA_PATHS = ("kernel", "userspace")
GROUP_PREFIX = names.GROUP_PREFIX
MAX_ITEMS = 64  # entries in one list of addresses or routes
WIDEST = {4: 8, 6: 7}  # the shortest prefix of a network that a tunnel may take

T = TypeVar("T")
Check = Callable[[object, str], T]  # a check as this module has them: (value, field) → the canonical value
_Address = Union[IPv4Address, IPv6Address]

_INTERFACE = re.compile(r"[a-zA-Z0-9_.][a-zA-Z0-9_.-]{0,14}\Z")
_OTHERS_INTERFACE = re.compile(r"(\.|\.\.|lo|all|default|(eth|en|wl).*)\Z")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\Z")
_IPV4 = re.compile(r"(0|[1-9][0-9]{0,2})(\.(0|[1-9][0-9]{0,2})){3}\Z")
_PREFIX = re.compile(r"(0|[1-9][0-9]{0,2})\Z")
_ALGORITHM = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ()+,./:_-]{0,63}\Z")
_FINGERPRINT = re.compile(r"[0-9a-f]{64}\Z")
_ED25519 = bytes.fromhex("302a300506032b6570032100")  # what is before the 32 bytes of a key in DER


# Plain kinds of values


def integer(value: object, field: str, low: int, high: int) -> int:
    """An integer from ``low`` to ``high``; neither a bool nor a text passes."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise FieldError(field, value, "Give an integer from %d to %d (without quotes)." % (low, high))
    return value


def non_negative(value: object, field: str) -> float:
    """A finite number that is not negative."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 2**63 or math.isnan(value):
        raise FieldError(field, value, "Give a number from 0 upwards.")
    return value


def boolean(value: object, field: str) -> bool:
    """True or false; 0, 1 and texts are refused."""
    if not isinstance(value, bool):
        raise FieldError(field, value, "Give true or false.")
    return value


def choice(value: object, field: str, choices: Sequence[str]) -> str:
    """One of ``choices`` (texts)."""
    if not isinstance(value, str) or value not in choices:
        raise FieldError(field, value, "Give one of: %s." % ", ".join(choices))
    return value


def mapping(value: object, field: str) -> dict[str, Any]:
    """A dict with texts as keys."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise FieldError(field, value, "Give a dictionary (an object in JSON).")
    return value


def unique_list(value: object, field: str, check: Check[T], least: int = 0) -> list[T]:
    """A list of ``least`` to MAX_ITEMS values, each passed by ``check``, none twice; order is kept."""
    if not isinstance(value, (list, tuple)) or not least <= len(value) <= MAX_ITEMS:
        raise FieldError(field, value, "Give a list of %d to %d entries." % (least, MAX_ITEMS))
    checked: list[T] = []
    for index, item in enumerate(value):
        canonical = check(item, "%s[%d]" % (field, index))
        if canonical in checked:
            raise FieldError("%s[%d]" % (field, index), item, "It is in the list twice: remove one.")
        checked.append(canonical)
    return checked


def if_valid(check: Callable[..., T], value: object, *more: Any) -> T | None:
    """What ``check`` makes of ``value``; None where it refuses it. ``more``: what the check wants after the field."""
    try:
        return check(value, "", *more)
    except FieldError:
        return None


tunnel_name, node_name = names.tunnel_name, names.node_name


# The network


def _address(text: str) -> _Address | None:
    """An ip_address in strict notation, or None."""
    if ":" not in text and not _IPV4.match(text):
        return None
    try:
        address = ipaddress.ip_address(text) if "%" not in text else None
    except ValueError:
        return None
    if address is not None and getattr(address, "ipv4_mapped", None):
        return None
    return address


def endpoint(value: object, field: str = "endpoint") -> str:
    """Where a node is reached: a host name (lower case) or an IP address (canonical)."""
    hint = "Give a host name or an IP address, without scheme, brackets, port or spaces."
    if not isinstance(value, str) or not 1 <= len(value) <= 253:
        raise FieldError(field, value, hint)
    address = _address(value)
    if address is not None:
        if address.is_unspecified or address.is_multicast or str(address) == "255.255.255.255":
            raise FieldError(field, value, "No host has this address. " + hint)
        return str(address)
    name = value.lower()
    labels = name.split(".")
    # A last label of digits only is an IPv4 address that is misspelled (or one in a notation that few expect).
    if not all(_LABEL.match(label) for label in labels) or re.match(r"([0-9]+|0x[0-9a-f]*)\Z", labels[-1]):
        if not name.isascii():
            hint = "Give an international host name in its ASCII form (xn--…)."
        raise FieldError(field, value, hint)
    return name


def ip_address(value: object, field: str) -> str:
    """An IP address, canonical."""
    address = _address(value) if isinstance(value, str) else None
    if address is None:
        raise FieldError(field, value, "Give an IP address, such as 203.0.113.3.")
    return str(address)


def is_here(place: str) -> bool:
    """Whether an endpoint leads to whatever machine uses it, or to none: no other host is reached by it."""
    address = _address(place)
    if address is None:
        labels = place.lower().split(".")
        return labels[-1] in ("localhost", "localdomain") or labels[0] in ("ip6-localhost", "ip6-loopback")
    link_local = address.version == 6 and address.is_link_local
    return address.is_loopback or address.is_unspecified or link_local


def port(value: object, field: str = "port") -> int:
    """A port, 1 to 65535."""
    return integer(value, field, 1, 65535)


def end_port(value: object, field: str, kind: str) -> int:
    """The port of an end of a tunnel of the type ``kind``."""
    checked, shared = port(value, field), BY_TYPE[kind].shared_ports
    if shared and checked != shared[0]:
        ports = " and ".join(str(number) for number in sorted(shared))
        hint = "%s speaks at UDP %s only: give %d." % (BY_TYPE[kind].title, ports, shared[0])
        raise FieldError(field, value, hint)
    return checked


def endpoint_port(value: object, field: str, kind: str) -> int:
    """The port at which the other end dials an end of the type ``kind``: a NAT may have another one than the end."""
    checked, shared = port(value, field), BY_TYPE[kind].shared_ports
    if checked in shared[1:]:
        hint = "To this port %s speaks in another way than to %d, where the end listens: map another one."
        raise FieldError(field, value, hint % (BY_TYPE[kind].title, shared[0]))
    return checked


def interface(value: object, field: str = "interface") -> str:
    """The name of a network interface that may be ours."""
    if isinstance(value, str) and set(value) & set("=+"):  # the kernel takes them, but each tunnel has a unit
        raise FieldError(field, value, "systemd can't run a unit for a name with = or +: choose one such as tun-de-fi.")
    if not isinstance(value, str) or not _INTERFACE.match(value):
        raise FieldError(field, value, "Use 1 to 15 of the characters a-z A-Z 0-9 _ . - (no - at the beginning).")
    if _OTHERS_INTERFACE.match(value):
        raise FieldError(field, value, "This name is the system's or a network card's: choose one such as tun-de-fi.")
    return value


def _with_prefix(value: object, field: str, hint: str) -> tuple[_Address, int]:
    """The address and the prefix's length in ``address/prefix``."""
    parts = value.split("/") if isinstance(value, str) and len(value) <= 64 else []
    address = _address(parts[0]) if len(parts) == 2 else None
    if address is None or not _PREFIX.match(parts[1]) or int(parts[1]) > address.max_prefixlen:
        raise FieldError(field, value, hint)
    return address, int(parts[1])


def interface_address(value: object, field: str = "addresses") -> str:
    """An address of a tunnel's interface with its prefix, ``10.201.0.24/31``, canonical."""
    hint = "Give an address that a host can have, with its prefix, such as 10.201.0.24/31."
    address, prefix = _with_prefix(value, field, hint)
    found = ipaddress.ip_interface("%s/%d" % (address, prefix))
    if address.is_unspecified or address.is_multicast or address.is_loopback:
        raise FieldError(field, value, hint)
    if prefix < WIDEST[address.version]:
        raise FieldError(field, value, "Its network is so wide that it would take the host's other traffic. " + hint)
    if address.version == 6 and address.is_link_local:
        raise FieldError(field, value, "A link-local address can't be routed: take one from fd00::/8.")
    if prefix < address.max_prefixlen - 1:
        edge = (found.network.network_address, found.network.broadcast_address)
        if address == edge[0] or (address.version == 4 and address == edge[1]):
            raise FieldError(
                field, value, "It is the first or last address of its network, and no host can have that. " + hint
            )
    return str(found)


def network(value: object, field: str = "network") -> str:
    """A network with no host bits set, canonical."""
    hint = "Give a network with its prefix and no host bits, such as 192.168.1.0/24."
    address, prefix = _with_prefix(value, field, hint)
    try:
        return str(ipaddress.ip_network("%s/%d" % (address, prefix)))
    except ValueError:
        right = ipaddress.ip_network("%s/%d" % (address, prefix), strict=False)
        raise FieldError(field, value, "Its host bits are set: did you mean %s?" % right) from None


def route(value: object, field: str = "routes") -> str:
    """A network behind an end of a tunnel."""
    found = ipaddress.ip_network(network(value, field))
    if found.prefixlen < WIDEST[found.version]:
        # Also the halves of the Internet and the like, which hide the default route just as well.
        raise FieldError(
            field,
            value,
            "A default route through a tunnel cuts the node off from its operator: name the networks behind the end.",
        )
    address = found.network_address
    if (
        address.is_loopback
        or address.is_multicast
        or address.is_unspecified
        or (found.version == 6 and address.is_link_local)
    ):
        raise FieldError(field, value, "Such a network is never behind another host: remove it.")
    return str(found)


def mtu(value: object, field: str = "mtu") -> int:
    """Bytes, 1280 (what IPv6 needs) to 9200."""
    return integer(value, field, 1280, 9200)


def keepalive(value: object, field: str = "keepalive") -> int:
    """Seconds, 0 (off) to 65535."""
    return integer(value, field, 0, 65535)


# Tunnels


def uuid(value: object, field: str = "uuid") -> str:
    """A UUID in lower case with its hyphens."""
    if not isinstance(value, str) or not _UUID.match(value):
        raise FieldError(field, value, "Give a UUID in lower case, such as 1b4e28ba-2fa1-41d2-883f-0016d3cca427.")
    return value


def version(value: object, field: str = "version") -> int:
    """The version of a record."""
    return integer(value, field, 0, 2**63 - 1)


def tunnel_type(value: object, field: str = "type") -> str:
    """The protocol of a tunnel."""
    return choice(value, field, TYPES)


def _base64(value: object, characters: int) -> bytes:
    """The bytes in ``value`` if it is their canonical base64 and has so many characters; else no bytes."""
    try:
        raw = base64.b64decode(value, validate=True) if isinstance(value, str) and len(value) == characters else b""
    except (binascii.Error, ValueError):
        return b""
    return raw if base64.b64encode(raw).decode("ascii") == value else b""


def wireguard_key(value: object, field: str = "public_key") -> str:
    """The canonical base64 of 32 bytes (an X25519 key), not all zero."""
    raw = _base64(value, 44)
    if not isinstance(value, str) or len(raw) != 32 or not any(raw):
        hint = "Give a WireGuard public key: 44 characters of base64, as `wg pubkey` prints it."
        raise FieldError(field, value, hint)
    return value


def ed25519_key(value: object, field: str = "public_key") -> str:
    """The canonical base64 of an Ed25519 SubjectPublicKeyInfo in DER, its key not all zero."""
    raw = _base64(value, 60)
    if not isinstance(value, str) or len(raw) != 44 or not raw.startswith(_ED25519) or not any(raw[len(_ED25519) :]):
        raise FieldError(field, value, "Give an Ed25519 public key: 60 characters of base64, as in its PEM.")
    return value


def fingerprint(value: object, field: str) -> str:
    """A SHA-256 as 64 hex digits in lower case."""
    if not isinstance(value, str) or not _FINGERPRINT.match(value):
        raise FieldError(field, value, "Give a SHA-256: 64 hex digits in lower case, without colons.")
    return value


_PUBLIC_FIELDS: dict[str, Check[str]] = {"x25519": wireguard_key, "ed25519": ed25519_key, "sha256": fingerprint}


def public_half(value: object, field: str, kind: str) -> Public:
    """What an end of the type ``kind`` may show, as contract.md has it. Other fields and nulls are left out."""
    given = mapping(value, field)
    return {
        part.name: _PUBLIC_FIELDS[part.kind](given.get(part.name), "%s.%s" % (field, part.name))
        for part in BY_TYPE[kind].public
        if part.required or given.get(part.name) is not None
    }


# What was measured


def algorithm(value: object, field: str) -> str:
    """The name of a cipher or a key exchange, as a daemon reports it."""
    if not isinstance(value, str) or not _ALGORITHM.match(value):
        raise FieldError(field, value, "Give 1 to 64 letters, digits, spaces and the characters ( ) + , . / : _ -")
    return value


def _count(value: object, field: str) -> int:
    return integer(value, field, 0, 2**63 - 1)


MEASURES: dict[str, Check[Any]] = {
    "handshake_age": _count,
    "rx_bytes": _count,
    "tx_bytes": _count,
    "rtt_ms": non_negative,
    "loss_percent": non_negative,
    "cipher": algorithm,
    "key_exchange": algorithm,
    "post_quantum": boolean,
    "data_path": lambda value, field: choice(value, field, DATA_PATHS),
    "certificate_days": lambda value, field: integer(value, field, -36500, 36500),  # below 0: it has ended
    "mtu": lambda value, field: integer(value, field, 1, 65535),
}


def measured(value: object, field: str = "measured") -> Measured:
    """What was measured at an end, as contract.md has it; what is missing is None. Other fields are left out."""
    given = mapping(value, field)
    known = ((key, check, given.get(key)) for key, check in MEASURES.items())
    return cast(
        "Measured", {key: None if item is None else check(item, "%s.%s" % (field, key)) for key, check, item in known}
    )
