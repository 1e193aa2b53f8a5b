# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Contract: many new tunnels in one call, each as by a call of its own. Runs against any panel (see conftest)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.contract.test_contract_concurrency import THREADS, in_parallel
from tests.support.panel_api import Api, key

Maker = Callable[..., Any]
Pair = tuple[Any, Any]
MOST = 100


def bulk(api: Api, *tunnels: Any) -> Any:
    return api.send("POST", "/api/tunnels/bulk", {"tunnels": list(tunnels)})


def body(pair: Pair, **fields: Any) -> dict[str, Any]:
    """A new tunnel; a ``config`` is a dict here."""
    if "config" in fields:
        fields["config"] = json.dumps(fields["config"])
    return {"source_node_id": pair[0]["id"], "target_node_id": pair[1]["id"], "tunnel_type": "wireguard", **fields}


def listed(api: Api) -> dict[int, Any]:
    return {tunnel["id"]: tunnel for tunnel in api.send("GET", "/api/tunnels?limit=1000")}


def test_as_many_as_it_takes(api: Api, pair: Pair) -> None:
    before = listed(api)
    sent = [
        body(pair, name=f"bulk {pair[0]['id']} {number}", tunnel_type=("wireguard", "openvpn", "ipsec")[number % 3])
        for number in range(MOST)
    ]
    answer = bulk(api, *sent)
    assert (answer["created"], answer["rejected"]) == (MOST, [])
    for tunnel, wanted in zip(answer["tunnels"], sent, strict=True):
        assert tunnel.items() >= wanted.items()
        assert (tunnel["version"], tunnel["config"], tunnel["is_active"]) == (1, "{}", True)
    after = listed(api)
    assert [after[number] for number in sorted(after.keys() - before.keys())] == answer["tunnels"]
    assert api.send("GET", f"/api/tunnels/{answer['tunnels'][7]['id']}") == answer["tunnels"][7]
    ends = [end for tunnel in after.values() for end in tunnel["ends"]]
    assert max(Counter(text for end in ends for text in end["addresses"]).values()) == 1
    assert max(Counter((end["node_id"], end["interface"]) for end in ends).values()) == 1
    ports = Counter((end["node_id"], end["port"]) for end in ends)
    assert {port for (_node, port), count in ports.items() if count > 1} == {4500}, "IPsec's alone is shared"


def test_none_at_all(api: Api) -> None:
    assert bulk(api) == {"created": 0, "tunnels": [], "rejected": []}


def test_each_refusal_is_that_of_a_call_of_its_own(api: Api, pair: Pair, make_node: Maker) -> None:
    addresses = {"source": {"addresses": ["10.71.0.1/24"]}, "target": {"addresses": ["10.71.0.2/24"]}}
    chosen = {"source": {"port": 7001, "interface": "wg71", "routes": ["10.72.0.0/24"]}}
    taken = [
        api.tunnel(*pair, name=f"first {pair[0]['id']}", config=json.dumps(addresses)),
        api.tunnel(*pair, config=json.dumps(chosen)),
        api.tunnel(*pair, tunnel_type="ipsec"),
    ]
    other = make_node()
    gone = {"id": 2_000_000_000}
    bad = [
        *({}, [], "text", 5),
        body(pair, name="a;b"),
        body(pair, tunnel_type="gre"),
        body(pair, private_key=key()["public_key"]),
        body(pair) | {"config": {}},
        body(pair) | {"source_node_id": str(pair[0]["id"])},
        body(pair, config={"mtu": 1, "source": {"port": 70000}}),
        body(pair, config={"source": {"private_key": "x"}}),
        body(pair, config={"source": {"interface": "mz999999"}}),
        body((pair[0], pair[0])),
        body((pair[0], gone)),
        body((gone, pair[0])),
        body(pair, name=taken[0]["name"]),
        body(pair, config={"source": {"port": 7001}}),
        body(pair, config={"source": {"port": 4500}}),
        body(pair, config={"source": {"interface": "wg71"}}),
        body(pair, config=addresses),
        body((pair[0], other), config={"source": {"addresses": ["10.71.0.129/25"]},
                                       "target": {"addresses": ["10.71.0.130/25"]}}),
        body((other, pair[1]), config={"source": {"routes": ["10.72.0.0/24"]}}),
    ]  # fmt: skip
    before = listed(api)
    alone = [api.bare("POST", "/api/tunnels", json=item) for item in bad]
    assert Counter(answer.status_code for answer in alone) == {422: 12, 400: 1, 404: 2, 409: 7}
    good = body(pair, name=f"good {pair[0]['id']}", config={"source": {"routes": ["10.73.0.0/24"]}})
    answer = bulk(api, *bad, good, *bad)
    places = [*range(len(bad)), *range(len(bad) + 1, 2 * len(bad) + 1)]
    assert answer["rejected"] == [
        {"index": place, "status": refusal.status_code, "detail": refusal.json()["detail"]}
        for place, refusal in zip(places, alone * 2, strict=True)
    ]
    made = answer["tunnels"].pop(len(bad))
    assert (answer["created"], answer["tunnels"]) == (1, [None] * 2 * len(bad))
    assert made.items() >= good.items()
    assert listed(api) == before | {made["id"]: made}, "what was refused leaves no trace"


def test_what_an_earlier_one_of_the_call_has_is_taken(api: Api, pair: Pair, make_node: Maker) -> None:
    third = make_node()
    chosen: dict[str, Any] = {
        "source": {"port": 7002, "interface": "wg74", "addresses": ["10.74.0.1/24"], "routes": ["10.75.0.0/24"]},
        "target": {"addresses": ["10.74.0.2/24"]},
    }
    name = f"earlier {pair[0]['id']}"
    other = (pair[0], third)
    answer = bulk(
        api,
        body(pair, name=name, config=chosen),
        body(other, name=name.upper()),
        body(other, config={"source": {"port": 7002}}),
        body(other, config={"source": {"interface": "wg74"}}),
        body(other, config={end: {"addresses": chosen[end]["addresses"]} for end in chosen}),
        body((third, pair[1]), config={"source": {"routes": ["10.75.0.0/24"]}}),
        body((third, pair[1]), config={"source": {"routes": ["10.75.0.0/24"]}}, is_active=False),
        body(other, name=f"{name} again"),
        body((third, pair[0]), tunnel_type="ipsec"),
        body(other, config={"source": {"port": 4500}}),
    )
    assert [bool(tunnel) for tunnel in answer["tunnels"]] == [True, *[False] * 5, True, True, True, False]
    first, ipsec = answer["tunnels"][0], answer["tunnels"][8]
    fields = ("name", "config.source.port", "config.source.interface", "config.source.addresses")
    for refusal, field in zip(answer["rejected"], (*fields, "config.source.routes", "config.source.port"), strict=True):
        assert (refusal["status"], refusal["detail"].split(":")[0]) == (409, field)
        assert f"tunnel {(ipsec if refusal['index'] == 9 else first)['id']}" in refusal["detail"]


def test_a_call_that_is_not_valid_itself(api: Api, pair: Pair) -> None:
    before = listed(api)
    secret = key()["public_key"]
    for sent, field in (
        ({}, "tunnels"),
        ([], "body"),
        ({"tunnels": {}}, "tunnels"),
        ({"tunnels": None}, "tunnels"),
        ({"tunnels": [body(pair)], "private_key": secret}, "private_key"),
        ({"tunnels": [body(pair, name=secret)] * (MOST + 1)}, "tunnels"),
    ):
        detail = api.refused("POST", "/api/tunnels/bulk", sent, 422)
        assert set(detail) == {field}
        assert secret not in detail[field]
    assert str(MOST) in detail["tunnels"], "it says how many it takes"
    assert listed(api) == before


def test_many_calls_at_once(api: Api, make_node: Maker) -> None:
    nodes = [make_node() for _time in range(3)]
    stamp = nodes[0]["id"]

    def work(api: Api, number: int) -> int:
        """Twelve tunnels, six of which everybody wants; and with some a node, which is the panel's own write."""
        pairs = [(nodes[(number + place) % 3], nodes[(number + place + 1) % 3]) for place in range(12)]
        names = [f"at once {stamp} {'' if place % 2 else number} {place}".replace("  ", " ") for place in range(12)]
        answer = bulk(api, *(body(pair, name=name) for pair, name in zip(pairs, names, strict=True)))
        assert {refusal["status"] for refusal in answer["rejected"]} <= {409}
        assert {refusal["index"] % 2 for refusal in answer["rejected"]} <= {1}
        if number % 5 == 0:  # with 15 new nodes at once Marzban runs out of connections to its database
            new = {"name": f"beside {stamp} {number}", "address": "203.0.113.3"}
            assert api.own("POST", "/api/node", new).status_code == 200
        created: int = answer["created"]
        return created

    made = sum(in_parallel(api, work))
    for node in api.send("GET", "/api/nodes"):
        if node["name"].startswith(f"beside {stamp} "):
            assert api.own("DELETE", f"/api/node/{node['id']}").status_code == 200
    assert made == 6 * THREADS + 6, "each name has one winner"
    mine = [tunnel for tunnel in listed(api).values() if tunnel["source_node_id"] in [node["id"] for node in nodes]]
    assert len({tunnel["name"] for tunnel in mine}) == len(mine) == 6 * THREADS + 6
    ends = [end for tunnel in mine for end in tunnel["ends"]]
    for kind in ([text for end in ends for text in end["addresses"]], [(end["node_id"], end["port"]) for end in ends]):
        assert max(Counter(kind).values()) == 1
