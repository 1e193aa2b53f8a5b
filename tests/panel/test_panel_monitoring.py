# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The alert rules and the dashboard, by Prometheus' own tool, and by what panels and nodes really export."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.support.managed_pair import Pair
from tests.support.managed_panel import ManagedPanel, until
from tests.support.marzban import TOP
from tests.support.prometheus import promtool
from tests.support.root_half import METRICS_KEY, StandIn
from tests.support.simulated_node import Nodes

MONITORING = TOP / "extensions/monitoring"
RULES, DASHBOARD = MONITORING / "rules.yml", MONITORING / "dashboard.json"
TESTS = Path(__file__).parent / "monitoring/rules.test.yml"
OURS = re.compile(r"(?<!:)\bmarzban_tunnel_[a-z_]+")
#: What else the rules read: of Prometheus itself, and what they record.
OTHERS = re.compile(r"\b(?:up|(?:tunnel|pair):marzban_tunnel_[a-z_]+:max)\b")


@pytest.fixture(scope="module")
def outputs() -> dict[str, str]:
    """What a panel with a manager, and a node's front, answer to Prometheus."""
    pytest.importorskip("aiohttp", reason="the environments for other versions do not have it")
    from tests.support.front import Front

    folder = Path(tempfile.mkdtemp(prefix="mz-monitoring-"))
    replaced = StandIn(str(folder / "root.sock"))
    front = Front(folder, str(folder / "root.sock"))
    key = {"Authorization": f"Bearer {METRICS_KEY}"}
    with Nodes() as nodes, ManagedPanel(folder / "panel.db", metrics_key=METRICS_KEY) as panel:
        pair = Pair(panel, nodes, "m")
        for node in (pair.first, pair.second):
            node.measured = {"handshake_age": 5, "rtt_ms": 20.0, "loss_percent": 5.0, "rx_bytes": 9, "tx_bytes": 7}
            node.measured |= {"mtu": 1420, "certificate_days": 700}
            node.recoveries = {"process": 2}

        def read() -> str | None:
            text = requests.get(panel.api.url + "/api/tunnels/metrics", headers=key, timeout=30).text
            return text if "marzban_tunnel_recoveries_total{" in text and "round_trip_seconds{" in text else None

        found = {"panel": until(read), "node": front.ask("GET", "/metrics", METRICS_KEY)[2]}
    front.close()
    replaced.close()
    shutil.rmtree(folder)
    return found


def names(text: str) -> set[str]:
    return {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def expressions() -> list[str]:
    """All that is asked of Prometheus by the rules and by the dashboard."""
    dashboard = json.loads(DASHBOARD.read_text())
    found = [rule["expr"] for rule in rules()]
    found += [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return found + [variable.get("definition", "") for variable in dashboard["templating"]["list"]]


def test_prometheus_takes_what_is_exported(outputs: dict[str, str]) -> None:
    for text in outputs.values():
        assert promtool("check", "metrics", text=text) == ""


def test_the_node_exports_no_other_names_about_ends_than_the_panel(outputs: dict[str, str]) -> None:
    assert names(outputs["node"]) - names(outputs["panel"]) == {"marzban_tunnel_service_info"}


def test_prometheus_takes_the_rules_and_they_do_what_they_should() -> None:
    assert "SUCCESS" in promtool("check", "rules", str(RULES))
    assert "SUCCESS" in promtool("test", "rules", str(TESTS))


def test_each_alert_was_seen_to_fire_and_to_clear() -> None:
    seen: dict[str, set[bool]] = {}
    for test in yaml.safe_load(TESTS.read_text())["tests"]:
        for case in test["alert_rule_test"]:
            seen.setdefault(case["alertname"], set()).add(bool(case["exp_alerts"]))
    assert seen == {rule["alert"]: {True, False} for rule in rules() if "alert" in rule}


def test_each_alert_says_what_to_do() -> None:
    for rule in rules():
        if "record" in rule:
            continue
        assert rule["for"], rule["alert"]
        assert rule["labels"]["severity"] in ("warning", "critical")
        told = rule["annotations"]
        assert sorted(told) == ["description", "help", "summary"]
        file, _hash, place = told["help"].partition("#")
        text = (TOP / file).read_text()
        anchors = {
            re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
            for line in text.splitlines()
            if line.startswith("#")
        }
        assert not place or place in anchors or f'id="{place}"' in text, f"{rule['alert']}: {told['help']}"


def test_rules_and_dashboard_read_what_there_is(outputs: dict[str, str]) -> None:
    exported = names(outputs["panel"]) | names(outputs["node"])
    recorded = {rule["record"] for rule in rules() if "record" in rule} | {"up"}
    for expression in expressions():
        assert set(OURS.findall(expression)) <= exported, expression
        assert set(OTHERS.findall(expression)) <= recorded, expression
    used = {name for expression in expressions() for name in OURS.findall(expression)}
    assert exported - used == {"marzban_tunnel_measurement_age_seconds"}, "the documentation has more than is used here"


def test_the_dashboard_finds_its_data_source_by_a_variable() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    sources = [panel["datasource"] for panel in dashboard["panels"]]
    sources += [target["datasource"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert {source["uid"] for source in sources} == {"${datasource}"}
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
    for number, panel in enumerate(dashboard["panels"]):  # the name of a tunnel becomes a part of the expression
        for target in panel["targets"]:
            expression = target["expr"].replace("$name", ".*")
            path = f"{number}: {expression}"
            assert "$" not in expression, path
