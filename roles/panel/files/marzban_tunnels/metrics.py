# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""What Prometheus is told about all tunnels and nodes of this panel; docs/monitoring.md has the table of it.

A label is an id, a name, a type, or a word of a fixed set: nothing that a node says becomes one, but for its engine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from marzban_tunnels import __version__, checks
from marzban_tunnels.answers import API_VERSION
from marzban_tunnels.end_metrics import LONGEST, TUNNEL, End, add_states, families
from marzban_tunnels.live import Live

MANAGER_STATES = ("on", "off", "elsewhere")
NODE_STATES = ("asking", "ok", "problem")


def told(records: Iterable[Mapping[str, Any]], services: Mapping[str, Any], live: Live) -> list[Metric]:
    """``records``: all tunnels, as the API answers them; ``services``: the answer of ``GET /api/tunnels/nodes``."""
    state = GaugeMetricFamily(
        "marzban_tunnel_state",
        "How this tunnel is: 1 for the state that it is in, 0 for the others.",
        labels=(*TUNNEL, "state"),
    )
    ends = []
    for record in records:
        labels = tuple(_label(record[key]) for key in ("id", "name", "tunnel_type")) + tuple(
            _label(record[f"{role}_node_name"]) for role in ("source", "target")
        )
        add_states(state, labels, record["status"], record["stale"])
        ends += [_end(record, end, labels, live) for end in record["ends"]]
    return [state, *families(ends), *_nodes(services["nodes"]), *_panel(services["manager"])]


def _end(record: Mapping[str, Any], end: Mapping[str, Any], labels: tuple[str, ...], live: Live) -> End:
    if not record["is_active"]:
        state = "inactive"
    else:
        state = end["status"] if end["status"] in ("active", "error") else "connecting"
    known = live.end(record["uuid"], end["role"]) or {}
    return End(
        labels=(*labels, end["role"]),
        state=state,
        stale=end["stale"],
        age=end["age"],
        measured=end["measured"] or {},
        recoveries=known.get("recoveries") or {},
    )


def _nodes(nodes: Sequence[Mapping[str, Any]]) -> list[Metric]:
    """Of the nodes that have a service. A deleted one, on which something waits to be removed, is not the panel's."""
    contact = GaugeMetricFamily(
        "marzban_tunnel_node_contact_age_seconds",
        "Seconds since the node's service has answered the panel.",
        labels=("id", "node"),
    )
    state = GaugeMetricFamily(
        "marzban_tunnel_node_state",
        "How the panel gets along with the node's service: 1 for the state that it is in, 0 for the others.",
        labels=("id", "node", "state"),
    )
    info = GaugeMetricFamily(
        "marzban_tunnel_node_info", "The engine of the node's service, by its digest.", labels=("id", "node", "engine")
    )
    for node in nodes:
        if node["deleted"] or node["state"] not in NODE_STATES:
            continue
        name = str(node["node_id"]), _label(node["node"])  # names may be alike once they are cut
        for word in NODE_STATES:
            state.add_metric((*name, word), float(word == node["state"]))
        if node["contact_age"] is not None:
            contact.add_metric(name, node["contact_age"])
        if node["engine"]:
            info.add_metric((*name, _label(node["engine"])), 1.0)
    return [contact, state, info]


def _panel(manager: Mapping[str, Any]) -> list[Metric]:
    state = GaugeMetricFamily(
        "marzban_tunnel_manager_state",
        "Whether this panel works with the nodes' services: 1 for the state that it is in, 0 for the others; "
        "elsewhere: another process of it does.",
        labels=("state",),
    )
    for word in MANAGER_STATES:
        state.add_metric((word,), float(word == manager["state"]))
    info = GaugeMetricFamily(
        "marzban_tunnel_panel_info",
        "The version of the panel's tunnels add-on, and of its API.",
        labels=("version", "api"),
    )
    info.add_metric((__version__, str(API_VERSION)), 1.0)
    return [state, info]


def _label(value: Any) -> str:
    return checks.one_line(str(value or ""), LONGEST)
