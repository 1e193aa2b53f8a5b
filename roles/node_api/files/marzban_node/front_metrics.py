# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The root half's numbers in Prometheus' text format. Its library is loaded with the first call: many have no use for
it, and a node may not have it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp.web import Response

from .front_answers import SERVER, refusal

STALE = 22.0  # seconds; as on the panel: it is measured each 5 s, which takes some
NO_LIBRARY = "This node has no python3-prometheus-client: install it, or run marzban.tunnels.node_api, which does."


def answered(body: Mapping[str, Any]) -> Response:
    """The answer to ``GET /metrics``; ``body`` is that of the root half's call ``metrics``."""
    try:
        from prometheus_client.metrics_core import GaugeMetricFamily

        from . import end_metrics
    except ImportError:
        return refusal(503, "no_library", NO_LIBRARY)

    def label(value: object) -> str:
        return str("" if value is None else value)[: end_metrics.LONGEST]

    ends = []
    for tunnel in body["tunnels"]:
        here, there = tunnel["node"], tunnel["peer"]
        pair = (there, here) if tunnel["role"] == "target" else (here, there)
        named = (tunnel["id"], tunnel["name"], tunnel["type"], *pair, tunnel["role"])
        age = tunnel["age"]
        ends.append(
            end_metrics.End(
                labels=tuple(label(value) for value in named),
                state=tunnel["status"] or "connecting",
                stale=age is None or age > STALE,
                age=age,
                measured=tunnel["measured"] or {},
                recoveries=tunnel["recoveries"] or {},
            )
        )
    info = GaugeMetricFamily(
        "marzban_tunnel_service_info",
        "The engine of this node's service, by its digest, and the version of its API.",
        labels=("engine", "api"),
    )
    info.add_metric((label(body["engine"]), label(body["api"])), 1.0)
    text = end_metrics.text([*end_metrics.families(ends), info])
    headers = {"Content-Type": end_metrics.CONTENT_TYPE, "Cache-Control": "no-store", "Server": SERVER}
    return Response(body=text, headers=headers)
