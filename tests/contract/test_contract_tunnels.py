# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Contract: the tunnels API (docs/development/contract.md). Runs against any panel (see conftest)."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable
from ipaddress import ip_interface
from typing import Any

import pytest

from tests.support.panel_api import Api, key, publish, report

Maker = Callable[..., Any]
Pair = tuple[Any, Any]


def ends(tunnel: Any) -> tuple[Any, Any]:
    assert [end["role"] for end in tunnel["ends"]] == ["source", "target"]
    return tunnel["ends"][0], tunnel["ends"][1]


def test_an_end_is_not_reached_at_a_loopback_address(api: Api, pair: Pair) -> None:
    """A node beside the panel has one; the node at the other end would dial itself."""
    here = api.node(address="127.0.0.1")
    for role, nodes in (("source", (here, pair[1])), ("target", (pair[0], here))):
        body = {"source_node_id": nodes[0]["id"], "target_node_id": nodes[1]["id"], "tunnel_type": "wireguard"}
        answer = api.send("POST", "/api/tunnels", body, 422)
        detail = answer["detail"]
        assert list(detail) == list(answer["codes"]) == [f"config.{role}.endpoint"]
        code = answer["codes"][f"config.{role}.endpoint"]
        why = code["values"]["why"]
        assert (code["code"], why["code"]) == ("endpoint_of_node", "endpoint_unreached")
        why = why["text"].format(**why["values"])
        assert detail[f"config.{role}.endpoint"] == code["text"].format(**code["values"] | {"why": why})
        assert (
            f"the address of node \"{here['name']}\": '127.0.0.1' is reached from no other host"
            in detail[f"config.{role}.endpoint"]
        )
        tunnel = api.tunnel(*nodes, config=json.dumps({role: {"endpoint": "198.51.100.7"}}))
        change = {"config": "{}"}
        assert list(api.refused("PUT", f"/api/tunnels/{tunnel['id']}", change, 422)) == [f"config.{role}.endpoint"]
        api.send("PUT", f"/api/tunnels/{tunnel['id']}", {"name": f"{role} {here['id']}"})


def test_create_with_nothing_chosen(api: Api, pair: Pair) -> None:
    tunnel = api.tunnel(*pair, name="Frankfurt - Helsinki")
    source, target = ends(tunnel)
    assert uuid.UUID(tunnel["uuid"]).version == 4
    assert {
        "version": 1,
        "source_node_id": pair[0]["id"],
        "target_node_id": pair[1]["id"],
        "source_node_name": pair[0]["name"],
        "target_node_name": pair[1]["name"],
        "tunnel_type": "wireguard",
        "name": "Frankfurt - Helsinki",
        "config": "{}",
        "is_active": True,
        "status": "connecting",
    }.items() <= tunnel.items()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", tunnel["created_at"])
    assert tunnel["updated_at"] == tunnel["created_at"]
    for end, node in ((source, pair[0]), (target, pair[1])):
        assert (end["node"], end["node_id"], end["endpoint"]) == (node["name"], node["id"], node["address"])
        assert end["interface"] == f"mz{tunnel['id']}"
        assert 20000 <= end["port"] <= 32767
        assert (end["routes"], end["public"], end["status"], end["error"]) == ([], None, None, None)
        assert (end["measured"], end["age"]) == (None, None)
    for near, far, length in zip(source["addresses"], target["addresses"], (31, 127), strict=True):
        assert ip_interface(near).network == ip_interface(far).network
        assert ip_interface(near).network.prefixlen == length
        assert near != far
    assert api.send("GET", f"/api/tunnels/{tunnel['id']}") == tunnel


def test_create_with_everything_chosen(api: Api, pair: Pair) -> None:
    chosen = {
        "source": {
            "endpoint": "de.example.org",
            "port": 51820,
            "addresses": ["10.66.0.1/30", "fd00:66::1/64"],
            "interface": "wg-de",
            "routes": ["192.168.1.0/24", "fd00:1::/48"],
            "rack": "unknown keys are kept",
        },
        "target": {"addresses": ["10.66.0.2/30", "fd00:66::2/64"], "endpoint": "2001:db8::7"},
        "dial": "source",
        "mtu": 1380,
        "keepalive": 0,
        "transport": "udp",
        "post_quantum": "off",
        "note": ["kept", {"too": None}],
    }
    text = json.dumps(chosen, indent=3) + " "
    tunnel = api.tunnel(*pair, config=text, is_active=False)
    source, target = ends(tunnel)
    assert tunnel["config"] == text, "byte for byte"
    assert (tunnel["status"], tunnel["name"]) == ("inactive", None)
    assert {key: source[key] for key in ("endpoint", "port", "addresses", "interface", "routes")} == {
        key: chosen["source"][key]  # type: ignore[index]
        for key in ("endpoint", "port", "addresses", "interface", "routes")
    }
    assert (target["endpoint"], target["addresses"]) == ("2001:db8::7", ["10.66.0.2/30", "fd00:66::2/64"])


def test_headers(api: Api, pair: Pair) -> None:
    tunnel = api.tunnel(*pair)
    path = f"/api/tunnels/{tunnel['id']}"
    seen = api.bare("GET", path)
    panel = seen.headers["Marzban-Panel-Id"]
    assert uuid.UUID(panel).version == 4
    assert seen.headers["ETag"] == '"1"'
    assert seen.headers["Content-Type"] == "application/json"
    others = [
        api.bare("GET", "/api/tunnels"),
        api.bare("GET", "/api/tunnels?skip=1000000"),
        api.bare("GET", "/api/tunnels", headers={"Authorization": "Bearer bad"}),
        api.bare("GET", "/api/tunnels?limit=0"),
        api.bare("GET", "/api/tunnels/2000000000"),
        api.bare("POST", "/api/tunnels", json={}),
        api.bare("POST", "/api/tunnels", data="{", headers={"Content-Type": "application/json"}),
        api.bare("PUT", path, json={"is_active": False}),
    ]
    assert [answer.status_code for answer in others] == [200, 200, 401, 422, 404, 422, 422, 200]
    assert {answer.headers["Marzban-Panel-Id"] for answer in others} == {panel}
    assert {answer.headers["Marzban-Tunnels-Api"] for answer in [seen, *others]} == {"6"}
    assert others[-1].headers["ETag"] == '"2"'


def test_pages(api: Api, pair: Pair) -> None:
    made = [api.tunnel(*pair)["id"] for _time in range(5)]
    every = [tunnel["id"] for tunnel in api.send("GET", "/api/tunnels?limit=1000")]
    assert every == sorted(every)
    assert set(made) <= set(every)
    skip = every.index(made[1])
    page = api.send("GET", f"/api/tunnels?skip={skip}&limit=2")
    assert page == [api.send("GET", f"/api/tunnels/{number}") for number in every[skip : skip + 2]]
    for query, wrong in (("limit=0", "limit"), ("limit=2001", "limit"), ("skip=-1", "skip"), ("limit=x", "limit")):
        assert set(api.refused("GET", f"/api/tunnels?{query}", None, 422)) == {wrong}


def test_a_list_that_has_not_changed_is_not_sent_again(api: Api, make_node: Maker) -> None:
    node, other = make_node(), make_node()
    tunnel, _another = api.tunnel(node, other), api.tunnel(node, other)
    for coding, sent in (("gzip, br", "gzip"), ("br", None), ("gzip;q=0", None)):
        answer = api.bare("GET", "/api/tunnels?limit=1000", headers={"Accept-Encoding": coding})
        assert answer.headers.get("Content-Encoding") == sent
        assert len(answer.json()) >= 2

    def read(tag: str, limit: int = 1000) -> tuple[int, str, Any]:
        answer = api.bare("GET", f"/api/tunnels?limit={limit}", headers={"If-None-Match": tag})
        assert answer.headers["Vary"] == "Accept-Encoding"
        return answer.status_code, answer.headers["ETag"], answer.json() if answer.content else None

    status, tag, before = read("")
    assert (status, read(tag)) == (200, (304, tag, None))
    assert read(f'"other", {tag.removeprefix("W/")}')[0] == 304  # as proxies write it
    assert read(tag, limit=999)[0] == 200, "another page"
    changes = (
        lambda: api.send("PUT", f"/api/tunnels/{tunnel['id']}", {"is_active": False}),
        lambda: api.own("PUT", f"/api/node/{node['id']}", {"address": "203.0.113.77"}),
        lambda: api.own("DELETE", f"/api/node/{other['id']}"),
    )
    for change in changes:
        change()
        status, after, records = read(tag)
        assert status == 200
        assert after != tag
        assert records != before
        tag, before = after, records


def test_nodes_must_exist_and_differ(api: Api, pair: Pair) -> None:
    gone = {"id": 2_000_000_000}
    assert "target_node_id" in api.tunnel(pair[0], gone, status=404)["detail"]
    answer = api.tunnel(gone, pair[0], status=404)
    told = answer["codes"]["source_node_id"]
    assert told["values"] == {"node": gone["id"]}
    assert answer["detail"] == f"source_node_id: {told['text'].format(node=gone['id'])}"
    assert "target_node_id" in api.tunnel(pair[0], pair[0], status=400)["detail"]
    tunnel = api.tunnel(*pair)
    path = f"/api/tunnels/{tunnel['id']}"
    assert "two different nodes" in api.refused("PUT", path, {"source_node_id": pair[1]["id"]}, 400)
    assert "target_node_id" in api.refused("PUT", path, {"target_node_id": gone["id"]}, 404)
    assert api.send("GET", path) == tunnel


def test_names_are_unique_where_given(api: Api, pair: Pair) -> None:
    name = f"pair {pair[0]['id']}"
    first, second = api.tunnel(*pair, name=name), api.tunnel(*pair)
    api.tunnel(*pair)
    detail = api.tunnel(*pair, name=name, status=409)["detail"]
    assert "name" in detail
    assert f"tunnel {first['id']}" in detail
    assert f"tunnel {first['id']}" in api.refused("PUT", f"/api/tunnels/{second['id']}", {"name": name}, 409)
    for similar in (name.upper(), name.replace("p", "\uff50")):
        answer = api.tunnel(*pair, name=similar, status=409)
        assert f'looks like "{name}", the name of tunnel {first["id"]}' in answer["detail"]
        assert answer["codes"]["name"]["code"] == "name_alike"
    assert api.send("PUT", f"/api/tunnels/{first['id']}", {"name": name.upper()})["name"] == name.upper()
    assert api.send("PUT", f"/api/tunnels/{first['id']}", {"name": None})["name"] is None
    assert api.send("PUT", f"/api/tunnels/{second['id']}", {"name": name})["name"] == name


def test_a_name_is_kept_composed(api: Api, pair: Pair) -> None:
    """As most keyboards make it; some, and files of some systems, have a letter and its accent apart."""
    composed, apart = f"caf\u00e9 {pair[0]['id']}", f"cafe\u0301 {pair[0]['id']}"
    tunnel = api.tunnel(*pair, name=apart)
    assert tunnel["name"] == composed
    assert f"tunnel {tunnel['id']}" in api.tunnel(*pair, name=composed, status=409)["detail"]
    assert api.send("PUT", f"/api/tunnels/{tunnel['id']}", {"name": apart})["version"] == tunnel["version"]


def test_taken_values_name_the_other_tunnel(api: Api, pair: Pair) -> None:
    addresses = {"source": {"addresses": ["10.67.0.1/24"]}, "target": {"addresses": ["10.67.0.2/24"]}}
    first = api.tunnel(*pair, name=f"first {pair[0]['id']}", config=json.dumps(addresses))
    port = first["ends"][0]["port"]
    allocated = ip_interface(api.tunnel(*pair)["ends"][0]["addresses"][0])
    wider = f"{allocated.ip}/12"  # no address of the pool is the first or last of this network
    for config, field in (
        ({"source": {"port": port}}, "config.source.port"),
        (
            {"source": {"addresses": ["10.67.0.129/25"]}, "target": {"addresses": ["10.67.0.130/25"]}},
            "config.source.addr",
        ),
        ({"source": {"addresses": [wider]}, "target": {"addresses": ["10.200.0.1/12"]}}, "config.source.addresses"),
    ):
        detail = api.tunnel(*pair, config=json.dumps(config), status=409)["detail"]
        assert detail.startswith(field)
        assert "taken by tunnel" in detail
    named = api.tunnel(*pair, config=json.dumps({"target": {"port": first["ends"][1]["port"]}}), status=409)["detail"]
    assert f'tunnel {first["id"]} "{first["name"]}"' in named
    api.tunnel(*pair, config=json.dumps({"source": {"interface": "wg9"}}))
    taken = api.tunnel(*pair, config=json.dumps({"source": {"interface": "wg9"}}), status=409)["detail"]
    assert taken.startswith("config.source.interface: wg9")
    reserved = api.tunnel(*pair, config=json.dumps({"source": {"interface": "mz999999"}}), status=422)["detail"]
    assert set(reserved) == {"config.source.interface"}


def test_same_port_and_interface_on_other_nodes(api: Api, pair: Pair, make_node: Maker) -> None:
    config = json.dumps({"source": {"port": 5000, "interface": "wg0"}, "target": {"port": 5000, "interface": "wg0"}})
    api.tunnel(*pair, config=config)
    source, target = ends(api.tunnel(make_node(), make_node(), config=config))
    assert (source["port"], target["interface"]) == (5000, "wg0")


def both(**chosen: Any) -> str:
    """A config that chooses the same for both ends."""
    return json.dumps({"source": chosen, "target": chosen})


def test_ipsec_shares_one_port(api: Api, pair: Pair) -> None:
    made = [api.tunnel(*pair, tunnel_type="ipsec") for _time in range(3)]
    made.append(api.tunnel(*pair[::-1], tunnel_type="ipsec", config=both(port=4500)))
    assert [end["port"] for tunnel in made for end in tunnel["ends"]] == [4500] * 8
    path = f"/api/tunnels/{made[3]['id']}"
    free = api.send("PUT", path, {"config": "{}"})
    assert [end["port"] for end in free["ends"]] == [4500, 4500]
    assert set(api.refused("PUT", path, {"config": both(port=20000)}, 422)) == {
        "config.source.port",
        "config.target.port",
    }
    assert api.send("GET", path) == free


@pytest.mark.parametrize("port", [500, 4500])
def test_ipsec_shares_its_ports_with_no_other_type(api: Api, pair: Pair, make_node: Maker, port: int) -> None:
    ipsec = api.tunnel(*pair, tunnel_type="ipsec", name=f"ipsec {pair[0]['id']}")
    for config in (json.dumps({"target": {"port": port}}), both(port=port)):
        detail = api.tunnel(make_node(), pair[0], config=config, status=409)["detail"]
        assert detail.startswith(f'config.target.port: {port} on node "{pair[0]["name"]}" is taken by tunnel ')
        assert ipsec["name"] in detail
    third, fourth = make_node(), make_node()
    other = api.tunnel(third, fourth, tunnel_type="openvpn", config=both(port=port))
    detail = api.tunnel(pair[0], third, tunnel_type="ipsec", status=409)["detail"]
    assert detail.startswith(f'config.target.port: IPsec needs 500 and 4500 on node "{third["name"]}", and tunnel ')
    assert f"tunnel {other['id']} has" in detail
    for tunnel, node, why in ((ipsec, third, "IPsec needs"), (other, pair[0], f"{port} on node")):
        path = f"/api/tunnels/{tunnel['id']}"
        refused = api.refused("PUT", path, {"target_node_id": node["id"]}, 409)
        assert refused.startswith("config.target.port: " + why)
        assert api.send("GET", path) == tunnel


def test_a_tunnel_of_another_type(api: Api, pair: Pair) -> None:
    made = api.tunnel(*pair, tunnel_type="openvpn", config='{"transport": "tcp"}')
    path = f"/api/tunnels/{made['id']}"
    for node in pair:
        publish(api, made, node, key("openvpn"))
        report(api, made, node, measured={"cipher": "AES-256-GCM"})
    before = api.send("GET", path)
    assert all(end["public"] and end["measured"] and end["status"] == "active" for end in before["ends"])
    refused = api.refused("PUT", path, {"tunnel_type": "wireguard"}, 422)
    assert refused == {"config.transport": "'tcp': only an openvpn tunnel can; make it 'udp', or leave it out"}
    assert api.send("GET", path) == before
    for kind in ("wireguard", "openvpn", "ipsec", "wireguard"):
        last = api.send("GET", path)
        now = api.send("PUT", path, {"tunnel_type": kind, "config": "{}"})
        for end, former in zip(now["ends"], last["ends"], strict=True):
            told = dict.fromkeys(("public", "measured", "status", "error", "age"))
            kept = {name: former[name] for name in ("node", "addresses", "interface", "routes", "endpoint")}
            assert end.items() >= (told | kept).items()
        ports = [end["port"] for end in now["ends"]]
        if kind == "ipsec":
            assert ports == [4500, 4500]
        elif last["tunnel_type"] == "ipsec":
            assert all(20000 <= port <= 32767 for port in ports)
        else:
            assert ports == [end["port"] for end in last["ends"]]
        assert publish(api, made, pair[0], key(kind)) == {"updated": 1, "rejected": []}
        report(api, now, pair[1])
    assert set(api.refused("PUT", path, {"tunnel_type": "ipsec", "config": both(port=20000)}, 422)) == {
        "config.source.port",
        "config.target.port",
    }


def test_update_changes_what_it_says(api: Api, pair: Pair) -> None:
    tunnel = api.tunnel(*pair, name=f"update {pair[0]['id']}")
    path = f"/api/tunnels/{tunnel['id']}"
    for same in ({}, {"is_active": True}, {"config": "{}", "name": tunnel["name"], "source_node_id": pair[0]["id"]}):
        assert api.send("PUT", path, same)["version"] == 1, "nothing changes, nothing grows"
    changed = api.send("PUT", path, {"config": '{"mtu": 1400}'})
    assert (changed["version"], changed["ends"]) == (2, tunnel["ends"])
    changed = api.send("PUT", path, {"config": '{"target": {"port": 777}}'})
    assert [end["port"] for end in changed["ends"]] == [tunnel["ends"][0]["port"], 777]
    assert [end["addresses"] for end in changed["ends"]] == [end["addresses"] for end in tunnel["ends"]]
    back = api.send("PUT", path, {"config": "{}"})
    assert 20000 <= back["ends"][1]["port"] <= 32767
    assert back["version"] == 4
    chosen = {"source": {"addresses": ["10.69.0.1/24"]}, "target": {"addresses": ["10.69.0.2/24"]}}
    own = api.send("PUT", path, {"config": json.dumps(chosen)})
    assert [end["addresses"] for end in own["ends"]] == [["10.69.0.1/24"], ["10.69.0.2/24"]]
    assert [end["port"] for end in own["ends"]] == [end["port"] for end in back["ends"]]
    fresh = api.send("PUT", path, {"config": "{}"})
    assert fresh["ends"][0]["addresses"] != tunnel["ends"][0]["addresses"], "given back, and used again late"
    for field in ("config", "is_active", "source_node_id", "tunnel_type"):
        assert set(api.refused("PUT", path, {field: None}, 422)) == {field}
    assert set(api.refused("PUT", path, {"config": '{"mtu": 1}'}, 422)) == {"config.mtu"}
    assert set(api.refused("PUT", path, {"config": '{"transport": "tcp"}'}, 422)) == {"config.transport"}
    assert set(api.refused("PUT", path, {"name": "a\nb"}, 422)) == {"name"}
    assert set(api.refused("PUT", path, {"uuid": "x"}, 422)) == {"uuid"}
    assert api.send("GET", path) == fresh, "a refused update leaves no trace"


def test_activate_and_deactivate(api: Api, pair: Pair) -> None:
    tunnel = api.tunnel(*pair)
    path = f"/api/tunnels/{tunnel['id']}"
    for call, active, version in (
        ("activate", True, 1),
        ("deactivate", False, 2),
        ("deactivate", False, 2),
        ("activate", True, 3),
    ):
        assert set(api.send("POST", f"{path}/{call}")) == {"message"}
        seen = api.send("GET", path)
        assert (seen["is_active"], seen["version"]) == (active, version)
    assert seen["ends"] == tunnel["ends"]
    assert api.refused("POST", "/api/tunnels/2000000000/activate", None, 404) == "Tunnel not found"


def test_if_match(api: Api, pair: Pair) -> None:
    tunnel = api.tunnel(*pair)
    path = f"/api/tunnels/{tunnel['id']}"
    assert api.send("PUT", path, {"is_active": False}, If_Match='"1"')["version"] == 2
    for method, place, body in (
        ("PUT", path, {"is_active": True}),
        ("POST", path + "/activate", None),
        ("POST", path + "/deactivate", None),
        ("DELETE", path, None),
    ):
        for old in ('"1"', "2", 'W/"2"', '"x"', ""):
            detail = api.send(method, place, body, 412, If_Match=old)["detail"]
            assert "version 2" in detail
    assert api.send("GET", path)["version"] == 2
    api.send("POST", path + "/activate", None, If_Match='"7", "2"')
    api.send("DELETE", path, None, If_Match="*")
    assert api.refused("GET", path, None, 404) == "Tunnel not found"


def test_delete(api: Api, pair: Pair) -> None:
    tunnel, other = api.tunnel(*pair), api.tunnel(*pair)
    path = f"/api/tunnels/{other['id']}"
    assert set(api.send("DELETE", path)) == {"message"}
    for method in ("GET", "PUT", "DELETE"):
        assert api.refused(method, path, {} if method == "PUT" else None, 404) == "Tunnel not found"
    after = api.tunnel(*pair)
    assert after["id"] > other["id"], "an id is never used again"
    assert not {text for end in after["ends"] for text in end["addresses"]} & {
        text for end in other["ends"] for text in end["addresses"]
    }, "addresses are used again as late as possible"
    assert after["ends"][0]["port"] != other["ends"][0]["port"]
    assert api.send("GET", f"/api/tunnels/{tunnel['id']}") == tunnel


@pytest.mark.parametrize("number", ["0", "-1", str(2**31), "9" * 30])
def test_ids_that_nothing_has(api: Api, number: str) -> None:
    for method, path in (("GET", ""), ("PUT", ""), ("DELETE", ""), ("POST", "/activate"), ("GET", "/status")):
        answer = api.bare(method, f"/api/tunnels/{number}{path}", json={} if method == "PUT" else None)
        assert answer.status_code == 404, answer.text


def test_ids_that_are_none(api: Api) -> None:
    assert set(api.refused("GET", "/api/tunnels/one", None, 422)) == {"tunnel_id"}


def test_deleting_a_node_takes_its_tunnels(api: Api, make_node: Maker) -> None:
    a, b, c = make_node(), make_node(), make_node()
    ab, bc, ca = api.tunnel(a, b), api.tunnel(b, c), api.tunnel(c, a)
    publish(api, bc, b, key())
    kept = api.send("GET", f"/api/tunnels/{bc['id']}")
    assert api.send("DELETE", f"/api/node/{a['id']}") == {}
    for gone in (ab, ca):
        assert api.refused("GET", f"/api/tunnels/{gone['id']}", None, 404) == "Tunnel not found"
    assert api.send("GET", f"/api/tunnels/{bc['id']}") == kept
    assert {node["id"] for node in api.send("GET", "/api/nodes")} >= {b["id"], c["id"]}


def test_renaming_a_node_shows_in_its_tunnels(api: Api, pair: Pair) -> None:
    tunnel = api.tunnel(*pair)
    api.send("PUT", f"/api/node/{pair[0]['id']}", {"name": pair[0]["name"] + "-new", "address": "203.0.113.99"})
    seen = api.send("GET", f"/api/tunnels/{tunnel['id']}")
    assert seen["source_node_name"] == pair[0]["name"] + "-new"
    assert (seen["ends"][0]["node"], seen["ends"][0]["endpoint"]) == (pair[0]["name"] + "-new", "203.0.113.99")
    assert seen["version"] == 1
