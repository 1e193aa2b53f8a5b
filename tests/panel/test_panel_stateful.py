# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Whatever is created, updated and deleted, of whatever type: no two ends share an address, or an interface or a port
(but IPsec's) on a node; a run takes each record, and its two nodes see the same tunnel. A public half fits its end."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_interface
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ansible_collections.marzban.tunnels.plugins.module_utils._model import records as model_records
from ansible_collections.marzban.tunnels.plugins.module_utils._model import views as model_views
from tests.support.panel import Panel
from tests.support.panel_api import Api, client, key, publish

NODES = 3
# Few values, so that they meet, and mostly none, so that few calls are refused; the pools are small enough to run out
# and come around.
PORTS = st.sampled_from([None] * 12 + [20000, 20001, 20004, 7, 65535, 500, 4500])
PAIRS = st.sampled_from(
    [None] * 6
    + [
        (["10.99.0.3/31"], ["10.99.0.2/31"]),
        (["10.99.0.1/29"], ["10.99.0.2/29"]),
        (["10.98.0.1/24", "fd00::1/64"], ["10.98.0.2/24", "fd00::2/64"]),
        (["10.98.0.6/31"], ["10.98.0.7/31"]),
        (["fd6d:7a00::5/126"], ["fd6d:7a00::6/126"]),
        (["10.97.0.1/24"], ["10.97.1.1/24"]),  # no pair: refused, as a run would
    ]
)
MAPPED = st.sampled_from([None] * 6 + [20000, 443, 14500])
INTERFACES = st.sampled_from([None] * 6 + ["wg0", "wg1"])
# networks behind one end, or behind neither
ROUTES = st.dictionaries(st.sampled_from(["10.5.0.0/16", "fd05::/48"]), st.sampled_from(["source", "target"]))
ENDS = st.sampled_from([(a, b) for a in range(NODES) for b in range(NODES) if a != b])
NAMES = st.sampled_from([None] * 8 + ["a", "A", "b"])
KINDS = ("wireguard", "openvpn", "ipsec")
TYPES = st.sampled_from(KINDS)
HALVES = {kind: key(kind) for kind in KINDS}
TRANSPORTS = st.sampled_from([None] * 4 + ["udp", "tcp"])
OF_ONE_VIEW = {"interface", "dial", "dialed", "routes", "local", "peer"}


@st.composite
def configs(draw: st.DrawFn) -> str:
    chosen: dict[str, Any] = {"source": {}, "target": {}}
    pair = draw(PAIRS)
    for position, end in enumerate(list(chosen.values())):
        chosen_here = {"port": draw(PORTS), "endpoint_port": draw(MAPPED), "interface": draw(INTERFACES)}
        end.update({key: value for key, value in chosen_here.items() if value})
        if pair:
            end["addresses"] = pair[position]
    for network, role in draw(ROUTES).items():
        chosen[role].setdefault("routes", []).append(network)
    transport = draw(TRANSPORTS)
    if transport:
        chosen["transport"] = transport
    return json.dumps(chosen)


NEW = st.fixed_dictionaries(
    {"config": configs(), "tunnel_type": TYPES, "name": NAMES, "is_active": st.sampled_from([True, True, False])}
)


@pytest.fixture(scope="module")
def small_panel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Panel]:
    env = {
        "TUNNEL_IPV4_POOL": "10.99.0.0/27",
        "TUNNEL_IPV6_POOL": "fd6d:7a00::/123",
        "TUNNEL_PORT_RANGE": "20000-20009",
    }
    with Panel.start(tmp_path_factory.mktemp("small"), env=env) as panel:
        for number in range(NODES):
            panel.add_node(f"node-{number}", f"203.0.113.{number + 1}")
        yield panel


@pytest.fixture(scope="module")
def small(small_panel: Panel) -> Iterator[Api]:
    api = client(small_panel)
    yield api
    api.session.close()


class Life(RuleBasedStateMachine):
    """Keeps what the panel said last about each tunnel, and compares it with what the panel says later."""

    api: ClassVar[Api]
    panel: ClassVar[Panel]
    nodes: ClassVar[list[int]]
    names: ClassVar[list[str]]

    @initialize(cursor=st.integers(0, 20))
    def clean(self, cursor: int) -> None:
        for tunnel in self.api.send("GET", "/api/tunnels?limit=1000"):
            self.api.send("DELETE", f"/api/tunnels/{tunnel['id']}")
        # What is left of earlier lives would decide what is taken in this one, which could then not be told again.
        with closing(sqlite3.connect(self.panel.database, timeout=10)) as database:
            cursors = "next_id = 1, next_ipv4 = ?, next_ipv6 = ?, next_port = ?"
            database.execute(f"UPDATE tunnel_panel SET {cursors}", [cursor] * 3)
            database.commit()
        self.known: dict[int, Any] = {}
        self.highest = 0

    def attempt(self, method: str, path: str, body: Any = None) -> Any:
        answer = self.api.bare(method, path, json=body)
        assert answer.status_code in (200, 400, 409, 422, 507), answer.text
        return answer.json() if answer.status_code == 200 else None

    def body(self, ends: tuple[int, int], more: dict[str, Any]) -> dict[str, Any]:
        return {"source_node_id": self.nodes[ends[0]], "target_node_id": self.nodes[ends[1]], **more}

    def created(self, body: dict[str, Any], made: Any) -> None:
        assert made["id"] > self.highest
        assert body.items() <= made.items()
        self.highest = made["id"]
        self.known[made["id"]] = made

    @rule(ends=ENDS, more=NEW)
    def create(self, ends: tuple[int, int], more: dict[str, Any]) -> None:
        body = self.body(ends, more)
        made = self.attempt("POST", "/api/tunnels", body)
        if made:
            self.created(body, made)

    @rule(some=st.lists(st.tuples(ENDS, NEW), min_size=2, max_size=5))
    def create_many(self, some: list[tuple[tuple[int, int], dict[str, Any]]]) -> None:
        bodies = [self.body(*new) for new in some]
        answer = self.api.send("POST", "/api/tunnels/bulk", {"tunnels": bodies})
        assert {refusal["status"] for refusal in answer["rejected"]} <= {409, 422, 507}, answer
        assert [number for number, made in enumerate(answer["tunnels"]) if not made] == [
            refusal["index"] for refusal in answer["rejected"]
        ]
        for body, made in zip(bodies, answer["tunnels"], strict=True):
            if made:
                self.created(body, made)

    @precondition(lambda self: self.known)
    @rule(
        data=st.data(),
        node=st.one_of(st.none(), st.tuples(st.sampled_from(["source", "target"]), st.integers(0, NODES - 1))),
        more=st.fixed_dictionaries(
            {},
            optional={
                "config": st.one_of(st.just("{}"), configs()),
                "tunnel_type": TYPES,
                "name": NAMES,
                "is_active": st.booleans(),
            },
        ),
    )
    def update(self, data: st.DataObject, node: tuple[str, int] | None, more: dict[str, Any]) -> None:
        number = data.draw(st.sampled_from(sorted(self.known)))
        body = dict(more)
        if node:
            body[f"{node[0]}_node_id"] = self.nodes[node[1]]
        changed = self.attempt("PUT", f"/api/tunnels/{number}", body)
        if changed:
            before = self.known[number]
            same = all(before[key] == value for key, value in body.items())
            assert changed["version"] == before["version"] + (0 if same else 1)
            assert body.items() <= changed.items()
            for end, former in zip(changed["ends"], before["ends"], strict=True):
                stays = changed["tunnel_type"] == before["tunnel_type"] and end["node_id"] == former["node_id"]
                assert end["public"] == (former["public"] if stays else None)
            self.known[number] = changed

    @precondition(lambda self: self.known)
    @rule(data=st.data(), position=st.sampled_from([0, 1]), kind=TYPES)
    def publish(self, data: st.DataObject, position: int, kind: str) -> None:
        tunnel = self.known[data.draw(st.sampled_from(sorted(self.known)))]
        end, other = tunnel["ends"][position], tunnel["ends"][1 - position]
        fits = kind == tunnel["tunnel_type"] and other["public"] != HALVES[kind]
        answer = publish(self.api, tunnel, {"name": end["node"]}, HALVES[kind])
        assert len(answer["rejected"]) == (0 if fits else 1)
        assert answer["updated"] == (1 if fits and end["public"] is None else 0)
        if fits:
            end["public"] = HALVES[kind]

    @precondition(lambda self: self.known)
    @rule(data=st.data(), active=st.booleans())
    def switch(self, data: st.DataObject, active: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.known)))
        if self.attempt("POST", f"/api/tunnels/{number}/{'activate' if active else 'deactivate'}"):
            self.known[number] = self.api.send("GET", f"/api/tunnels/{number}")
            assert self.known[number]["is_active"] is active

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.known)))
        self.api.send("DELETE", f"/api/tunnels/{number}")
        del self.known[number]

    @invariant()
    def the_list_is_right(self) -> None:
        listed = self.api.send("GET", "/api/tunnels?limit=1000")
        assert listed == [self.known[number] for number in sorted(self.known)]
        self.nothing_is_shared(listed)
        self.the_views_agree(listed)

    def nothing_is_shared(self, listed: Any) -> None:
        ends = [end for tunnel in listed for end in tunnel["ends"]]
        ipsec = [end for tunnel in listed if tunnel["tunnel_type"] == "ipsec" for end in tunnel["ends"]]
        assert {end["port"] for end in ipsec} <= {4500}
        shared = [(node, port) for node in {end["node_id"] for end in ipsec} for port in (500, 4500)]
        for kind in (
            [ip_interface(text).ip for end in ends for text in end["addresses"]],
            [(end["node_id"], end["port"]) for end in ends if end not in ipsec] + shared,
            [(end["node_id"], end["interface"]) for end in ends],
        ):
            assert [value for value, count in Counter(kind).items() if count > 1] == []
        networks = [
            (tunnel["id"], ip_interface(text).network)
            for tunnel in listed
            for end in tunnel["ends"]
            for text in end["addresses"]
        ]
        for number, network in networks:
            for other, against in networks:
                assert number == other or network.version != against.version or not network.overlaps(against)

    def the_views_agree(self, listed: Any) -> None:
        records, broken = model_records.parse_all(listed)
        assert broken == [], "a run takes all that the panel takes"
        views = model_views.views(records, {node: node for node in self.names}, "panel")
        pairs: dict[str, list[Any]] = {record["uuid"]: [] for record in records}
        for node, seen in views.items():
            for view in seen:
                assert view["local"]["node"] == node
                pairs[view["uuid"]].append(view)
            for kind in (
                [view["local"]["port"] for view in seen if view["type"] != "ipsec"],
                [view["interface"] for view in seen],
                [ip_interface(text).network for view in seen for text in view["local"]["addresses"]],
                [network for view in seen if view["active"] for network in view["routes"]],
            ):
                assert len(set(kind)) == len(kind)
        for value, other in pairs.values():
            assert {key for key in value if value[key] != other[key]} <= OF_ONE_VIEW
            for view, mirror in ((value, other), (other, value)):
                assert view["local"] == mirror["peer"]
                assert view["routes"] == mirror["local"]["routes"]
            near, far = ([ip_interface(text) for text in value[side]["addresses"]] for side in ("local", "peer"))
            assert {address.network for address in near} == {address.network for address in far}
            assert not {address.ip for address in near} & {address.ip for address in far}

    def teardown(self) -> None:
        for number in getattr(self, "known", {}):
            assert self.api.send("GET", f"/api/tunnels/{number}") == self.known[number]


@pytest.mark.parametrize("lives", [5, pytest.param(20, marks=pytest.mark.variation)])
def test_life_of_tunnels(small: Api, small_panel: Panel, lives: int) -> None:
    Life.api, Life.panel = small, small_panel
    listed = small.send("GET", "/api/nodes")
    Life.nodes, Life.names = [node["id"] for node in listed], [node["name"] for node in listed]
    machine = Life.TestCase
    machine.settings = settings(
        max_examples=lives, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
    )  # fmt: skip
    machine().runTest()


def test_pools_run_out_and_come_around(small: Api) -> None:
    api = small
    for tunnel in api.send("GET", "/api/tunnels?limit=1000"):
        api.send("DELETE", f"/api/tunnels/{tunnel['id']}")
    a, b, c = ({"id": node["id"]} for node in api.send("GET", "/api/nodes")[:3])
    made = [api.tunnel(a, b) for _time in range(10)]
    assert "TUNNEL_PORT_RANGE" in api.tunnel(a, c, status=507)["detail"]
    made += [
        api.tunnel(b if number % 2 else a, c, config=json.dumps({"source": {"port": 100 + number}}))
        for number in range(4)
    ]
    used = {made["ends"][0]["addresses"][0] for made in made}
    assert len(used) == 14, "a /27 has 16 blocks, less the first and the last"
    detail = api.tunnel(a, c, status=507, config='{"source": {"port": 99}}')["detail"]
    assert "10.99.0.0/27" in detail
    assert "TUNNEL_IPV4_POOL" in detail
    api.send("DELETE", f"/api/tunnels/{made[3]['id']}")
    again = api.tunnel(a, b)
    assert [end["addresses"] for end in again["ends"]] == [end["addresses"] for end in made[3]["ends"]]
    assert [end["port"] for end in again["ends"]] == [end["port"] for end in made[3]["ends"]]
