# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The views that nodes have of records."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import FieldError
from ansible_collections.marzban.tunnels.plugins.module_utils._model import records as model_records
from ansible_collections.marzban.tunnels.plugins.module_utils._model import views as model_views
from tests.support.records import KEY, PANEL, agree, json_values, tunnel

configs = st.fixed_dictionaries(
    {},
    optional={
        "dial": st.sampled_from(["both", "source", "target", None]),
        "mtu": st.integers(1280, 9200) | st.none(),
        "keepalive": st.integers(0, 65535) | st.none(),
        "transport": st.sampled_from(["udp", "tcp"]),
        "post_quantum": st.sampled_from(["auto", "require", "off"]),
        "colour": json_values,
    },
)


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4), configs), max_size=6))
def test_views_of_both_ends_agree(pairs):
    raws = []
    for number, (source, target, config) in enumerate(pairs, start=1):
        try:
            raws.append(tunnel(number, (source, f"n{source}"), (target, f"n{target}"), config))
        except ValueError:
            return
    records, broken = model_records.parse_all(raws)
    nodes = {f"host{n}": f"n{n}" for n in range(1, 5)}
    views = model_views.views(records, nodes, PANEL)
    assert set(views) == set(nodes)
    assert sum(len(seen) for seen in views.values()) == 2 * len(records)
    assert len(records) + len(broken) == len(raws)
    for record in records:
        both = [view for seen in views.values() for view in seen if view["id"] == record["id"]]
        agree(*both)
        for view in both:
            assert nodes[next(host for host, seen in views.items() if view in seen)] == view["local"]["node"]


def test_a_view():
    record = model_records.parse(tunnel(config={"dial": "source"}))
    view = model_views.view(record, "fi-1", PANEL)
    assert view == {
        "panel": PANEL,
        "id": 3,
        "uuid": record["uuid"],
        "name": "t3",
        "type": "wireguard",
        "active": True,
        "version": 4,
        "interface": "mz3",
        "mtu": None,
        "keepalive": 25,
        "dial": False,
        "dialed": True,
        "transport": "udp",
        "post_quantum": "auto",
        "routes": ["192.168.6.0/24"],
        "local": {
            "node": "fi-1",
            "role": "target",
            "endpoint": "203.0.113.2",
            "port": 20003,
            "endpoint_port": 20003,
            "addresses": ["10.201.3.1/31", "fd6d:7a00::3:1/127"],
            "routes": ["192.168.7.0/24"],
            "public": None,
        },
        "peer": {
            "node": "de-1",
            "role": "source",
            "endpoint": "203.0.113.1",
            "port": 20003,
            "endpoint_port": 20003,
            "addresses": ["10.201.3.0/31", "fd6d:7a00::3:0/127"],
            "routes": ["192.168.6.0/24"],
            "public": {"public_key": KEY},
        },
    }
    with pytest.raises(FieldError, match="joins de-1 and fi-1"):
        model_views.view(record, "us-1", PANEL)


def test_post_quantum_is_the_records_choice_or_else_the_runs():
    for chosen, default, is_now in (
        (None, "auto", "auto"),
        (None, "require", "require"),
        ("off", "require", "off"),
        ("auto", "off", "auto"),
    ):
        record = model_records.parse(tunnel(config={"post_quantum": chosen}))
        views = model_views.views([record], {"a": "de-1", "b": "fi-1"}, PANEL, default)
        assert [view["post_quantum"] for seen in views.values() for view in seen] == [is_now] * 2


def test_a_keepalive_of_zero_is_not_the_default():
    assert model_views.view(model_records.parse(tunnel(config={"keepalive": 0})), "de-1", PANEL)["keepalive"] == 0


def test_two_hosts_that_are_one_node():
    with pytest.raises(FieldError, match="The host a is this node already"):
        model_views.views([], {"a": "de-1", "b": "de-1"}, PANEL)


def test_an_end_is_dialed_at_another_port_than_it_listens_at():
    raw = tunnel(config={"target": {"endpoint_port": 443}})
    raw["ends"][1]["endpoint_port"] = 443
    record = model_records.parse(raw)
    here, there = (model_views.view(record, node, PANEL) for node in ("de-1", "fi-1"))
    agree(here, there)
    assert (here["peer"]["endpoint_port"], here["peer"]["port"]) == (443, 20003)
    assert (here["local"]["endpoint_port"], here["local"]["port"]) == (20003, 20003)
    assert model_views.check(here, PANEL) == here
    mapped = "is UDP 443 at 203.0.113.2 mapped to 20003 on fi-1, and open"
    assert model_views.way_in(here, here["peer"]) == model_views.way_in(there, there["local"]) == mapped
    assert model_views.way_in(here, here["local"]) == "is UDP 20003 open at 203.0.113.1"


def test_a_view_of_an_older_controller_is_dialed_at_its_port():
    older: Any = model_views.view(model_records.parse(tunnel()), "de-1", PANEL)
    for side in ("local", "peer"):
        del older[side]["endpoint_port"]
    assert model_views.check(older, PANEL)["peer"]["endpoint_port"] == 20003
