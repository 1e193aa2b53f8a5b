# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Records for a page to show: nodes, tunnels of all types, and reports as a run sends them."""

from __future__ import annotations

import time
import zlib
from datetime import UTC, datetime
from typing import Any

from tests.support.panel import Panel, database
from tests.support.panel_api import key

NODES = {
    "de-1": "203.0.113.7",
    "fi-1": "198.51.100.9",
    "fr-2": "203.0.113.40",
    "ir-thr-1": "192.0.2.15",
    "nl-ams-1": "198.51.100.77",
    "tr-ist-1": "192.0.2.130",
}
MEASURED: dict[str, dict[str, Any]] = {
    "wireguard": {
        "cipher": "ChaCha20-Poly1305",
        "key_exchange": "X25519 + PSK",
        "post_quantum": True,
        "data_path": "kernel",
    },
    "openvpn": {
        "cipher": "AES-256-GCM",
        "key_exchange": "X25519MLKEM768",
        "post_quantum": True,
        "data_path": "userspace",
        "certificate_days": 512,
    },
    "ipsec": {"cipher": "AES-128-GCM", "key_exchange": "X25519", "post_quantum": False, "data_path": "kernel"},
}
LOST = "no answer from 10.201.0.9 in the tunnel: 5 of 5 packets lost; look whether UDP 4500 is open on tr-ist-1"
# name, source, target, type, what is reported, round trip in ms, loss in %, age in s
TUNNELS = [
    ("ams-fi", "nl-ams-1", "fi-1", "wireguard", "active", 24.6, 0, 12),
    ("ams-fr", "nl-ams-1", "fr-2", "openvpn", "active", 9.8, 0, 12),
    ("de-ams backup", "de-1", "nl-ams-1", "ipsec", "active", 7.3, 0, 12),
    ("de-fi", "de-1", "fi-1", "wireguard", "active", 26.1, 0, 12),
    ("de-fi openvpn", "de-1", "fi-1", "openvpn", "active", 27.9, 2, 12),
    ("de-fr", "de-1", "fr-2", "wireguard", "active", 11.2, 0, 4100),
    ("ist-ams", "tr-ist-1", "nl-ams-1", "ipsec", "error", None, None, 12),
    ("thr-de", "ir-thr-1", "de-1", "openvpn", "active", 88.4, 0, 12),
    ("thr-fi", "ir-thr-1", "fi-1", "wireguard", "connecting", None, None, 12),
    ("thr-fr old", "ir-thr-1", "fr-2", "openvpn", "inactive", None, None, None),
    ("thr-ist", "ir-thr-1", "tr-ist-1", "wireguard", None, None, None, None),
]


def age(panel: Panel, tunnel: Any, seconds: int) -> None:
    """Make a tunnel's reports this old."""
    moment = "UPDATE tunnel_ends SET reported_at = datetime(reported_at, ?) WHERE tunnel_id = ?"
    with database(panel) as connection:
        connection.execute(moment, (f"-{seconds} seconds", tunnel["id"]))


def add_nodes(panel: Panel, nodes: dict[str, str]) -> dict[str, int]:
    """The nodes' ids by name."""
    return {name: panel.add_node(name, address)["id"] for name, address in nodes.items()}


def publish(panel: Panel, tunnel: Any) -> None:
    """Public halves of both ends."""
    halves = [
        {"uuid": tunnel["uuid"], "node": end["node"], "public": key(tunnel["tunnel_type"])} for end in tunnel["ends"]
    ]
    panel.call("POST", "/api/tunnels/keys", {"keys": halves})


def report(panel: Panel, tunnel: Any, *statuses: str | None, error: str | None = None, **measured: Any) -> None:
    """What a run has found at the source and at the target (one status: at both)."""
    told = zip(tunnel["ends"], statuses * 2, strict=False)
    reports = [
        {
            "uuid": tunnel["uuid"],
            "node": end["node"],
            "version": tunnel["version"],
            "status": status,
            "error": error,
            "measured": measured or None,
        }
        for end, status in told
        if status
    ]
    assert panel.call("POST", "/api/tunnels/status", {"reports": reports})["rejected"] == []


def fill(panel: Panel) -> dict[str, Any]:
    """Six nodes and eleven tunnels, in all states; the tunnels by name."""
    nodes = add_nodes(panel, NODES)
    made = {}
    for place, (name, source, target, kind, status, rtt, loss, old) in enumerate(TUNNELS, 1):
        tunnel = panel.add_tunnel(nodes[source], nodes[target], name, tunnel_type=kind, is_active=status != "inactive")
        made[name] = tunnel
        publish(panel, tunnel)
        traffic: dict[str, Any] = {
            "rx_bytes": 7_654_321 * place**4,
            "tx_bytes": 1_234_567 * place**4,
            "handshake_age": 40,
        }
        if status == "active":
            report(panel, tunnel, status, rtt_ms=rtt, loss_percent=loss, **traffic, **MEASURED[kind])
        elif status == "error":
            report(panel, tunnel, status, error=LOST)
        elif status == "connecting":
            report(panel, tunnel, status)
        if old:
            age(panel, tunnel, old)
    return made


#: A past, in hours before now: when each status began, and why
PAST = [
    (700, "active", None),
    (500, "inactive", None),
    (440, "active", None),
    (10, "error", LOST),
    (8.5, "active", None),
]
UNMEASURED = (15, 14)  # hours before now, from and to


def past(panel: Panel, tunnel: Any, now: float | None = None) -> float:
    """Give a tunnel a past, straight into the database: ``PAST``, and sums of each five minutes of a day and of each
    hour of a month. Answers now."""
    now = time.time() if now is None else now
    began = [now - hours * 3600 for hours, _status, _error in PAST]
    ends = [*began[1:], now]

    def lasted(status: str, begin: float, end: float) -> float:
        spans = [(a, b) for (a, b, (_hours, was, _error)) in zip(began, ends, PAST, strict=True) if was == status]
        measured = [(max(a, begin), min(b, end)) for a, b in spans]
        first, last = (now - hours * 3600 for hours in UNMEASURED)
        lost = sum(max(0.0, min(b, last) - max(a, first)) for a, b in measured if b > a)
        return sum(max(0.0, b - a) for a, b in measured) - lost

    with database(panel) as connection:
        for number, ((_hours, status, error), at) in enumerate(zip(PAST, began, strict=True), 1):
            moment = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S.000000")
            connection.execute(
                "INSERT OR REPLACE INTO tunnel_changes (tunnel_id, number, at, status, error) VALUES (?, ?, ?, ?, ?)",
                (tunnel["id"], number, moment, status, error),
            )
            connection.execute(
                "UPDATE tunnels SET last_status = ?, status_since = ?, status_changes = ? WHERE id = ?",
                (status, moment, number, tunnel["id"]),
            )
        for level, kept in ((300, 86400), (3600, 30 * 86400)):
            for start in range(int((now - kept) // level * level), int(now), level):
                end = min(start + level, now)
                up, down = (round(lasted(status, start, end)) for status in ("active", "error"))
                if up + down == 0:
                    continue
                evening = start // 3600 % 24 in (17, 18, 19, 20)
                noise = zlib.crc32(str(start).encode())
                rtt = 26_000 + noise % 2500 + 14_000 * evening if up else None
                worst = None if rtt is None else rtt + noise % 21_001
                loss = 10_000 if down > up else 150 * (noise % 17 == 0)
                connection.execute(
                    "INSERT OR REPLACE INTO tunnel_sums VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (level, start, tunnel["id"], up, down, level // 5, rtt, worst, loss, 31_000_000, 5_100_000),
                )
    return now


def many(panel: Panel, count: int, nodes: int = 30) -> None:
    """As many tunnels as that between so many nodes, straight into the database: by calls it would take a minute."""
    ids = list(add_nodes(panel, {f"node-{place:02}": f"203.0.113.{place}" for place in range(1, nodes + 1)}).values())
    kinds = list(MEASURED)
    with database(panel) as connection:
        for number in range(1, count + 1):
            pair = [ids[number % nodes], ids[(number + 1 + number // nodes) % nodes]]
            pair = pair if pair[0] != pair[1] else [ids[0], ids[1]]
            connection.execute(
                "INSERT INTO tunnels (id, uuid, version, source_node_id, target_node_id, tunnel_type, name, config,"
                " is_active, created_at, updated_at)"
                " VALUES (?, ?, 1, ?, ?, ?, ?, '{}', 1, datetime(), datetime())",
                (number, f"00000000-0000-4000-8000-{number:012}", *pair, kinds[number % 3], f"tunnel {number:04}"),
            )
            status = "error" if number % 50 == 0 else "active"
            for role, node in zip(("source", "target"), pair, strict=True):
                connection.execute(
                    "INSERT INTO tunnel_ends (tunnel_id, role, node_id, port, interface, status, measured, reported_at)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, datetime())",
                    (
                        number,
                        role,
                        node,
                        20000 + number,
                        f"mz{number}",
                        status,
                        '{"rtt_ms": 12.5, "rx_bytes": 5000000}',
                    ),
                )
