# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""docs/node-api.openapi.json is what the front serves, and whatever is sent to it is answered as told there."""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from tests.support.front import Front
from tests.support.root_half import KEY, StandIn

pytest.importorskip("schemathesis", reason="the environments for other versions of ansible-core do not have it")
TOP = Path(__file__).resolve().parents[3]
DOCUMENT = json.loads((TOP / "docs/node-api.openapi.json").read_text())
SETTINGS = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)


def test_the_document_has_the_calls_that_are_served() -> None:
    from marzban_node.front_calls import ROUTES

    served = {(route.path, method.lower()) for route in ROUTES for method in route.calls}
    assert served == {(path, method) for path, methods in DOCUMENT["paths"].items() for method in methods}


@pytest.fixture(scope="module")
def front() -> Iterator[Front]:
    folder = Path(tempfile.mkdtemp(prefix="mz-front-"))  # not below pytest's: a socket's path is short
    replaced = StandIn(str(folder / "root.sock"))
    started = Front(folder, str(folder / "root.sock"))
    yield started
    assert started.process.poll() is None
    assert "Traceback" not in started.log.read_text()
    assert "could not be answered" not in started.log.read_text()
    started.close()
    replaced.close()
    shutil.rmtree(folder)


@pytest.mark.parametrize("examples", [10, pytest.param(100, marks=pytest.mark.variation)])
def test_any_request(front: Front, examples: int) -> None:
    """schemathesis makes the requests, valid and invalid ones, out of the document."""
    import schemathesis
    from schemathesis import GenerationMode
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

    document: Any = schemathesis.openapi.from_dict(DOCUMENT)
    document.config.update(base_url=f"https://127.0.0.1:{front.port}")
    document.config.update(headers={"Authorization": f"Bearer {KEY}"})
    wanted = [
        not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
    ]
    tried = 0
    for found in document.get_all_operations():
        operation = found.ok()

        @settings(SETTINGS, max_examples=examples)
        @given(
            case=operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
            | operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)
        )
        def send(case: Any) -> None:
            case.call_and_validate(checks=wanted, timeout=30, verify=str(front.folder / "tls.crt"))

        with warnings.catch_warnings():
            send()
        tried += 1
    assert tried == 6
