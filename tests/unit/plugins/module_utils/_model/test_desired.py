# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an operator declares of a tunnel, and what check mode says about it."""

from __future__ import annotations

import pytest

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import FieldError
from ansible_collections.marzban.tunnels.plugins.module_utils._model import desired

NODES = desired.Nodes([{"id": 1, "name": "de-1"}, {"id": 2, "name": "fi-1"}, {"id": 3, "name": "us-1"}])


def raw(**more):
    """A tunnel of the panel whose ends have reported."""
    ends = [
        {
            "role": role,
            "node": node,
            "node_id": number,
            "endpoint": f"203.0.113.{number}",
            "port": 20001,
            "addresses": [f"10.201.0.{number - 1}/31"],
            "interface": "mz1",
            "routes": [],
            "public": None,
            "status": "active",
            "error": None,
            "measured": {"rtt_ms": 0.5},
            "age": 7,
        }
        for number, (role, node) in enumerate((("source", "de-1"), ("target", "fi-1")), 1)
    ]
    return {
        "id": 1,
        "uuid": "1b4e28ba-2fa1-41d2-883f-0016d3cca427",
        "version": 4,
        "source_node_id": 1,
        "target_node_id": 2,
        "source_node_name": "de-1",
        "target_node_name": "fi-1",
        "tunnel_type": "wireguard",
        "name": "de-fi",
        "config": "{}",
        "is_active": True,
        "status": "active",
        "ends": ends,
        **more,
    }


@pytest.mark.parametrize(("active", "status"), [(True, "connecting"), (False, "inactive")])
def test_a_new_tunnel_is_predicted(active, status):
    want = {"name": "de-fi", "source_node_id": 1, "target_node_id": 2, "is_active": active}
    assert desired.predicted(None, desired.body_to_create(want), NODES) == {
        "id": None,
        "uuid": None,
        "name": "de-fi",
        "type": "wireguard",
        "active": active,
        "version": 1,
        "status": status,
        "since": None,
        "source": "de-1",
        "target": "fi-1",
        "config": {},
        "error": None,
        "ends": [],
    }


@pytest.mark.parametrize(
    ("body", "status", "ends_stay"),
    [
        ({"is_active": False}, "inactive", True),
        ({"name": "other"}, "connecting", True),
        ({"config": {"mtu": 1400}}, "connecting", False),
        ({"target_node_id": 3}, "connecting", False),
        ({"tunnel_type": "ipsec"}, "connecting", False),
        ({"config": {"mtu": 1400}, "is_active": False}, "inactive", False),
    ],
)
def test_a_change_is_predicted(body, status, ends_stay):
    predicted = desired.predicted(raw(), body, NODES)
    assert (predicted["id"], predicted["version"], predicted["status"]) == (1, 5, status)
    assert predicted["target"] == ("us-1" if "target_node_id" in body else "fi-1")
    told = [(end["node"], end["status"], end["error"], end["age"]) for end in predicted["ends"]]
    assert told == ([("de-1", None, None, 7), ("fi-1", None, None, 7)] if ends_stay else [])


@pytest.mark.parametrize("given", ["", "None", "True", "xx-1", "DE-1"])
def test_a_node_that_is_not_there(given):
    odd = desired.Nodes([{"id": 1, "name": "de-1"}, {"name": ["x"]}, {"id": True, "name": "x"}, {}])
    with pytest.raises(FieldError, match=r"source: .* The panel has no such node\. Its nodes: 'de-1', 'x'\."):
        desired.from_options({"name": "de-fi", "source": given}, odd)


def test_a_tunnel_is_found_by_its_name_however_an_accent_is_written():
    apart = {"name": "cafe\u0301"}
    assert desired.find([{"name": None}, apart], "caf\u00e9") is apart
    assert desired.find([apart], "CAF\u00c9") is None
