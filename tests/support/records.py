# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tunnels as a panel answers them, and as a hand-written list has them."""

from __future__ import annotations

import json

from hypothesis import strategies as st

KEY = "YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXoxMjM0NTY="
ED25519 = "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE="
HALVES = {
    "wireguard": {"public_key": KEY, "psk_fingerprint": "a" * 64},
    "openvpn": {"public_key": KEY, "fingerprint": "b" * 64},
    "ipsec": {"public_key": ED25519},
}
PANEL = "9d2f3c1e-4b5a-4c6d-8e7f-0a1b2c3d4e5f"


def tunnel(number=3, source=(1, "de-1"), target=(2, "fi-1"), config=None, **changes):
    """A tunnel as the panel answers it."""

    def end(role, node, host):
        return {
            "role": role,
            "node": node[1],
            "node_id": node[0],
            "endpoint": f"203.0.113.{node[0]}",
            "port": 20000 + number,
            "addresses": [f"10.201.{number}.{host}/31", f"fd6d:7a00::{number:x}:{host}/127"],
            "interface": f"mz{number}",
            "routes": [f"192.168.{number * 2 + host}.0/24"],
            "public": {"public_key": KEY} if role == "source" else None,
            "status": None,
            "error": None,
            "measured": {"handshake_age": 5, "rx_bytes": 1, "tx_bytes": 2, "rtt_ms": 0.5, "loss_percent": 0},
            "age": 12,
        }

    answer = {
        "id": number,
        "uuid": f"1b4e28ba-2fa1-41d2-883f-{number:012x}",
        "version": 4,
        "source_node_id": source[0],
        "target_node_id": target[0],
        "source_node_name": source[1],
        "target_node_name": target[1],
        "tunnel_type": "wireguard",
        "name": f"t{number}",
        "config": json.dumps(config or {}),
        "is_active": True,
        "status": "active",
        "created_at": "2026-11-22T18:00:00",
        "updated_at": "2026-11-22T18:00:00",
        "ends": [end("source", source, 0), end("target", target, 1)],
    }
    answer.update(changes)
    return answer


def of_type(kind, *ends, **more):
    """A tunnel of a type; each of its ends has what the type wants."""
    raw = tunnel(*ends, tunnel_type=kind, **more)
    for end in raw["ends"]:
        end["public"] = HALVES[kind]
        if kind == "ipsec":
            end["port"] = 4500
    return raw


def written(number=3, source="de-1", target="fi-1", **changes):
    def end(host):
        return {"endpoint": f"203.0.113.{host}", "port": 20000 + number, "addresses": [f"10.201.{number}.{host}/31"]}

    item = {"name": f"t{number}", "id": number, "source": source, "target": target}
    item["config"] = {"source": end(0), "target": end(1)}
    item.update(changes)
    return item


def config_of(kind):
    """The config of a hand-written tunnel of this type."""
    config = written()["config"]
    if kind == "ipsec":
        for end in config.values():
            del end["port"]
    return config


def agree(one, other):
    """Two views of one tunnel: each one's peer is the other."""
    for key in (
        "id",
        "uuid",
        "name",
        "type",
        "active",
        "version",
        "mtu",
        "keepalive",
        "transport",
        "post_quantum",
        "panel",
    ):
        assert one[key] == other[key]
    assert one["local"] == other["peer"]
    assert one["peer"] == other["local"]
    assert one["routes"] == other["local"]["routes"]
    assert other["routes"] == one["local"]["routes"]
    assert one["dial"] or other["dial"]
    assert (one["dial"], other["dial"]) == (other["dialed"], one["dialed"])
    assert {one["local"]["role"], other["local"]["role"]} == {"source", "target"}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
