# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""``GET /metrics`` of the node service: real TLS and HTTP, with a STAND-IN for the root half."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from marzban_node.errors import Refused
from marzban_node.panels import Panels
from tests.support.front import Front
from tests.support.root_half import KEY, METRICS, METRICS_KEY, StandIn
from tests.support.world import TOP

pytest.importorskip("aiohttp", reason="the environments for other versions of ansible-core do not have it")
A, NODE = "0d1f3b52-7c9e-4c8e-9b0f-3a2d5e6f7a81", "1b4e28ba-2fa1-41d2-883f-00000000ffff"


@pytest.fixture(scope="module")
def parts() -> Iterator[tuple[Front, StandIn]]:
    folder = Path(tempfile.mkdtemp(prefix="mz-metrics-"))
    replaced = StandIn(str(folder / "root.sock"))
    front = Front(folder, str(folder / "root.sock"))
    yield front, replaced
    front.close()
    replaced.close()
    shutil.rmtree(folder)


def values(text: str) -> dict[tuple[str, ...], float]:
    """Each sample by its name and what it has beside the labels of the tunnel."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            own = [sample.labels[key] for key in ("state", "kind", "engine", "api") if key in sample.labels]
            found[(sample.name, *own)] = sample.value
    return found


def test_the_numbers_in_base_units(parts: tuple[Front, StandIn]) -> None:
    front, root_half = parts
    status, headers, text = front.ask("GET", "/metrics", METRICS_KEY)
    assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert root_half.calls[-1] == {"call": "metrics", "key": METRICS_KEY}
    recovered = {("marzban_tunnel_recoveries_total", kind): 0.0 for kind in ("put_back", "session", "mtu", "peer")}
    assert values(text) == recovered | {
        ("marzban_tunnel_end_state", "active"): 1,
        ("marzban_tunnel_end_state", "connecting"): 0,
        ("marzban_tunnel_end_state", "error"): 0,
        ("marzban_tunnel_end_state", "inactive"): 0,
        ("marzban_tunnel_measurement_age_seconds",): 2,
        ("marzban_tunnel_handshake_age_seconds",): 42,
        ("marzban_tunnel_round_trip_seconds",): 0.0125,
        ("marzban_tunnel_loss_ratio",): 0.25,
        ("marzban_tunnel_mtu_bytes",): 1420,
        ("marzban_tunnel_receive_bytes_total",): 1000,
        ("marzban_tunnel_transmit_bytes_total",): 2000,
        ("marzban_tunnel_recoveries_total", "process"): 3,
        ("marzban_tunnel_service_info", "0000000000000000", "1"): 1,
    }
    line = next(line for line in text.splitlines() if line.startswith("marzban_tunnel_loss_ratio{"))
    labels = 'id="1",name="t1",role="source",source="de-1",target="fi-1",type="wireguard"'
    assert line == f"marzban_tunnel_loss_ratio{{{labels}}} 0.25"


def test_what_was_measured_long_ago_does_not_look_healthy(parts: tuple[Front, StandIn]) -> None:
    front, root_half = parts
    for age in (23.0, None):
        tunnel: dict[str, Any] = {**METRICS["tunnels"][0], "age": age}  # type: ignore[index]
        told = {"status": 200, "body": {**METRICS, "tunnels": [tunnel]}}
        root_half.replies.append(json.dumps(told).encode() + b"\n")
        found = values(front.ask("GET", "/metrics", METRICS_KEY)[2])
        assert found["marzban_tunnel_end_state", "connecting"] == 1
        assert found["marzban_tunnel_end_state", "active"] == 0
        assert found.get(("marzban_tunnel_measurement_age_seconds",)) == age
        names = {name for name, *_own in found}
        assert not names & {"marzban_tunnel_round_trip_seconds", "marzban_tunnel_receive_bytes_total"}


def test_a_name_stays_in_its_label(parts: tuple[Front, StandIn]) -> None:
    """The root half has checked it, and the text is still not taken apart by it."""
    front, root_half = parts
    name = 'x"} 1\nmarzban_tunnel_end_state{name="y\\' + "z" * 500
    tunnel: dict[str, Any] = {**METRICS["tunnels"][0], "name": name}  # type: ignore[index]
    told = {"status": 200, "body": {**METRICS, "tunnels": [tunnel]}}
    root_half.replies.append(json.dumps(told).encode() + b"\n")
    text = front.ask("GET", "/metrics", METRICS_KEY)[2]
    (family,) = (f for f in text_string_to_metric_families(text) if f.name == "marzban_tunnel_end_state")
    assert {sample.labels["name"] for sample in family.samples} == {name[:128]}


def test_each_key_opens_its_own_call(parts: tuple[Front, StandIn]) -> None:
    front, root_half = parts
    assert front.ask("GET", "/metrics", KEY)[0] == 403
    assert front.ask("GET", "/api/tunnels", METRICS_KEY)[0] == 403
    root_half.calls.clear()
    status, headers, told = front.ask("GET", "/metrics")
    assert (status, told["code"], headers["www-authenticate"]) == (401, "no_key", "Bearer")
    assert "TUNNEL_METRICS_KEY" in told["detail"]
    assert front.ask("POST", "/metrics", METRICS_KEY, {})[0] == 405
    assert root_half.calls == []
    log = front.log.read_text()
    assert log.count("A wrong access key came from 127.0.0.1.") == 2
    assert KEY not in log
    assert METRICS_KEY not in log


def test_a_node_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    from marzban_node import front_metrics

    for name in [name for name in sys.modules if name.partition(".")[0] == "prometheus_client"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    answer = front_metrics.answered(METRICS)
    assert answer.status == 503
    assert isinstance(answer.body, bytes)
    assert "python3-prometheus-client" in json.loads(answer.body)["detail"]


def test_whose_numbers_a_key_reads(tmp_path: Path) -> None:
    folder = tmp_path / "panels"
    folder.mkdir()

    def write(**more: Any) -> None:
        told = {"panel": A, "node": NODE, "hashes": [hashlib.sha256(b"a").hexdigest()], **more}
        (folder / f"{A}.json").write_text(json.dumps(told))

    panels = Panels(str(folder), str(tmp_path / "counters.json"))
    write(metrics=hashlib.sha256(b"m").hexdigest())
    assert panels.reader("m").id == A
    for key, status in (("a", 403), ("", 403), ("x", 403), ("\ud800", 403), (None, 401), (["m"], 401)):
        with pytest.raises(Refused) as refused:
            panels.reader(key)
        assert refused.value.status == status
    with pytest.raises(Refused):
        panels.caller("m", None)
    for without in ({}, {"metrics": None}, {"metrics": 7}, {"metrics": ""}, {"metrics": "é" * 64}):
        write(**without)
        with pytest.raises(Refused) as refused:
            panels.reader("m")
        assert refused.value.status == 403


def test_panel_and_node_tell_the_same_about_an_end() -> None:
    copies = [
        TOP / "roles" / place / "end_metrics.py"
        for place in ("panel/files/marzban_tunnels", "node_api/files/marzban_node")
    ]
    assert copies[0].read_bytes() == copies[1].read_bytes(), "change both, or copy one over the other"
