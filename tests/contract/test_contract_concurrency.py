# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Many clients at once: nothing is shared, nothing is lost, nothing is a 500."""

from __future__ import annotations

import string
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.support.panel_api import Api

Maker = Callable[..., Any]
THREADS = 20
LETTERS = string.ascii_letters


def in_parallel(api: Api, work: Callable[[Api, int], Any]) -> list[Any]:
    """Run ``work(api, number)`` in threads that start at the same moment, each with a connection of its own."""
    barrier = threading.Barrier(THREADS)
    clients = [api.another() for _time in range(THREADS)]

    def run(number: int) -> Any:
        barrier.wait(30)
        return work(clients[number], number)

    try:
        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(run, range(THREADS)))
    finally:
        for item in clients:
            item.session.close()


def test_creating_changing_and_deleting_at_once(api: Api, make_node: Maker) -> None:
    nodes = [make_node() for _time in range(3)]
    stamp = nodes[0]["id"]

    def work(api: Api, number: int) -> list[int]:
        kept = []
        for turn in range(6):
            made = api.tunnel(nodes[(number + turn) % 3], nodes[(number + turn + 1) % 3])
            api.send("PUT", f"/api/tunnels/{made['id']}", {"name": f"name {stamp} {number} {turn}"})
            if turn % 2:
                api.send("DELETE", f"/api/tunnels/{made['id']}")
            else:
                kept.append(made["id"])
        return kept

    kept = [number for numbers in in_parallel(api, work) for number in numbers]
    listed = api.send("GET", "/api/tunnels?limit=1000")
    mine = [tunnel for tunnel in listed if tunnel["source_node_id"] in [node["id"] for node in nodes]]
    assert [tunnel["id"] for tunnel in mine] == sorted(kept)
    assert {tunnel["version"] for tunnel in mine} == {2}
    ends = [end for tunnel in listed for end in tunnel["ends"]]
    for kind in ([text for end in ends for text in end["addresses"]], [(end["node_id"], end["port"]) for end in ends]):
        assert max(Counter(kind).values()) == 1


def test_one_name_has_one_winner(api: Api, pair: tuple[Any, Any]) -> None:
    name = f"one {pair[0]['id']}"
    body = {"source_node_id": pair[0]["id"], "target_node_id": pair[1]["id"], "tunnel_type": "wireguard", "name": name}

    def create(api: Api, number: int) -> int:
        return api.bare("POST", "/api/tunnels", json=body).status_code

    assert Counter(in_parallel(api, create)) == {200: 1, 409: THREADS - 1}
    (made,) = [tunnel["id"] for tunnel in api.send("GET", "/api/tunnels?limit=1000") if tunnel["name"] == name]

    def change(api: Api, number: int) -> int:
        options = {"json": {"config": f'{{"mtu": {1400 + number}}}'}, "headers": {"If-Match": '"1"'}}
        return api.bare("PUT", f"/api/tunnels/{made}", **options).status_code

    assert Counter(in_parallel(api, change)) == {200: 1, 412: THREADS - 1}
    assert api.send("GET", f"/api/tunnels/{made}")["version"] == 2

    def node(api: Api, number: int) -> int:
        return api.own("POST", "/api/node", {"name": f"same {made}", "address": "x"}).status_code

    assert Counter(in_parallel(api, node)) == {200: 1, 409: THREADS - 1}


def test_nodes_go_while_tunnels_come(api: Api, make_node: Maker) -> None:
    base = make_node()

    def work(api: Api, number: int) -> list[int]:
        statuses = []
        for _time in range(3):
            node = api.node()
            body = {"source_node_id": base["id"], "target_node_id": node["id"], "tunnel_type": "wireguard"}
            if number % 2:
                statuses.append(api.bare("POST", "/api/tunnels", json=body).status_code)
            statuses.append(api.own("DELETE", f"/api/node/{node['id']}").status_code)
            statuses.append(api.bare("POST", "/api/tunnels", json=body).status_code)
        return statuses

    # SQLite gives an id to the next node at once, so that a late create may meet another one's node: fine as well
    assert {status for statuses in in_parallel(api, work) for status in statuses} <= {200, 404}
    for tunnel in api.send("GET", "/api/tunnels?limit=1000"):
        api.send("GET", f"/api/node/{tunnel['target_node_id']}")


def test_keys_published_at_once_are_all_there(api: Api, make_node: Maker) -> None:
    nodes = [make_node() for _time in range(THREADS + 1)]
    made = [api.tunnel(nodes[0], node) for node in nodes[1:]]

    def work(api: Api, number: int) -> Any:
        public = {"public_key": LETTERS[number] * 42 + "A="}
        node = nodes[number + 1]["name"]
        return api.send(
            "POST", "/api/tunnels/keys", {"keys": [{"uuid": made[number]["uuid"], "node": node, "public": public}]}
        )

    assert in_parallel(api, work) == [{"updated": 1, "rejected": []}] * THREADS
    for number, tunnel in enumerate(made):
        seen = api.send("GET", f"/api/tunnels/{tunnel['id']}")
        assert [end["public"] for end in seen["ends"]] == [None, {"public_key": LETTERS[number] * 42 + "A="}]
