# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""What the panel tells Prometheus: with a real manager, and STAND-INS for the node service."""

from __future__ import annotations

import gzip
import hashlib
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from marzban_tunnels import metrics_access, router_metrics
from marzban_tunnels.manager.answers import tunnel as read_tunnel
from tests.support.managed_pair import Pair
from tests.support.managed_panel import ManagedPanel, until
from tests.support.panel import Panel
from tests.support.simulated_node import Nodes

METRICS = "/api/tunnels/metrics"
METRICS_KEY = secrets.token_hex(32)
Samples = dict[tuple[str, ...], float]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    database = tmp_path_factory.mktemp("metrics") / "panel.db"
    with Nodes() as nodes, ManagedPanel(database, metrics_key=METRICS_KEY) as panel:
        yield Pair(panel, nodes, "m")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each answer is a new one: a test does not wait for it."""
    monkeypatch.setattr(router_metrics, "FRESH", 0.0)


def ask(pair: Pair, authorization: str | None, **headers: str) -> requests.Response:
    given = {**headers, **({} if authorization is None else {"Authorization": authorization})}
    return requests.get(pair.panel.api.url + METRICS, headers=given, timeout=30)


def text(pair: Pair) -> str:
    answer = ask(pair, f"Bearer {METRICS_KEY}")
    assert answer.status_code == 200, answer.text
    return answer.text


def samples(pair: Pair, *labels: str) -> Samples:
    """Each sample by its name and what it has of these labels."""
    found = {}
    for family in text_string_to_metric_families(text(pair)):
        for sample in family.samples:
            found[(sample.name, *(sample.labels[key] for key in labels if key in sample.labels))] = sample.value
    return found


def test_tunnels_nodes_and_manager(pair: Pair) -> None:
    for node in (pair.first, pair.second):
        node.measured = {"handshake_age": 5, "rtt_ms": 20.0, "loss_percent": 5.0, "certificate_days": -1}
        node.measured |= {"tx_bytes": 7, "rx_bytes": 9}
        node.recoveries = {"process": 2, "session": 0, "of a later version": 9}
    heard = {("marzban_tunnel_round_trip_seconds", role) for role in ("source", "target")}
    until(lambda: heard <= samples(pair, "role").keys())
    until(lambda: samples(pair, "state")["marzban_tunnel_state", "active"] == 1)
    ends = samples(pair, "role", "state", "kind")
    assert ends["marzban_tunnel_round_trip_seconds", "target"] == 0.02
    assert pair.panel.service(pair.first)["recoveries"] == {"process": 2, "session": 0}
    assert ends["marzban_tunnel_loss_ratio", "target"] == 0.05
    assert ends["marzban_tunnel_transmit_bytes_total", "source"] == 7
    assert ends["marzban_tunnel_receive_bytes_total", "source"] == 9
    assert ends["marzban_tunnel_certificate_remaining_seconds", "source"] == -86400
    assert 5 <= ends["marzban_tunnel_handshake_age_seconds", "source"] < 15
    assert ends["marzban_tunnel_end_state", "source", "active"] == 1
    recoveries = {key[1:]: value for key, value in ends.items() if key[0] == "marzban_tunnel_recoveries_total"}
    kinds = {"put_back": 0, "process": 2, "session": 0, "mtu": 0, "peer": 0}
    assert recoveries == {(role, kind): n for role in ("source", "target") for kind, n in kinds.items()}
    panel = samples(pair, "node", "state", "engine", "version", "api")
    for name in (pair.first.name, pair.second.name):
        assert panel["marzban_tunnel_node_state", name, "ok"] == 1
        assert panel["marzban_tunnel_node_state", name, "problem"] == 0
        assert panel["marzban_tunnel_node_contact_age_seconds", name] < 10
        assert panel["marzban_tunnel_node_info", name, "simulated"] == 1
    assert panel["marzban_tunnel_manager_state", "on"] == 1
    assert panel["marzban_tunnel_manager_state", "off"] == 0
    assert sum(key[0] == "marzban_tunnel_panel_info" for key in panel) == 1
    line = next(line for line in text(pair).splitlines() if line.startswith("marzban_tunnel_state{"))
    labels = f'id="{pair.tunnel["id"]}",name="",source="m-1",state="active",target="m-2",type="wireguard"'
    assert line == f"marzban_tunnel_state{{{labels}}} 1.0"


def test_what_nobody_has_heard_of_lately_does_not_look_healthy(pair: Pair) -> None:
    try:
        for node in (pair.first, pair.second):
            node.age = 100.0
        until(lambda: samples(pair, "state")["marzban_tunnel_state", "connecting"] == 1)
        ends = samples(pair, "role", "state")
        assert ends["marzban_tunnel_state", "active"] == 0
        assert ends["marzban_tunnel_end_state", "source", "active"] == 0
        assert ends["marzban_tunnel_end_state", "source", "connecting"] == 1
        assert ends["marzban_tunnel_measurement_age_seconds", "source"] >= 100
        assert not {name for name, *_more in ends} & {
            "marzban_tunnel_receive_bytes_total",
            "marzban_tunnel_round_trip_seconds",
            "marzban_tunnel_handshake_age_seconds",
        }
    finally:
        for node in (pair.first, pair.second):
            node.age = 0.5


def test_one_that_is_off_is_inactive(pair: Pair) -> None:
    pair.call("POST", "/deactivate")
    try:
        found = samples(pair, "role", "state")
        assert found["marzban_tunnel_state", "inactive"] == found["marzban_tunnel_end_state", "source", "inactive"] == 1
        assert found["marzban_tunnel_state", "connecting"] == 0
    finally:
        pair.call("POST", "/activate")


def test_the_key_reads_the_metrics_and_nothing_else(pair: Pair) -> None:
    token = str(pair.panel.api.session.headers["Authorization"])
    for given, status in (
        (None, 401),
        ("", 403),
        ("Basic " + METRICS_KEY, 403),
        ("Bearer ", 403),
        ("Bearer " + METRICS_KEY[:-1], 403),
        ("Bearer " + METRICS_KEY + "0", 403),
        ("Bearer " + hashlib.sha256(METRICS_KEY.encode()).hexdigest(), 403),
        (token, 403),
        ("bearer  " + METRICS_KEY, 200),
    ):
        answer = ask(pair, given)
        assert answer.status_code == status, given
        assert ("WWW-Authenticate" in answer.headers) == (status == 401)
        assert METRICS_KEY not in answer.text
    before = len(pair.panel.api.send("GET", "/api/tunnels"))
    for method, path in (
        *(("GET", "/api/tunnels"), ("GET", "/api/tunnels/nodes"), ("GET", "/api/nodes"), ("GET", "/api/admin")),
        *(("POST", "/api/tunnels"), ("POST", "/api/tunnels/nodes/access"), ("POST", METRICS)),
        *(("GET", f"/api/tunnels/{pair.tunnel['id']}"), ("DELETE", f"/api/tunnels/{pair.tunnel['id']}")),
    ):
        headers = {"Authorization": f"Bearer {METRICS_KEY}"}
        answer = requests.request(method, pair.panel.api.url + path, headers=headers, timeout=30, json={})
        assert answer.status_code in (401, 405), (method, path, answer.status_code)
    assert len(pair.panel.api.send("GET", "/api/tunnels")) == before


def test_nodes_get_the_hash_of_the_key(pair: Pair) -> None:
    body = {"nodes": [pair.first.name], "check": True}
    answer = pair.panel.api.bare("POST", "/api/tunnels/nodes/access", json=body)
    (entry,) = answer.json()["nodes"]
    assert entry["metrics_hash"] == hashlib.sha256(METRICS_KEY.encode()).hexdigest()
    assert entry["metrics_hash"] not in entry["hashes"]
    assert METRICS_KEY not in answer.text


def test_it_is_compressed_for_who_asks_for_it(pair: Pair) -> None:
    plain, small = (
        requests.get(
            pair.panel.api.url + METRICS,
            headers={"Authorization": f"Bearer {METRICS_KEY}", "Accept-Encoding": coding},
            timeout=30,
            stream=True,
        ).raw.read()
        for coding in ("identity", "gzip")
    )
    assert gzip.decompress(small).count(b"\n") == plain.count(b"\n")


def test_who_asks_at_once_costs_once(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router_metrics, "FRESH", 60.0)
    made = []
    read = router_metrics._read

    def counted(*given: Any) -> bytes:
        made.append(given)
        return read(*given)

    monkeypatch.setattr(router_metrics, "_read", counted)
    first = text(pair)
    assert text(pair) == text(pair) == first
    assert len(made) <= 1


def test_a_panel_without_the_library_serves_all_the_rest(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = ("marzban_tunnels.end_metrics", "marzban_tunnels.metrics")
    for name in [name for name in sys.modules if name.partition(".")[0] == "prometheus_client" or name in ours]:
        monkeypatch.delitem(sys.modules, name)
    import marzban_tunnels

    for name in ours:
        monkeypatch.delattr(marzban_tunnels, name.rpartition(".")[2], raising=False)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    answer = ask(pair, f"Bearer {METRICS_KEY}")
    assert (answer.status_code, "prometheus-client" in answer.json()["detail"]) == (503, True)
    assert pair.panel.api.send("GET", "/api/tunnels")


def test_without_a_key_there_are_no_metrics(panel: Panel, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for headers in ({}, panel.headers()):
        status, told = panel.request("GET", METRICS, headers=headers)
        assert (status, "TUNNEL_METRICS_KEY is not set" in told["detail"]) == (404, True)
    with ManagedPanel(tmp_path / "panel.db", metrics_key="too-short-to-be-one") as other:
        answers = [requests.get(other.api.url + METRICS, timeout=30) for _again in range(2)]
    assert [answer.status_code for answer in answers] == [503, 503]
    assert answers[0].json()["detail"].endswith("the panel's log says why")
    (line,) = (text for text in caplog.messages if "TUNNEL_METRICS_KEY" in text)
    assert "needs at least 32" in line
    assert "too-short-to-be-one" not in line


def test_a_panel_takes_the_key_from_its_environment(tmp_path: Path) -> None:
    with Panel.start(tmp_path, tls=False, env={"TUNNEL_METRICS_KEY": METRICS_KEY}) as panel:
        status, body = panel.request("GET", METRICS, headers={"Authorization": f"Bearer {METRICS_KEY}"})
        assert (status, 'marzban_tunnel_manager_state{state="off"} 1.0' in body) == (200, True)
        assert panel.request("GET", METRICS, headers=panel.headers())[0] == 403
        assert METRICS_KEY not in panel.log_path.read_text() + panel.error_path.read_text()
        assert METRICS_KEY.encode() not in panel.database.read_bytes()


@pytest.mark.parametrize(
    ("value", "other", "state"),
    [
        (None, None, "unset"),
        ("", None, "unusable"),
        ("  ", None, "unusable"),
        ("x" * 31, None, "unusable"),
        ("your-secret-key", None, "unusable"),
        ("x" * 31 + " " + "x", None, "unusable"),
        ("é" * 32, None, "unusable"),
        ("x" * 257, None, "unusable"),
        ("\ud800" * 32, None, "unusable"),
        ("x" * 40, "x" * 40, "unusable"),
        ("x" * 40 + "\n", "x" * 40, "unusable"),
        ("x" * 40, "y" * 40, "key"),
        ("x" * 256, None, "key"),
    ],
)
def test_what_can_be_a_key(value: str | None, other: str | None, state: str) -> None:
    access = metrics_access.check_key(value, other)
    assert access.state == state
    assert (access.detail is None, access.hash is not None) == (state == "key", state == "key")
    assert access.opens(f"Bearer {(value or '').strip()}") == (state == "key")
    assert not (value or "").strip() or value.strip() == "your-secret-key" or value.strip() not in repr(access)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "recoveries", [[], "x", 7, {"process": -1}, {"process": 1.5}, {"process": True}, {"process": 2**63}, {"mtu": None},
                   {str(number): 1 for number in range(11)}]
)  # fmt: skip
def test_recoveries_of_a_node_that_lies(recoveries: Any) -> None:
    body = {"uuid": "u", "id": 1, "type": "wireguard", "recoveries": recoveries}
    if not recoveries:
        assert read_tunnel(body).recoveries == {}
        return
    with pytest.raises(ValueError, match="recoveries"):
        read_tunnel(body)
