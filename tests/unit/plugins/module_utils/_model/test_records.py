# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Records out of a panel's answers: what is wrong stops its own tunnel, and no other."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import FieldError
from ansible_collections.marzban.tunnels.plugins.module_utils._model import records as model_records
from ansible_collections.marzban.tunnels.plugins.module_utils._model import views as model_views
from tests.support.records import HALVES, KEY, PANEL, json_values, of_type, tunnel


def test_a_tunnel_becomes_a_record():
    record = model_records.parse(tunnel(config={"mtu": 1400, "colour": "red"}))
    assert record["id"] == 3
    assert record["name"] == "t3"
    assert record["type"] == "wireguard"
    assert record["active"] is True
    assert record["version"] == 4
    assert record["config"] == {"mtu": 1400, "colour": "red"}
    assert record["ends"]["source"]["public"] == {"public_key": KEY}
    assert record["ends"]["target"]["public"] is None
    assert record["ends"]["target"]["addresses"] == ["10.201.3.1/31", "fd6d:7a00::3:1/127"]


@pytest.mark.parametrize("kind", HALVES)
def test_each_type_is_a_record(kind):
    raw = of_type(kind)
    raw["ends"][0]["measured"].update(cipher="AES-256-GCM", key_exchange=None, post_quantum=False, data_path="kernel")
    record = model_records.parse(raw)
    assert record["type"] == kind
    assert [end["public"] for end in record["ends"].values()] == [HALVES[kind]] * 2
    assert record["ends"]["source"]["measured"] == {
        "handshake_age": 5,
        "rx_bytes": 1,
        "tx_bytes": 2,
        "rtt_ms": 0.5,
        "loss_percent": 0,
        "cipher": "AES-256-GCM",
        "key_exchange": None,
        "post_quantum": False,
        "data_path": "kernel",
        "certificate_days": None,
        "mtu": None,
    }
    raw["ends"][1]["public"] = HALVES["wireguard" if kind == "ipsec" else "ipsec"]
    with pytest.raises(FieldError, match=r"target\.public\.public_key: "):
        model_records.parse(raw)


def test_ipsec_has_one_port():
    raw = of_type("ipsec")
    raw["ends"][0]["port"] = 20003
    with pytest.raises(FieldError, match=r"source\.port: 20003 can't be used\. IPsec speaks at UDP 500 and 4500 only"):
        model_records.parse(raw)


def test_a_tunnel_without_a_name_is_called_by_its_id():
    assert model_records.title(model_records.parse(tunnel(name=None))) == "#3"
    assert model_records.title(model_records.parse(tunnel())) == "t3"


def changed(path, value):
    """A tunnel with one value changed (``path`` is dotted; a value of KeyError removes it)."""
    raw = tunnel()
    place = raw
    *way, last = path.split(".")
    for step in way:
        place = place[int(step) if isinstance(place, list) else step]
    last = int(last) if isinstance(place, list) else last
    if value is KeyError:
        del place[last]
    else:
        place[last] = value
    return raw


HOSTILE = [
    ("id", 0, "id"),
    ("id", True, "id"),
    ("id", "3", "id"),
    ("id", 2**40, "id"),
    ("uuid", "../../etc", "uuid"),
    ("uuid", KeyError, "uuid"),
    ("version", -1, "version"),
    ("version", None, "version"),
    ("tunnel_type", "gre", "tunnel_type"),
    ("tunnel_type", ["wireguard"], "tunnel_type"),
    ("is_active", 1, "is_active"),
    ("status", "perhaps", "status"),
    ("name", "a\nPostUp = reboot", "name"),
    ("name", "$(reboot)", "name"),
    ("name", 5, "name"),
    ("config", {}, "config"),
    ("config", "[]", "config"),
    ("config", "{", "config"),
    ("config", '{"x": NaN}', "config"),
    ("config", '{"x": 1e999}', "config"),
    ("config", '{"mtu": 5}', "config.mtu"),
    ("config", '{"x": ' + "[" * 20000 + "]" * 20000 + "}", "config"),
    ("config", '{"x": "' + "a" * 65536 + '"}', "config"),
    ("config", '{"x": ' + "1" * 5000 + "}", "config"),
    ("ends", [], "ends"),
    ("ends", None, "ends"),
    ("ends", KeyError, "ends"),
    ("ends.0", "source", "ends[0]"),
    ("ends.1.role", "source", "ends[1].role"),
    ("ends.1.role", "middle", "ends[1].role"),
    ("ends.0.node", "localhost", "source.node"),
    ("ends.0.node", "x\u202e", "source.node"),
    ("ends.0.node", "other", "source_node_name"),
    ("ends.0.node_id", 9, "source_node_id"),
    ("ends.0.endpoint", " not a host ", "source.endpoint"),
    ("ends.0.endpoint", KeyError, "source.endpoint"),
    ("ends.0.port", 99999, "source.port"),
    ("ends.1.addresses", [], "target.addresses"),
    ("ends.1.addresses", "10.0.0.1/31", "target.addresses"),
    ("ends.1.addresses", ["10.201.3.1"], "target.addresses[0]"),
    ("ends.1.addresses", ["10.201.3.0/31", "fd6d:7a00::3:1/127"], "target.addresses"),
    ("ends.1.addresses", ["10.201.9.1/31", "fd6d:7a00::3:1/127"], "target.addresses"),
    ("ends.1.addresses", ["10.201.3.1/31"], "target.addresses"),
    ("ends.0.interface", "eth0", "source.interface"),
    ("ends.0.interface", "a;reboot", "source.interface"),
    ("ends.0.routes", ["0.0.0.0/0"], "source.routes[0]"),
    ("ends.0.routes", None, "source.routes"),
    ("ends.0.public", {"public_key": "x"}, "source.public.public_key"),
    ("ends.0.public", "x", "source.public"),
    ("ends.0.status", "fine", "source.status"),
    ("ends.0.error", 5, "source.error"),
    ("ends.0.measured", [1], "source.measured"),
    ("ends.0.measured.rtt_ms", "fast", "source.measured.rtt_ms"),
    ("ends.0.measured.cipher", "AES\nx", "source.measured.cipher"),
    ("ends.0.measured.data_path", "x", "source.measured.data_path"),
    ("ends.0.age", -1, "source.age"),
]


@pytest.mark.parametrize(("path", "value", "field"), HOSTILE, ids=[f"{case[0]}-{n}" for n, case in enumerate(HOSTILE)])
def test_a_hostile_value_stops_its_own_tunnel_and_no_other(path, value, field):
    raw = changed(path, value)
    with pytest.raises(FieldError) as caught:
        model_records.parse(raw)
    assert caught.value.field == field
    records, broken = model_records.parse_all([raw, tunnel(4)])
    assert [record["id"] for record in records] == [4]
    assert [item["error"] for item in broken] == [str(caught.value)]
    assert broken[0]["error"].isprintable()


def test_both_ends_on_one_node():
    raw = tunnel(target=(2, "de-1"))
    with pytest.raises(FieldError, match=r"target\.node: 'de-1' can't be used\. Both ends are the same node"):
        model_records.parse(raw)


def test_a_broken_tunnel_is_told_as_far_as_it_is_sane():
    raw = changed("ends.0.port", 99999)
    raw["source_node_name"] = "evil\n"
    (read,) = model_records.parse_all([raw])[1]
    assert read["id"] == 3
    assert read["uuid"] == raw["uuid"]
    assert read["name"] == "t3"
    assert read["nodes"] == ["fi-1"]


@pytest.mark.parametrize("raw", [None, 5, "x", [], {}, {1: 2}, float("nan")])
def test_no_tunnel_at_all(raw):
    records, (read,) = model_records.parse_all([raw])
    assert records == []
    assert (read["id"], read["uuid"], read["name"], read["nodes"]) == (None, None, None, [])


# What an earlier tunnel has, a later one can't have: (what the later one is, what the error says)
TAKEN = [
    (lambda raw: raw.update(id=3), "id: 3"),
    (lambda raw: raw.update(uuid=tunnel(3)["uuid"]), "uuid: "),
    (lambda raw: raw.update(name="t3"), "name: 't3'"),
    (lambda raw: raw["ends"][0].update(port=20003), "source.port on de-1: 20003"),
    (lambda raw: raw["ends"][0].update(interface="mz3"), "source.interface on de-1: 'mz3'"),
    (
        lambda raw: [raw["ends"][n].update(addresses=tunnel(3)["ends"][n]["addresses"]) for n in (0, 1)],
        "source.addresses on de-1: '10.201.3.0/31'",
    ),
    (lambda raw: raw["ends"][1].update(routes=tunnel(3)["ends"][1]["routes"]), "routes on de-1: '192.168.7.0/24'"),
]


@pytest.mark.parametrize(("steal", "error"), TAKEN)
def test_what_is_taken_on_a_node_stays_with_the_earlier_tunnel(steal, error):
    thief = tunnel(4, target=(3, "us-1"))
    steal(thief)
    records, broken = model_records.parse_all([thief, tunnel(3), tunnel(5, source=(4, "a"), target=(5, "b"))])
    assert [record["id"] for record in records] == [3, 5]
    assert len(broken) == 1
    assert error in broken[0]["error"]
    assert "The tunnel 't" in broken[0]["error"]


def test_ipsec_tunnels_share_their_port_with_each_other_only():
    first, second = of_type("ipsec", 3), of_type("ipsec", 4, (1, "de-1"), (3, "us-1"))
    assert [record["id"] for record in model_records.parse_all([second, first])[0]] == [3, 4]
    for port in (500, 4500):
        third = tunnel(5, (4, "nl-1"), (1, "de-1"))
        third["ends"][1]["port"] = port
        records, broken = model_records.parse_all([first, second, third])
        assert [record["id"] for record in records] == [3, 4]
        assert broken[0]["error"].startswith(f"target.port on de-1: {port} can't be used. The tunnel 't4' has it")
    third["id"] = 2
    records, broken = model_records.parse_all([first, second, third])
    assert [record["id"] for record in records] == [2]
    assert all("source.port on de-1: 4500 can't be used. The tunnel 't5'" in item["error"] for item in broken)


def test_routes_of_an_inactive_tunnel_are_free():
    spare = tunnel(4, target=(3, "us-1"), is_active=False)
    spare["ends"][1]["routes"] = tunnel(3)["ends"][1]["routes"]
    assert len(model_records.parse_all([tunnel(3), spare])[0]) == 2


def test_the_same_port_on_different_nodes_is_fine():
    other = tunnel(4, source=(3, "us-1"), target=(4, "nl-1"))
    for end in other["ends"]:
        end.update(port=20003, interface="mz3")
    assert len(model_records.parse_all([tunnel(3), other])[0]) == 2


def test_ports_that_a_firewall_has_to_open():
    raws = [
        tunnel(3),
        of_type("openvpn", 4, (1, "de-1"), (2, "fi-1"), {"transport": "tcp"}),
        of_type("ipsec", 5, (2, "fi-1"), (3, "us-1")),
        of_type("ipsec", 6, (2, "fi-1"), (4, "nl-1")),  # shares its ports
        tunnel(7, (1, "de-1"), (3, "us-1"), {"dial": "source"}),
        tunnel(8, (1, "de-1"), (3, "us-1"), {"dial": "target"}),
        tunnel(9, is_active=False),
    ]
    records, broken = model_records.parse_all(raws)
    assert broken == []
    assert model_records.ports(records) == {
        "de-1": ["20003/udp", "20004/tcp", "20008/udp"],
        "fi-1": ["4500/udp", "20003/udp", "20004/tcp"],
        "nl-1": ["4500/udp"],
        "us-1": ["4500/udp", "20007/udp"],
    }
    assert model_records.mapped_ports(records) == {}


def test_ports_that_a_nat_has_to_map():
    """The node's own firewall has to let in what the NAT makes of it."""
    tcp = of_type("openvpn", 4, config={"transport": "tcp"})
    tcp["ends"][1]["endpoint_port"] = 443
    ipsec = [of_type("ipsec", number, (5, "nl-1"), (2, "fi-1")) for number in (5, 6)]
    for raw in ipsec:
        raw["ends"][1]["endpoint_port"] = 14500
    off = [mapped(7, 445, dial="target"), mapped(8, 444) | {"is_active": False}]
    records, broken = model_records.parse_all([mapped(3, 443), tcp, *ipsec, *off])
    assert broken == []
    nat = {"endpoint": "198.51.100.20", "endpoint_port": 443, "protocol": "udp", "port": 20003}
    own = {"endpoint": "203.0.113.2", "protocol": "udp"}
    assert model_records.mapped_ports(records) == {
        "fi-1": [
            {**own, "endpoint_port": 443, "protocol": "tcp", "port": 20004},
            {**own, "endpoint_port": 14500, "port": 4500},
        ],
        "n3": [nat],
    }
    assert model_records.ports(records)["n3"] == ["20003/udp"]
    assert model_records.ports(records)["fi-1"] == ["4500/udp", "20004/tcp"]


def mapped(number, port, **config):
    """A tunnel whose target is dialed at this port, as the panel answers it."""
    raw = tunnel(number, target=(number, f"n{number}"), config={"target": {"endpoint_port": port}, **config})
    raw["ends"][1].update(endpoint="198.51.100.20", endpoint_port=port)
    return raw


def test_a_panel_of_an_older_version_keeps_an_endpoint_port_and_does_not_give_it():
    raw = mapped(3, 443)
    del raw["ends"][1]["endpoint_port"]
    assert [end["endpoint_port"] for end in model_records.parse(raw)["ends"].values()] == [20003, 443]
    assert [end["port"] for end in model_records.parse(raw)["ends"].values()] == [20003, 20003]


def test_one_port_of_an_address_leads_to_one_end():
    first, second = mapped(3, 443), mapped(4, 443)
    records, broken = model_records.parse_all([first, second])
    assert [record["id"] for record in records] == [3]
    assert broken[0]["error"].startswith("target.endpoint_port on n4: 443 can't be used. The tunnel 't3' has it")
    apart = [mapped(4, 444), mapped(5, 443, transport="tcp"), mapped(6, 443)]
    apart[2]["ends"][1]["endpoint"] = "198.51.100.21"
    assert model_records.parse_all([first, *apart])[1] == []


def test_ipsec_tunnels_share_a_mapped_port_too():
    pair = [of_type("ipsec", number, (1, "de-1"), (2, "fi-1")) for number in (3, 4)]
    for raw in pair:
        raw["ends"][1]["endpoint_port"] = 14500
    assert model_records.parse_all(pair)[1] == []
    pair[0]["ends"][1]["endpoint_port"] = 500
    with pytest.raises(FieldError, match=r"target\.endpoint_port: 500 can't be used\. To this port IPsec speaks in"):
        model_records.parse(pair[0])


@given(json_values)
def test_parse_of_arbitrary_json_raises_field_errors_only(value):
    with pytest.raises(FieldError):
        model_records.parse(value)


@given(st.data())
def test_parse_of_a_tunnel_with_arbitrary_parts_raises_field_errors_only(data):
    raw = tunnel()
    for _change in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from([raw, *[end for end in raw["ends"] if isinstance(end, dict)]]))
        key = data.draw(st.sampled_from(sorted(set(place) - {"ends"})))
        place[key] = data.draw(json_values | st.from_regex(r"[0-9a-z./:-]{0,20}"))
    records, broken = model_records.parse_all([raw])
    assert len(records) + len(broken) == 1
    assert all(item["error"].isprintable() for item in broken)
    for record in records:
        # What passed can be told to JSON and back, and says nothing that a configuration file would misread.
        for role in ("source", "target"):
            view = model_views.view(record, record["ends"][role]["node"], PANEL)
            assert json.loads(json.dumps(view)) == view
            for text in texts(view):
                assert not set(text) & set("@\n\r'\"\\;$`{}<>|&*?!~\x00%")


def texts(value):
    if isinstance(value, dict):
        for item in value.values():
            yield from texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)
    elif isinstance(value, str):
        yield value
