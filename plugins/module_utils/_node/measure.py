# Copyright (c) 2026 the marzban.tunnels authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether packets pass: a ping inside the tunnel, and what it says about one end."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

from .._protocols.base import ipv6_is_off


def measure(host, work, probe=True):
    """Finds the status of the tunnels that were not refused; all pings run at the same time.

    ``work``: ``[(protocol, its tunnels, what its look said a moment ago or None)]``.
    """
    running, named = {}, []
    for protocol, tunnels, live in work:
        names = sorted(one.view["interface"] for one in tunnels if one.wanted)
        live = live or (protocol.look_briefly(names) if names else None)
        for tunnel in tunnels:
            if tunnel.refused:
                continue
            tunnel.status, tunnel.error = ("connecting" if tunnel.view["active"] else "inactive"), None
            if tunnel.wanted and protocol.up(tunnel.view, live)[0]:
                running[tunnel.uuid] = (protocol, tunnel)
        named.append((protocol, names, live))
    pings = {}
    if probe and running:
        targets = {u: (protocol.ping_from(one.view), _inside(one.view)) for u, (protocol, one) in running.items()}
        pings = ping_all(host, targets)
    seen = {p.name: p.look_briefly(names) if pings and names else live for p, names, live in named}
    for uuid, (protocol, tunnel) in running.items():
        live = seen[protocol.name]
        tunnel.measured = dict(NOTHING, **protocol.measured(tunnel.view, live, pings.get(uuid) or {}))
        up = protocol.up(tunnel.view, live)[1]
        tunnel.status, error = status(tunnel.view, tunnel.measured, up, protocol)
        if error:
            tunnel.fail(error)


def _inside(view):
    """The peer's address that a ping goes to: the first one, of a family that this host has."""
    addresses = [one.split("/")[0] for one in view["peer"]["addresses"]]
    if ":" in addresses[0] and ipv6_is_off():
        return next((one for one in addresses if ":" not in one), addresses[0])
    return addresses[0]


AT_ONCE = 32  # pings that run at the same time
PING = ("ping", "-n", "-q", "-c", "3", "-i", "0.1", "-w", "1")
PING_TIMEOUT = 5  # seconds
UNKNOWN = {"rtt_ms": None, "loss_percent": None}  # what a ping that did not run says
# MEASURED of docs/contract.md when nothing is known
NOTHING = dict.fromkeys(
    (
        *("handshake_age", "rx_bytes", "tx_bytes", "rtt_ms", "loss_percent"),
        *("cipher", "key_exchange", "post_quantum", "data_path", "certificate_days"),
    )
)
PATIENCE = 180  # seconds; after this time without a handshake the other end isn't just late
_SENT = re.compile(r"(\d+) packets transmitted, (\d+) (?:packets )?received")
_TIMES = re.compile(r"= [\d.]+/([\d.]+)/")


def ping_all(host, targets):
    """Pings ``{key: (interface or own address, address)}``: ``{key: {"rtt_ms"?, "loss_percent"?}}``.

    Both are None where ping failed.
    """
    if not targets:
        return {}
    with ThreadPoolExecutor(max_workers=min(AT_ONCE, len(targets))) as pool:
        return dict(zip(targets, pool.map(lambda one: _ping(host, *one), targets.values())))


def _ping(host, source, address):
    # ping ends with 1 when nothing came back, and says so on its output all the same.
    argv = (*PING, "-I", source, address)
    return parse_ping(host.query("sh", "-c", '"$@" || true', "ping", *argv, timeout=PING_TIMEOUT) or "")


def parse_ping(text):
    """``{"rtt_ms"?, "loss_percent"?}`` in the output of ping."""
    sent = _SENT.search(text)
    if not sent or not int(sent.group(1)):
        return dict(UNKNOWN)
    lost = 100.0 * (int(sent.group(1)) - int(sent.group(2))) / int(sent.group(1))
    times = _TIMES.search(text)
    return {"rtt_ms": float(times.group(1)) if times else None, "loss_percent": round(max(lost, 0.0), 1)}


def status(view, measured, up, protocol):
    """``(status, error?)`` of the end of an active ``view`` that runs, after a probe.

    ``measured`` as docs/contract.md has it, ``up`` the seconds since its service started (None: unknown).
    """
    peer, age, limit = view["peer"], measured["handshake_age"], protocol.session_limit
    if measured["loss_percent"] is not None and measured["loss_percent"] < 100:
        return "active", None
    if measured["loss_percent"] is None and age is not None and (limit is None or age < limit):
        return "connecting", None  # nothing was measured
    if age is None:
        if up is None or up < PATIENCE:
            return "connecting", None
        return "error", "no handshake with %s in %s: %s" % (peer["node"], _duration(up), _advice(view, protocol))
    if limit is not None and age >= limit:
        advice = _advice(view, protocol)
        return "error", "the last handshake with %s was %s ago: %s" % (peer["node"], _duration(age), advice)
    return "error", "the handshake with %s is %s old, and %s did not answer 3 pings inside the tunnel: %s" % (
        peer["node"],
        _duration(age),
        peer["addresses"][0].split("/")[0],
        "does a firewall there drop traffic from %s, or is its tunnel interface without its address?"
        % view["interface"],
    )


def _duration(seconds):
    seconds = int(seconds)
    if seconds < 120:
        return "%d s" % seconds
    if seconds < 7200:
        return "%d min" % (seconds // 60)
    return "%d h" % (seconds // 3600)


def _advice(view, protocol):
    peer, local = view["peer"], view["local"]
    if view["dial"]:
        return "is %s open at %s, and was the tunnel applied on %s?" % (
            protocol.ports(view, peer),
            peer["endpoint"],
            peer["node"],
        )
    return "%s dials, is %s open here at %s, and was the tunnel applied on %s?" % (
        peer["node"],
        protocol.ports(view, local),
        local["endpoint"],
        peer["node"],
    )
