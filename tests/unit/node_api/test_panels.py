# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which panel calls, and how far it has counted."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from marzban_node.errors import Refused
from marzban_node.panels import FURTHEST, Panels

A, B = "0d1f3b52-7c9e-4c8e-9b0f-3a2d5e6f7a81", "9d1f3b52-7c9e-4c8e-9b0f-3a2d5e6f7a89"
NODE = "1b4e28ba-2fa1-41d2-883f-00000000ffff"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def panels(tmp_path: Path) -> Panels:
    folder = tmp_path / "panels"
    folder.mkdir()
    for panel, key in ((A, "a" * 43), (B, "b" * 43)):
        told = {
            "panel": panel,
            "node": NODE,
            "hashes": [digest(key), digest(key + "next")],
            "certificate": digest(panel),
        }
        (folder / f"{panel}.json").write_text(json.dumps(told))
    (folder / "damaged.json").write_text("{")
    (folder / f"{NODE}.json").write_text(json.dumps({"panel": A, "node": NODE, "hashes": [digest("c" * 43)]}))
    return Panels(str(folder), str(tmp_path / "counters.json"))


@pytest.mark.parametrize(
    ("key", "certificate", "found"),
    [
        ("a" * 43, None, A),
        ("a" * 43 + "next", None, A),
        ("b" * 43, None, B),
        (None, digest(B), B),
        (None, None, 401),
        (None, digest("x"), 401),
        (["a" * 43], None, 401),
        ("", None, 403),
        ("x" * 43, None, 403),
        ("c" * 43, None, 403),  # in a file that has another panel's name
        ("\ud800", "é", 403),
    ],
)
def test_who_calls(panels: Panels, key: Any, certificate: Any, found: Any) -> None:
    if isinstance(found, str):
        assert panels.caller(key, certificate).id == found
    else:
        with pytest.raises(Refused) as refused:
            panels.caller(key, certificate)
        assert refused.value.status == found


def test_each_panel_counts_for_itself_and_only_upwards(panels: Panels, tmp_path: Path) -> None:
    a, b = panels.caller("a" * 43, None), panels.caller("b" * 43, None)
    panels.count(a, 10**9, "e1")
    panels.count(b, 1, None)
    assert (panels.counted(a), panels.counted(b)) == ((10**9, "e1"), (1, None))
    for counter, epoch, code in (
        (10**9, "e2", "older_database"),
        (1, "e2", "older_database"),
        (10**9 + FURTHEST + 1, "e2", "invalid"),  # the next one might be the last that there is
        (2**53 + 1, "e2", "invalid"),
        ("7", "e2", "invalid"),
        (True, "e2", "invalid"),
        (10**9 + 1, "e" * 101, "invalid"),
        (10**9 + 1, 7, "invalid"),
    ):
        with pytest.raises(Refused) as refused:
            panels.count(a, counter, epoch)
        assert refused.value.body["code"] == code, (counter, epoch)
    assert panels.counted(a) == (10**9, "e1"), "what was refused has counted"
    panels.count(a, 10**9 + 2, "e2")
    again = panels.caller("a" * 43, None).__class__(A, B, ())
    assert panels.counted(again) == (0, None), "a node that was added again is another one"
    (tmp_path / "counters.json").write_text("[]")
    assert panels.counted(a) == (0, None)
