# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether packets pass: a ping inside the tunnel, and what it says about one end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Iterable, List, NamedTuple

from .._errors import Error
from .._model import symptoms
from .._protocols.base import Protocol, ipv6_is_off
from .files import read
from .host import Host
from .netdev import Live
from .observation import Observation
from .path import LOWERED, narrow_path
from .ping import ping_all
from .status import status
from .tunnel import Tunnel

if TYPE_CHECKING:
    from .._model.shapes import Measured, View


class Work(NamedTuple):
    """The tunnels of a protocol in this run. ``live``: what was observed, or None; ``changed`` since that."""

    protocol: Protocol
    tunnels: List[Tunnel]
    live: "Live | None" = None
    changed: bool = False


def observe_briefly(host: Host, works: Iterable[tuple[Protocol, list[str]]]) -> dict[str, Live]:
    """``{protocol: what changes by itself, of these interfaces}``, asked for at once."""
    works = list(works)
    observation = Observation(host, (unit for protocol, names in works for unit in protocol.all_units(names)))
    observation.prefetch(*(argv for protocol, _names in works for argv in protocol.brief_queries()))
    return {protocol.name: protocol.observe_briefly(observation, names) for protocol, names in works}


def measure(host: Host, works: list[Work], probe: bool = True) -> None:
    """Finds the status of the tunnels that were not refused; all pings run at the same time.

    What was observed a moment ago is good enough where nothing has changed and every ping was answered.
    """
    names = {work.protocol: sorted(t.view["interface"] for t in work.tunnels if t.wanted) for work in works}
    seen = {work.protocol.name: work.live for work in works if work.live is not None}
    blind = [work.protocol for work in works if work.live is None and names[work.protocol]]
    if blind:
        seen.update(observe_briefly(host, ((protocol, names[protocol]) for protocol in blind)))
    running: dict[str, tuple[Work, Tunnel]] = {}
    for work in works:
        for tunnel in work.tunnels:
            if tunnel.refused:
                continue
            tunnel.status = "connecting" if tunnel.view["active"] else "inactive"
            tunnel.error = tunnel.symptom = tunnel.note = tunnel.hangs = tunnel.narrow = None
            if tunnel.wanted and work.protocol.up(tunnel.view, seen[work.protocol.name])[0]:
                running[tunnel.uuid] = (work, tunnel)
    pings: dict[str, Any] = {}
    narrow: dict[str, tuple[int, int | None]] = {}
    if probe and running:
        targets = {u: (work.protocol.ping_from(t.view), inside(t.view)) for u, (work, t) in running.items()}
        mtus = {uuid: _mtu(tunnel.view["interface"]) for uuid, (_work, tunnel) in running.items()}
        pings, narrow, passed = ping_all(targets, {uuid: mtu for uuid, mtu in mtus.items() if mtu})
        pings = {uuid: dict(ping, mtu=passed.get(uuid)) for uuid, ping in pings.items()}
    measured = {
        uuid: _measured(work.protocol, tunnel, seen, pings.get(uuid)) for uuid, (work, tunnel) in running.items()
    }
    again = {
        work.protocol
        for uuid, (work, _tunnel) in running.items()
        if pings and (work.changed or not _settled(work.protocol, measured[uuid]))
    }
    if again:
        seen.update(observe_briefly(host, ((protocol, names[protocol]) for protocol in names if protocol in again)))
    for uuid, (work, tunnel) in running.items():
        protocol = work.protocol
        found = _measured(protocol, tunnel, seen, pings.get(uuid)) if protocol in again else measured[uuid]
        tunnel.measured = found
        if tunnel.received is None:
            tunnel.received = measured[uuid]["rx_bytes"]
        heard = None not in (tunnel.received, found["rx_bytes"]) and tunnel.received != found["rx_bytes"]
        up = protocol.up(tunnel.view, seen[protocol.name])[1]
        tunnel.narrow = narrow.get(uuid)
        tunnel.status, said = status(tunnel.view, found, up, protocol, heard, tunnel.narrow)
        if tunnel.status == "error":
            tunnel.fail(said or "no traffic", symptoms.of_probe("error", found, protocol.session_limit))
        else:
            tunnel.note = said or lowered(tunnel)
    for work in works:
        for tunnel in work.tunnels:
            if tunnel.wanted and tunnel.view["interface"] in seen[work.protocol.name]["hangs"] and not passes(tunnel):
                tunnel.hangs = work.protocol.process(tunnel.view["interface"])


def passes(tunnel: Tunnel) -> bool:
    """Whether a ping was answered when it was measured last."""
    loss = tunnel.measured["loss_percent"] if tunnel.measured else None
    return loss is not None and loss < 100


def lowered(tunnel: Tunnel) -> str | None:
    """The note of a tunnel that passes packets, and had its MTU lowered for that."""
    narrow = narrow_path(tunnel.state["applied"] if tunnel.state else {})
    if narrow is None or tunnel.view["mtu"] is not None or not passes(tunnel):
        return None
    return LOWERED.format(narrow["mtu"], narrow["before"])


def _measured(protocol: Protocol, tunnel: Tunnel, seen: dict[str, Live], ping: dict[str, Any] | None) -> Measured:
    found = NOTHING.copy()
    found.update(protocol.measured(tunnel.view, seen[protocol.name], ping or {}))  # type: ignore[typeddict-item]
    return found


def _settled(protocol: Protocol, measured: Measured) -> bool:
    """Whether packets pass in a session that was there already, so that another look would show the same."""
    age, limit, loss = measured["handshake_age"], protocol.session_limit, measured["loss_percent"]
    return loss == 0 and age is not None and (limit is None or age < limit)


def _mtu(interface: str) -> int | None:
    """Bytes of the largest packet that an interface takes."""
    try:
        return int(read("/sys/class/net/%s/mtu" % interface) or "")
    except (Error, ValueError):  # somebody takes it down at this moment
        return None


def had_session(protocol: Protocol, tunnel: Tunnel, live: Live) -> bool:
    """Whether it has a session with its peer. ``live``: as observed before anything of it is changed."""
    if tunnel.last_interface is None:
        return False
    view: Any = dict(tunnel.view, interface=tunnel.last_interface)
    age, limit = protocol.measured(view, live, {}).get("handshake_age"), protocol.session_limit
    return age is not None and (limit is None or age < limit)


def inside(view: View) -> str:
    """The peer's address that a ping goes to: the first one, of a family that this host has."""
    addresses = [address.split("/")[0] for address in view["peer"]["addresses"]]
    if ":" in addresses[0] and ipv6_is_off():
        return next((address for address in addresses if ":" not in address), addresses[0])
    return addresses[0]


# MEASURED of docs/development/contract.md when nothing is known
NOTHING: Measured = {
    "handshake_age": None,
    "rx_bytes": None,
    "tx_bytes": None,
    "rtt_ms": None,
    "loss_percent": None,
    "cipher": None,
    "key_exchange": None,
    "post_quantum": None,
    "data_path": None,
    "certificate_days": None,
    "mtu": None,
}
