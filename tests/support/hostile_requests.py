# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests that a front in wrong hands could hand to the root half, with a right key. All are to be refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

IDS: list[Any] = [
    *("../../../etc/passwd", "..", "/etc/shadow", "1b4e28ba-2fa1-41d2-883f-000000000001/../../x", "%2e%2e%2fx"),
    *("\0", "1\n2", "x" * 100_000, "\ud800", "\u202e1", "１", "1e3", "-1", "0x1", "None", "null", ""),
    *(2**70, -1, 0, 1.5, True, None, [], ["1"], {"a": 1}),
]
TEXTS: list[Any] = ["../../x", "/etc/x", "a\nb", "a\0b", "\ud800", "x" * 100_000, "", 7, [], {"a": {}}, None, True]
CALLS: list[Any] = ["__class__", "_post", "POST", "", None, [], {"a": 1}]
EPOCHS: list[Any] = ["\ud800", "a\nb", "x" * 101, 7, []]
NEWS: list[Any] = ["\ud800", "a\nb", "x" * 101, 7, [], {}]
WAITS: list[Any] = [-1, 20.1, 2**70, 1e400, float("nan"), "1", [], {}, True]
NUMBERS: list[Any] = [-1, 2**70, -(2**70), 1e400, "1", [], {"a": 1}]
DEEP = "[" * 50_000 + "]" * 50_000


def calls(record: Callable[[], dict[str, Any]], body: Callable[[dict[str, Any]], dict[str, Any]]) -> Iterator[Any]:
    """Requests without their key. ``record``: of a good tunnel; ``body``: of a good ``post`` of it."""
    for given in IDS:
        yield {"call": "status", "id": given}
        yield {"call": "delete", "id": given, "counter": body(record())["counter"]}
    for counter in NUMBERS:
        yield {"call": "delete", "id": "1", "counter": counter}
        yield {"call": "post", "body": {**body(record()), "counter": counter}}
    for epoch in EPOCHS:
        yield {"call": "post", "body": {**body(record()), "epoch": epoch}}
    for field, values in {
        **dict.fromkeys(("uuid", "interface", "tunnel_type"), TEXTS),
        **dict.fromkeys(("id", "version"), NUMBERS),
        "name": ["a\nb", "\ud800", "x" * 100_000, 7, [], {"a": {}}, True],
        "config": ["[1]", "{", DEEP, '{"mtu": 1e400}', '{"source": {"addresses": ["../x"]}}'],
        "ends": [None, [], {}, [{}], [{}, {}], [1, 2], ["source", "target"]],
    }.items():
        for value in values:
            if field == "interface":
                ends = [{**end, "interface": value} for end in record()["ends"]]
                yield {"call": "post", "body": body({**record(), "ends": ends})}
            else:
                yield {"call": "post", "body": body({**record(), field: value})}
    for field in ("node", "panel"):
        for value in TEXTS:
            yield {"call": "post", "body": {**body(record()), field: value}}
    for value in (None, [], "x", 7, {"tunnel": None}):
        yield {"call": "post", "body": value}
    for call in CALLS:
        yield {"call": call}
    for after in NEWS:
        yield {"call": "list", "after": after, "wait": 20}
    for wait in WAITS:
        yield {"call": "list", "after": "x", "wait": wait}


def lines() -> list[bytes]:
    """What can never be a request."""
    whole = json.dumps({"call": "list"}).encode()
    return [b"\n", b"\0\n", b"\xff\xfe\n", whole[:-1] + b"\n", b"NaN\n", b"[]\n", DEEP.encode() + b"\n", b'"\\ud800"\n']
