# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Contract: an end that is dialed at another port than it listens at. Runs against any panel (see conftest)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.panel_api import Api

Maker = Callable[..., Any]
Pair = tuple[Any, Any]


def behind(port: int | None, endpoint: str | None = "nat.example.org", role: str = "target", **more: Any) -> str:
    return json.dumps({role: {"endpoint": endpoint, "endpoint_port": port}, **more})


def ports(tunnel: Any) -> list[tuple[int, int]]:
    return [(end["port"], end["endpoint_port"]) for end in tunnel["ends"]]


def test_an_end_behind_a_nat(api: Api, pair: Pair) -> None:
    made = api.tunnel(*pair, config=json.dumps({"target": {"endpoint_port": 443, "port": 20012}}))
    here = made["ends"][0]["port"]
    assert ports(made) == [(here, here), (20012, 443)]
    path = f"/api/tunnels/{made['id']}"
    assert api.send("GET", path) == made
    changed = api.send("PUT", path, {"config": json.dumps({"target": {"endpoint_port": 444, "port": 20012}})})
    assert ports(changed) == [(here, here), (20012, 444)]
    assert changed["version"] == made["version"] + 1
    free = api.send("PUT", path, {"config": '{"target": {"endpoint_port": null}}'})
    assert all(port == dialed for port, dialed in ports(free))


def test_ipsec_behind_a_nat(api: Api, pair: Pair) -> None:
    """All of a node share the port, and so the one that leads to it."""
    made = [api.tunnel(*pair, tunnel_type="ipsec", config=behind(14500)) for _time in range(2)]
    assert [ports(tunnel) for tunnel in made] == [[(4500, 4500), (4500, 14500)]] * 2
    refused = api.tunnel(*pair, tunnel_type="ipsec", config=behind(500), status=422)["detail"]
    assert list(refused) == ["config.target.endpoint_port"]


@pytest.mark.parametrize("panel_has", ["an endpoint", "the node's address"])
def test_one_port_of_an_address_leads_to_one_end(api: Api, pair: Pair, make_node: Maker, panel_has: str) -> None:
    address = pair[1]["address"]
    endpoint = address if panel_has == "an endpoint" else None
    first = api.tunnel(*pair, name=f"mapped {pair[0]['id']}", config=behind(443, endpoint))
    third = make_node()
    words = f'UDP 443 at {address} leads to tunnel {first["id"]} "{first["name"]}" already; map another port'
    taken = [
        (pair[0], pair[1], behind(443, None), "target"),
        (third, pair[0], behind(443, address), "target"),
        (third, pair[0], behind(443, address, role="source"), "source"),
    ]
    for source, target, config, role in taken:
        detail = api.tunnel(source, target, config=config, status=409)["detail"]
        assert detail.startswith(f"config.{role}.endpoint_port: {words}")
    assert "endpoint_port" in api.tunnel(*pair, tunnel_type="ipsec", config=behind(443, address), status=409)["detail"]
    free = api.tunnel(third, pair[0], config=behind(444, address))
    for config in (behind(443, "nat2.example.org"), behind(443, address, transport="udp", role="target")):
        status = 200 if "nat2" in config else 409
        answer = api.send("PUT", f"/api/tunnels/{free['id']}", {"config": config}, status)
        assert status == 200 or words in answer["detail"]
    api.tunnel(third, pair[0], tunnel_type="openvpn", config=behind(443, address, transport="tcp"))
    same = api.send("PUT", f"/api/tunnels/{first['id']}", {"config": behind(443, endpoint, mtu=1400)})
    assert same["ends"][1]["endpoint_port"] == 443, "it is its own"


def test_a_port_that_another_end_of_the_node_is_dialed_at(api: Api, pair: Pair, make_node: Maker) -> None:
    first = api.tunnel(*pair)
    port = first["ends"][1]["port"]
    for endpoint in (None, pair[1]["address"]):
        detail = api.tunnel(*pair, config=behind(port, endpoint), status=409)["detail"]
        assert detail.startswith(f"config.target.endpoint_port: UDP {port} at {pair[1]['address']} leads to tunnel ")
    relayed = api.tunnel(*pair, config=behind(port, "relay.example.org"))
    assert relayed["ends"][1]["port"] != port
    third = make_node()
    there = api.tunnel(third, pair[0], config=behind(port, None, role="source"))
    assert there["ends"][0]["endpoint_port"] == port, "another address"


def test_the_spelling_of_an_endpoint_does_not_count(api: Api, pair: Pair, make_node: Maker) -> None:
    for one, other in (("NAT.example.com", "nat.example.COM"), ("2001:db8::7", "2001:0DB8:0::7")):
        api.tunnel(*pair, config=behind(4443, one))
        detail = api.tunnel(make_node(), pair[0], config=behind(4443, other), status=409)["detail"]
        assert f"UDP 4443 at {other} leads to tunnel " in detail
