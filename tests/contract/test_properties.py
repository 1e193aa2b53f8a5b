# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Whatever is sent to the standalone panel: no 500, and an answer that its OpenAPI document tells.

schemathesis makes the requests, valid and invalid ones, out of that document.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.support.event_stream import PATH
from tests.support.panel import Panel
from tests.support.panel_api import client

SETTINGS = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The panel's document, from a panel that has something under the first ids."""
    with Panel.start(tmp_path_factory.mktemp("properties"), tls=False) as panel:
        api = client(panel)
        nodes = [api.node() for _time in range(3)]
        for source, target in ((0, 1), (1, 2), (2, 0)):
            api.tunnel(nodes[source], nodes[target])
        document = schemathesis.openapi.from_dict(api.send("GET", "/openapi.json"))
        document.config.update(base_url=panel.url)
        document.config.update(headers=dict(panel.headers()))
        yield document
        api.session.close()


@pytest.mark.parametrize("examples", [15, pytest.param(60, marks=pytest.mark.variation)])
def test_any_request(document: Any, examples: int) -> None:
    """One operation after the other: the plugin's own parametrization needs the panel before there are tests."""
    tried = 0
    for found in document.get_all_operations():
        operation = found.ok()
        if operation.path == PATH:  # it has no end; tests/contract/test_contract_events.py
            continue

        @settings(SETTINGS, max_examples=examples)
        @given(
            case=operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
            | operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)
        )
        def send(case: Any) -> None:
            case.call_and_validate(checks=CHECKS, timeout=30)

        send()
        tried += 1
    assert tried == 29
