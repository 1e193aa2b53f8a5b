# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hand-written lists of tunnels: records without a panel."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import FieldError
from ansible_collections.marzban.tunnels.plugins.module_utils._model import handwritten
from ansible_collections.marzban.tunnels.plugins.module_utils._model import views as model_views
from tests.support.records import ED25519, HALVES, KEY, agree, config_of, json_values, written


def test_a_hand_written_tunnel_is_a_record_like_any_other():
    (record,), broken = handwritten.from_list([written(public={"de-1": {"public_key": KEY}})], "home")
    assert broken == []
    assert record["type"] == "wireguard"
    assert record["active"] is True
    assert record["ends"]["source"]["interface"] == "mz3"
    assert record["ends"]["source"]["public"] == {"public_key": KEY}
    agree(*[model_views.view(record, node, "p") for node in ("de-1", "fi-1")])


def test_a_hand_written_ipsec_tunnel_needs_no_port():
    item = written(type="ipsec", public={"de-1": {"public_key": ED25519}}, config=config_of("ipsec"))
    (record,), broken = handwritten.from_list([item], "home")
    assert broken == []
    assert [end["port"] for end in record["ends"].values()] == [4500, 4500]
    item["config"]["target"]["port"] = 20003
    records, (refused,) = handwritten.from_list([item], "home")
    assert records == []
    assert refused["error"].startswith("target.port: 20003 can't be used. IPsec speaks")
    item["type"] = "openvpn"
    assert "config.source.port is required. " in handwritten.from_list([item], "home")[1][0]["error"]


def test_a_hand_written_end_behind_a_nat():
    item = written()
    item["config"]["target"]["endpoint_port"] = 443
    (record,), broken = handwritten.from_list([item], "home")
    assert broken == []
    assert [(end["port"], end["endpoint_port"]) for end in record["ends"].values()] == [(20003, 20003), (20003, 443)]


@pytest.mark.parametrize("similar", ["CAF\u00c9", "cafe\u0301", "\uff43af\u00e9"])
def test_a_name_that_looks_like_another_is_refused(similar):
    (record,), (refused,) = handwritten.from_list([written(name="caf\u00e9"), written(id=4, name=similar)], "home")
    assert record["name"] == "caf\u00e9"
    assert "records[1].name" in refused["error"]
    assert "It looks like the name 'caf\u00e9': choose one that can be told from it." in refused["error"]


def test_uuids_come_from_the_names():
    def of(name, panel):
        return handwritten.from_list([written(name=name)], panel)[0][0]["uuid"]

    assert of("a", "home") == of("a", "home")
    assert len({of("a", "home"), of("b", "home"), of("a", "work")}) == 3
    assert handwritten.panel_id("home") != handwritten.panel_id("work")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"name": None}, "records[1].name is required. Use 1 to 128 letters"),
        ({"id": "3"}, "records[1].id: '3'"),
        ({"colour": 1}, "records[1]: 'colour' can't be used. There is no such key"),
        ({"source": "localhost"}, "records[1].source: 'localhost'"),
        ({"source": "fi-1"}, "target.node: 'fi-1'"),
        ({"type": "gre"}, "tunnel_type: 'gre'"),
        ({"active": "yes"}, "is_active: 'yes'"),
        ({"config": []}, "records[1].config: []"),
        (
            {"config": {"source": {"endpoint": "a", "port": 1, "addresses": ["10.0.0.0/31"]}}},
            "records[1].config.target.endpoint",
        ),
        ({"public": {"us-1": {}}}, "records[1].public: 'us-1'"),
        ({"public": {"de-1": {"public_key": "x"}}}, "source.public.public_key: 'x'"),
    ],
)
def test_a_wrong_hand_written_tunnel_stops_itself_only(change, error):
    records, broken = handwritten.from_list([written(5), written(**change), written(6, "a", "b")], "home")
    assert [record["id"] for record in records] == [5, 6]
    assert len(broken) == 1
    assert error in broken[0]["error"]


def test_a_hand_written_list_that_is_none():
    with pytest.raises(FieldError, match="Give a list of tunnels"):
        handwritten.from_list({"name": "x"}, "home")


@given(st.lists(json_values, max_size=3))
def test_hand_written_rubbish_never_crashes(listed):
    records, broken = handwritten.from_list(listed, "home")
    assert records == []
    assert len(broken) == len(listed)


@pytest.mark.parametrize("kind", HALVES)
def test_published_halves_of_each_type(kind):
    (record,), _broken = handwritten.from_list([written(type=kind, config=config_of(kind))], "home")
    told = {"b": [{"uuid": record["uuid"], "public": dict(HALVES[kind], private_key="x")}]}
    (merged,) = model_views.publish([record], told, {"a": "de-1", "b": "fi-1"})
    assert [end["public"] for end in merged["ends"].values()] == [None, HALVES[kind]]
    told["b"][0]["public"] = HALVES["wireguard" if kind == "ipsec" else "ipsec"]
    with pytest.raises(FieldError, match="public_key"):
        model_views.publish([record], told, {"a": "de-1", "b": "fi-1"})


def test_published_halves_are_merged_into_hand_written_records():
    (record,), _broken = handwritten.from_list([written()], "home")
    before = copy.deepcopy(record)
    nodes = {"host-a": "de-1", "host-b": "fi-1", "host-c": "us-1"}
    published = {"host-b": [{"uuid": record["uuid"], "public": {"public_key": KEY}}]}
    (merged,) = model_views.publish([record], published, nodes)
    assert merged["ends"]["target"]["public"] == {"public_key": KEY}
    assert merged["ends"]["source"]["public"] is None
    assert record == before
    # A host speaks for its own node only.
    (merged,) = model_views.publish([record], {"host-c": published["host-b"]}, nodes)
    assert merged["ends"]["target"]["public"] is None
    with pytest.raises(FieldError, match="public_key"):
        model_views.publish([record], {"host-b": [{"uuid": record["uuid"], "public": {"public_key": "x"}}]}, nodes)
