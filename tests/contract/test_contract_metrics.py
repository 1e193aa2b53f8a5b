# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Contract: GET /api/tunnels/metrics. What it tells is in tests/panel/test_panel_metrics.py."""

from __future__ import annotations

from typing import Any

from tests.contract.conftest import METRICS_KEY
from tests.support.panel_api import Api

METRICS = "/api/tunnels/metrics"


def test_only_the_key_reads_the_metrics(api: Api, pair: tuple[Any, Any]) -> None:
    made = api.tunnel(*pair, name="metered")
    token = api.session.headers["Authorization"]
    for given, status in ((None, 401), (token, 403), (f"Bearer {METRICS_KEY}x", 403)):
        answer = api.bare("GET", METRICS, headers={"Authorization": given})
        assert (answer.status_code, type(answer.json()["detail"])) == (status, str)
        assert answer.headers["Marzban-Panel-Id"]
        assert METRICS_KEY not in answer.text
    answer = api.bare("GET", METRICS, headers={"Authorization": f"Bearer {METRICS_KEY}"})
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    labels = f'id="{made["id"]}",name="metered",source="{pair[0]["name"]}",state="connecting"'
    assert f'marzban_tunnel_state{{{labels},target="{pair[1]["name"]}",type="wireguard"}} 1.0' in answer.text


def test_the_key_opens_nothing_else(api: Api, pair: tuple[Any, Any]) -> None:
    tunnel = api.tunnel(*pair)["id"]
    for method, path in (
        *(
            ("GET", "/api/tunnels"),
            ("GET", "/api/tunnels/nodes"),
            ("GET", "/api/tunnels/events"),
            ("GET", "/api/nodes"),
        ),
        *(("POST", "/api/tunnels"), ("DELETE", f"/api/tunnels/{tunnel}"), ("GET", "/api/admin")),
    ):
        answer = api.bare(method, path, json={}, headers={"Authorization": f"Bearer {METRICS_KEY}"})
        assert answer.status_code == 401, (method, path)
    assert api.send("GET", f"/api/tunnels/{tunnel}")["id"] == tunnel
