# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""What Prometheus is told about the ends of tunnels. The panel and the nodes' service have the same copy of this file:
a rule works with the numbers of either.

Units are Prometheus' base units. What was not measured lately is left out, so that nobody takes it for true.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"  # what generate_latest writes, in all of its versions
TUNNEL = ("id", "name", "type", "source", "target")
END = (*TUNNEL, "role")
STATES = ("active", "connecting", "error", "inactive")
KINDS = ("put_back", "process", "session", "mtu", "peer")  # of recoveries
LONGEST = 128  # characters of a label's value
_DAY = 86400.0


class End(NamedTuple):
    """An end of a tunnel. ``labels`` are the values of END; ``age``: seconds since it was measured; ``stale``: nothing
    newer came in the time in which it should have."""

    labels: tuple[str, ...]
    state: str
    stale: bool
    age: float | None
    measured: Mapping[str, Any]
    recoveries: Mapping[str, int]


class _Gauge(NamedTuple):
    name: str
    told: str
    value: Callable[[End], float | None]


def _of(key: str, unit: float = 1.0) -> Callable[[End], float | None]:
    def value(end: End) -> float | None:
        found = end.measured.get(key)
        return None if found is None or end.stale else found * unit

    return value


def _handshake(end: End) -> float | None:
    found = end.measured.get("handshake_age")
    return None if found is None or end.stale else found + (end.age or 0.0)


_GAUGES = (
    _Gauge(
        "marzban_tunnel_measurement_age_seconds",
        "Seconds since this end was measured; other measurements of it are left out while they are stale.",
        lambda end: end.age,
    ),
    _Gauge(
        "marzban_tunnel_handshake_age_seconds",
        "Seconds since the last handshake of WireGuard, or since the keys of OpenVPN or IPsec were made.",
        _handshake,
    ),
    _Gauge(
        "marzban_tunnel_round_trip_seconds",
        "How long a packet takes to the other end and back, inside the tunnel.",
        _of("rtt_ms", 0.001),
    ),
    _Gauge(
        "marzban_tunnel_loss_ratio",
        "Part of the last probes that were not answered, from 0 to 1.",
        _of("loss_percent", 0.01),
    ),
    _Gauge(
        "marzban_tunnel_mtu_bytes",
        "The largest packet that passed in the last probe.",
        _of("mtu"),
    ),
    _Gauge(
        "marzban_tunnel_certificate_remaining_seconds",
        "Seconds until this end's certificate ends, in whole days; below 0 since it has ended.",
        _of("certificate_days", _DAY),
    ),
)
_COUNTERS = (
    _Gauge("marzban_tunnel_receive_bytes", "Bytes that came out of the tunnel.", _of("rx_bytes")),
    _Gauge("marzban_tunnel_transmit_bytes", "Bytes that were sent into the tunnel.", _of("tx_bytes")),
)


def families(ends: Iterable[End]) -> list[Metric]:
    """All that is told about these ends."""
    ends = list(ends)
    state = GaugeMetricFamily(
        "marzban_tunnel_end_state",
        "How this end is: 1 for the state that it is in, 0 for the others.",
        labels=(*END, "state"),
    )
    recoveries = CounterMetricFamily(
        "marzban_tunnel_recoveries",
        "How often the node's service has brought this end back without a person, by what had to be done.",
        labels=(*END, "kind"),
    )
    for end in ends:
        add_states(state, end.labels, end.state, end.stale)
        for kind in KINDS if end.recoveries else ():  # each one, so that the first is seen as an increase
            recoveries.add_metric((*end.labels, kind), end.recoveries.get(kind, 0))
    found: list[Metric] = [state]
    for kind_of, told in ((GaugeMetricFamily, _GAUGES), (CounterMetricFamily, _COUNTERS)):
        for gauge in told:
            family = kind_of(gauge.name, gauge.told, labels=END)
            for end in ends:
                value = gauge.value(end)
                if value is not None:
                    family.add_metric(end.labels, value)
            found.append(family)
    return [*found, recoveries]


def add_states(family: GaugeMetricFamily, labels: tuple[str, ...], state: str, stale: bool) -> None:
    """A series for each state. What nobody has heard of lately is not active."""
    is_in = "connecting" if stale and state == "active" else state
    for name in STATES:
        family.add_metric((*labels, name), float(name == is_in))


def text(found: Sequence[Metric]) -> bytes:
    """The families in Prometheus' text format."""

    class Told:
        def collect(self) -> Iterable[Metric]:
            return found

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Told())
    return generate_latest(registry)
