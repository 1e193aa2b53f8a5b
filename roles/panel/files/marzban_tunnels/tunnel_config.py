# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""What an operator may choose for a tunnel: the JSON object in a record's ``config``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from ipaddress import ip_interface
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from marzban_tunnels import checks
from marzban_tunnels.errors import Refused, by_field, invalid, say, shown, told

LENGTH = 64 * 1024  # bytes of UTF-8
DEPTH = 16  # levels
ROLES = ("source", "target")
PEER = {"source": "target", "target": "source"}
IPSEC_PORT = 4500  # UDP; one process speaks there for all IPsec tunnels of a node
IKE_PORT = 500  # what is sent there lacks the mark that 4500 wants (RFC 3948), so the one can't be mapped to the other
IPSEC_PORTS = (IKE_PORT, IPSEC_PORT)
_SECRET_KEY = re.compile(r"private|preshared|psk|secret|passw", re.IGNORECASE)


class EndConfig(BaseModel):
    """One end. What is left out is allocated (port, addresses, interface), or is the node's address (endpoint) or the
    port (endpoint_port: where the other end dials, which a NAT on the way leads to the port)."""

    model_config = ConfigDict(strict=True, extra="allow")

    endpoint: Annotated[str, AfterValidator(checks.endpoint)] | None = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    endpoint_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    addresses: (
        Annotated[list[Annotated[str, AfterValidator(checks.address)]], Field(min_length=1, max_length=8)] | None
    ) = None
    interface: Annotated[str, AfterValidator(checks.interface)] | None = None
    routes: Annotated[list[Annotated[str, AfterValidator(checks.route)]], Field(max_length=64)] | None = None


class TunnelConfig(BaseModel):
    """The object in ``config``; ``{}`` is complete, null is the same as left out, unknown keys are kept."""

    model_config = ConfigDict(strict=True, extra="allow")

    source: EndConfig | None = None
    target: EndConfig | None = None
    dial: Literal["both", "source", "target"] | None = None
    mtu: Annotated[int, Field(ge=1280, le=9200)] | None = None
    keepalive: Annotated[int, Field(ge=0, le=65535)] | None = None
    transport: Literal["udp", "tcp"] | None = None
    post_quantum: Literal["auto", "require", "off"] | None = None

    def end(self, role: str) -> EndConfig:
        """The choices for one end."""
        return (self.source if role == "source" else self.target) or EndConfig()


def parse(text: str, tunnel_type: str) -> TunnelConfig:
    """The checked ``config`` of a record. Raises ``Refused`` (422) that names each field."""
    chosen = _load(text)
    try:
        config = TunnelConfig.model_validate(chosen)
    except ValidationError as error:
        raise Refused(422, by_field(error.errors(), prefix="config")) from None
    problems = _between_ends(config) | _not_for(tunnel_type, config)
    if problems:
        raise Refused(422, problems)
    return config


def lenient(text: str) -> dict[str, Any]:
    """The object in a ``config`` that is already stored, ``{}`` when it is broken: others may write there."""
    try:
        value = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def end_of(chosen: dict[str, Any], role: str) -> dict[str, Any]:
    """One end in what ``lenient`` answers."""
    end = chosen.get(role)
    return end if isinstance(end, dict) else {}


def endpoint_port_of(chosen: dict[str, Any], role: str) -> int | None:
    """The port that one end in what ``lenient`` answers is dialed at, where it was chosen."""
    port = end_of(chosen, role).get("endpoint_port")
    return port if isinstance(port, int) and not isinstance(port, bool) and 1 <= port <= 65535 else None


def routes_of(chosen: dict[str, Any], role: str) -> list[str]:
    """The routes of one end in what ``lenient`` answers."""
    routes = end_of(chosen, role).get("routes")
    return [text for text in routes if isinstance(text, str)] if isinstance(routes, list) else []


def stored(text: str) -> TunnelConfig:
    """The choices in a stored ``config``; none when it breaks the schema."""
    try:
        return TunnelConfig.model_validate(lenient(text))
    except ValidationError:
        return TunnelConfig()


def _load(text: str) -> dict[str, Any]:
    size = len(text.encode())
    if size > LENGTH:
        raise invalid("config", f"At most {LENGTH} bytes, these are {size}")
    try:
        value = json.loads(text, object_pairs_hook=_no_twins, parse_constant=_no_constant)
        _no_deeper(value)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()  # 1e999 and half a character can't be written
    except RecursionError:
        raise invalid("config", f"Nested too deep: at most {DEPTH} levels") from None
    except UnicodeEncodeError:
        raise invalid("config", "Holds half of a surrogate pair: write the whole character") from None
    except ValueError as error:
        raise invalid("config", f"Has to be a string that holds a JSON object, such as '{{}}': {error}") from None
    if not isinstance(value, dict):
        raise invalid("config", f"Has to hold a JSON object, such as '{{}}' (got {shown(value)})")
    _no_secrets(value, "config")
    return value


def check_endpoints(chosen: TunnelConfig, nodes: Mapping[str, Any]) -> None:
    """An end without an endpoint is reached at its node's address, which may be fit for the panel alone.

    ``nodes``: by role, with ``name`` and ``address``.
    """
    problems: dict[str, str] = {}
    for role, node in nodes.items():
        if chosen.end(role).endpoint is None:
            try:
                checks.endpoint(node.address)
            except ValueError as error:
                problems[f"config.{role}.endpoint"] = say(
                    "endpoint_of_node", 'the address of node "{node}": {why}', node=node.name, why=told(error)
                )
    if problems:
        raise Refused(422, problems)


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key is there twice")
    return value


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _no_deeper(value: Any, depth: int = 0) -> None:
    if depth > DEPTH:
        raise RecursionError
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _no_deeper(inner, depth + 1)


def _no_secrets(value: Any, field: str) -> None:
    """Unknown keys are kept and shown, so one that names a secret is refused before it is stored."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if _SECRET_KEY.search(key):
                raise invalid(
                    f"{field}.{key}"[:200],
                    say("no_secret", "The panel stores no secret: keys are made on the nodes and stay there"),
                )
            _no_secrets(inner, f"{field}.{key}")
    elif isinstance(value, list):
        for position, inner in enumerate(value):
            _no_secrets(inner, f"{field}.{position}")


def _between_ends(config: TunnelConfig) -> dict[str, str]:
    """What is right for each end alone, and wrong together."""
    problems: dict[str, str] = {}
    for role, other in PEER.items():
        end, peer = config.end(role), config.end(other)
        routes = end.routes or []
        if end.addresses is None and peer.addresses is not None:
            problems[f"config.{role}.addresses"] = say(
                "addresses_of_both", "{other} has addresses: give them for both ends, or for none", other=other
            )
        again = next((text for text in routes if routes.count(text) > 1), None)
        if again:
            problems[f"config.{role}.routes"] = say("route_twice", "{route} is there twice: keep it once", route=again)
    source, target = (config.end(role).addresses for role in ROLES)
    if source and target and not _paired(source, target):
        near, far = _example(source[0])
        problems["config.target.addresses"] = say(
            "addresses_paired",
            "{target}: each address of the source, {source}, needs exactly one of the same network here,"
            " and the other way round; write for example {near} at the source and {far} here",
            target=shown(target),
            source=shown(source),
            near=near,
            far=far,
        )
    hosts = [text.partition("/")[0] for role in ROLES for text in config.end(role).addresses or ()]
    twice = sorted({host for host in hosts if hosts.count(host) > 1})
    if twice:
        problems["config.target.addresses"] = say(
            "address_twice", "{address} is there twice: each end needs an address of its own", address=twice[0]
        )
    both = sorted(set(config.end("source").routes or ()) & set(config.end("target").routes or ()))
    if both:
        problems["config.target.routes"] = say(
            "route_at_both", "{route} is behind the source as well: keep it at one end", route=both[0]
        )
    return problems


def _paired(source: list[str], target: list[str]) -> bool:
    """Whether each network has one address at each end: a run takes nothing else."""
    here, there = ([ip_interface(text).network for text in end] for end in (source, target))
    return set(here) == set(there) and len(set(here)) == len(here) == len(there)


def _example(text: str) -> tuple[str, str]:
    """An address, in a network that has room for two, and one that goes with it."""
    near = ip_interface(text)
    if near.network.num_addresses == 1:
        near = ip_interface(f"{near.ip}/{near.max_prefixlen - 1}")
    far = next(host for host in near.network.hosts() if host != near.ip)
    return str(near), f"{far}/{near.network.prefixlen}"


def _not_for(tunnel_type: str, config: TunnelConfig) -> dict[str, str]:
    """What another type may do, and a node refuses for this one."""
    problems: dict[str, str] = {}
    if config.transport == "tcp" and tunnel_type != "openvpn":
        problems["config.transport"] = say(
            "tcp_openvpn", "'tcp': only an openvpn tunnel can; make it 'udp', or leave it out"
        )
    for role in ROLES:
        port = config.end(role).port
        if tunnel_type == "ipsec" and port not in (None, IPSEC_PORT):
            problems[f"config.{role}.port"] = say(
                "ipsec_port", "{port}: IPsec speaks at UDP 500 and 4500 only; leave it out", port=port
            )
        if tunnel_type == "ipsec" and config.end(role).endpoint_port == IKE_PORT:
            problems[f"config.{role}.endpoint_port"] = say(
                "ipsec_endpoint_port",
                "{port}: to this port IPsec speaks in another way than to {listening}, where the end listens;"
                " map another one",
                port=IKE_PORT,
                listening=IPSEC_PORT,
            )
    return problems
