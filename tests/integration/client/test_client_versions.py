# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The client and panels of other versions of the tunnels API. The panel behind is a real one, of today; what an older
or newer one would say otherwise is FAKED by a proxy: its header, and a panel of version 1 that refuses what is new."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ansible_collections.marzban.tunnels.plugins.module_utils._model import validators
from ansible_collections.marzban.tunnels.plugins.module_utils._panel import api
from ansible_collections.marzban.tunnels.plugins.module_utils._panel import client as panel_client
from ansible_collections.marzban.tunnels.plugins.plugin_utils import _panel_steps
from marzban_tunnels import router, schemas
from tests.integration.client.conftest import client, refused
from tests.support.faulty import Answer, Faulty, Request
from tests.support.panel import Panel
from tests.support.panel_api import key

JSON = {"Content-Type": "application/json"}


def of_version(faulty: Faulty, version: str | None, refuses: tuple[str, ...] = ()) -> None:
    """Has the proxy say this version (None: no header), and refuse a report with these measurements."""

    def passed(request: Request) -> Answer:
        reports = json.loads(request.body).get("reports", []) if request.method == "POST" else []
        unknown = [
            (number, key)
            for number, report in enumerate(reports)
            for key in report.get("measured") or ()
            if key in refuses
        ]
        if unknown:
            detail = {f"reports.{number}.measured.{key}": "Unknown field: leave it out" for number, key in unknown}
            headers = {**JSON, "Marzban-Panel-Id": str(faulty.forward(request).headers["Marzban-Panel-Id"])}
            answer = Answer(422, json.dumps({"detail": detail}).encode(), headers)
        else:
            answer = faulty.forward(request)
        answer.headers = {key: value for key, value in answer.headers.items() if key.lower() != api.HEADER.lower()}
        if version is not None:
            answer.headers[api.HEADER] = version
        return answer

    for method in ("GET", "POST", "PUT"):
        faulty.on(method, "/api/tunnels.*", passed)


def reports(panel: Panel, **measured: Any) -> list[dict[str, Any]]:
    tunnel = panel.call("GET", "/api/tunnels")[0]
    return [
        {"uuid": tunnel["uuid"], "node": end["node"], "version": tunnel["version"], "status": "active", "error": None,
         "measured": measured}
        for end in tunnel["ends"]
    ]  # fmt: skip


def stored(panel: Panel) -> list[Any]:
    return [end["measured"] for end in panel.call("GET", "/api/tunnels")[0]["ends"]]


def warned(faulty: Faulty, panel: Panel) -> tuple[panel_client.Panel, list[str]]:
    """A client, and what it warns of."""
    warnings: list[str] = []
    return client(faulty, panel, warn=warnings.append), warnings


def test_both_sides_have_the_same_version_today(panel: Panel) -> None:
    assert (router.API_HEADER, router.API_VERSION) == (api.HEADER, api.VERSION)
    asking = client(panel)
    assert asking.api is None
    asking.tunnels()
    assert asking.api == api.VERSION


def test_a_panel_without_the_header_is_of_version_1(faulty: Faulty, panel: Panel) -> None:
    of_version(faulty, None)
    asking, warnings = warned(faulty, panel)
    asking.tunnels()
    assert (asking.api, warnings) == (1, [])


@pytest.mark.parametrize("text", ["", "0", "-1", "two", "1.5", "9" * 10, "２"])
def test_a_header_that_is_not_a_version(faulty: Faulty, panel: Panel, text: str) -> None:
    of_version(faulty, text.encode().decode("latin-1"))
    refused("bad_answer", client(faulty, panel).tunnels, "Marzban-Tunnels-Api")


def test_a_newer_panel_is_used_and_the_collection_has_to_be_updated(faulty: Faulty, panel: Panel) -> None:
    of_version(faulty, str(api.VERSION + 1))
    asking, warnings = warned(faulty, panel)
    for _time in range(2):
        assert [tunnel["name"] for tunnel in asking.tunnels()] == ["t0", "t1", "t2"]
    assert asking.post_status(reports(panel, rtt_ms=1.5)) == (2, [])
    (text,) = warnings
    assert f"has version {api.VERSION + 1} of the tunnels API, and this collection knows {api.VERSION}" in text
    assert text.endswith("Update the collection.")


def test_an_old_panel_gets_the_measurements_that_it_knows(faulty: Faulty, panel: Panel) -> None:
    of_version(faulty, None, refuses=("jitter_ms",))
    asking, warnings = warned(faulty, panel)
    assert asking.post_status(reports(panel, rtt_ms=1.5, jitter_ms=0.5)) == (2, [])
    assert stored(panel) == [{"rtt_ms": 1.5}] * 2
    (text,) = warnings
    assert "has version 1 of the tunnels API and does not know jitter_ms: left out of the reports" in text
    assert text.endswith("run the playbook marzban.tunnels.panel.")


def test_measurements_that_every_panel_knows_cost_no_question(faulty: Faulty, panel: Panel) -> None:
    of_version(faulty, None)
    asking, warnings = warned(faulty, panel)
    assert asking.post_status(reports(panel, loss_percent=0)) == (2, [])
    assert stored(panel) == [{"loss_percent": 0}] * 2
    assert (faulty.seen("GET", "/api/tunnels"), warnings) == (0, [])


def test_a_panel_of_today_ignores_a_measurement_that_it_does_not_know(faulty: Faulty, panel: Panel) -> None:
    asking, warnings = warned(faulty, panel)
    assert asking.post_status(reports(panel, rtt_ms=2.5, jitter_ms=0.5)) == (2, [])
    (sent,) = [request for request in faulty.requests if request.path == "/api/tunnels/status"]
    assert b"jitter_ms" in sent.body, "what the panel does not know is its own business"
    assert (stored(panel), warnings) == ([{"rtt_ms": 2.5}] * 2, [])


@pytest.mark.parametrize(("version", "knows"), [(None, False), ("3", False), ("4", True)])
def test_an_old_panel_is_not_sent_next_keys(faulty: Faulty, panel: Panel, version: str | None, knows: bool) -> None:
    of_version(faulty, version)
    asking, warnings = client(faulty, panel), list[str]()
    tunnel = panel.call("GET", "/api/tunnels")[0]
    halves = [{**key(), "next_public_key": key()["public_key"]}, key()]
    keys = [
        {"uuid": tunnel["uuid"], "node": end["node"], "public": half}
        for end, half in zip(tunnel["ends"], halves, strict=True)
    ]
    assert _panel_steps.publish(asking, keys, [], False, warnings.append).updated == 2
    halves = halves if knows else [{"public_key": halves[0]["public_key"]}, halves[1]]
    assert [end["public"] for end in panel.call("GET", "/api/tunnels")[0]["ends"]] == halves
    assert ["does not know the next key of a tunnel" in text for text in warnings] == ([] if knows else [True])
    assert _panel_steps.publish(asking, keys, [], False, warnings.append).updated == 0


def test_an_old_panel_that_does_not_know_a_field(faulty: Faulty, panel: Panel) -> None:
    of_version(faulty, "1")
    asking = client(faulty, panel)
    body = {"source_node_id": 1, "target_node_id": 2, "tunnel_type": "wireguard", "colour": "blue"}
    refused("old_panel", lambda: asking.create_tunnel(body), "colour: Unknown field", "marzban.tunnels.panel")
    refused("invalid", lambda: asking.update_tunnel(1, {"config": '{"mtu": 5}'}, 1), "config.mtu")


BEHIND = {"config": {"source": None, "target": {"endpoint": "nat.example.org", "endpoint_port": 443}}}


@pytest.mark.parametrize("version", [None, "2", "3"])
def test_an_old_panel_gets_no_endpoint_port(faulty: Faulty, panel: Panel, version: str | None) -> None:
    of_version(faulty, version)
    asking = client(faulty, panel)
    number = version or "1"
    seen = f"has version {number} of the tunnels API, which does not know config.target.endpoint_port."
    refused("old_panel", lambda: asking.check_known(BEHIND), seen, "marzban.tunnels.panel")
    asking.check_known({"config": {"target": {"endpoint_port": None, "port": 443}}, "name": "x"})
    asking.check_known({"name": "x"})
    assert [request.path.split("?")[0] for request in faulty.requests] == ["/api/admin/token", "/api/tunnels"]
    assert faulty.requests[-1].method == "GET"


def test_what_every_panel_knows_of_a_tunnel_costs_no_question(faulty: Faulty, panel: Panel) -> None:
    asking = client(faulty, panel)
    asking.check_known({"config": {"target": {"port": 443}}})
    assert faulty.requests == []
    asking.check_known(BEHIND)
    assert asking.api == api.VERSION


def test_the_collection_ignores_a_measurement_that_it_does_not_know() -> None:
    measured = validators.measured({"rtt_ms": 1.5, "jitter_ms": "\u202e", "": [[]]})
    assert measured == dict.fromkeys(validators.MEASURES, None) | {"rtt_ms": 1.5}


def test_what_version_1_measured_never_changes() -> None:
    assert set(api.MEASURED_IN_1) <= set(validators.MEASURES)
    assert set(api.MEASURED_IN_1) <= set(schemas.Measured.model_fields)
