# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A client of the collection and whom it speaks to, for tests: a real panel, or a real server that misbehaves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import PanelError
from ansible_collections.marzban.tunnels.plugins.module_utils._panel import client as panel_client
from ansible_collections.marzban.tunnels.plugins.module_utils._panel import transport
from tests.support.faulty import Faulty, answer
from tests.support.panel import Panel

SECRET = "s3cret-Passw0rd"


@pytest.fixture(scope="module")
def panel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Panel]:
    with Panel.start(tmp_path_factory.mktemp("panel"), password=SECRET) as running:
        nodes = [running.add_node(name, f"203.0.113.{n}")["id"] for n, name in enumerate(("de-1", "fi-1", "us-1"), 1)]
        for n in range(3):
            running.add_tunnel(nodes[n], nodes[(n + 1) % 3], f"t{n}")
        yield running


@pytest.fixture
def faulty(panel: Panel) -> Iterator[Faulty]:
    with Faulty.before(panel) as proxy:
        yield proxy


@pytest.fixture
def alone() -> Iterator[Faulty]:
    """A server on plain http with no panel behind it: every answer is the test's."""
    with Faulty() as server:
        server.on("POST", "/api/admin/token", answer(200, {"access_token": "abc.def", "token_type": "bearer"}))
        yield server


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the client wanted to wait between its tries, in order. It does not wait."""
    wanted: list[float] = []
    monkeypatch.setattr(transport, "time", SimpleNamespace(sleep=wanted.append, time=time.time))
    return wanted


def client(panel: Panel | Faulty, ca: Panel | None = None, **more: Any) -> panel_client.Panel:
    options: dict[str, Any] = {"username": "admin", "password": SECRET, "timeout": 5, "retries": 2}
    if ca is not None:
        options["ca_path"] = ca.ca_path
    elif isinstance(panel, Panel):
        options["ca_path"] = panel.ca_path
    options.update(more)
    return panel_client.Panel(panel.url, **options)


def refused(kind: str, work: Any, *words: str) -> PanelError:
    with pytest.raises(PanelError) as caught:
        work()
    text = str(caught.value)
    assert caught.value.kind == kind, text
    for word in words:
        assert word in text
    assert text.endswith(PanelError.HINTS[kind])
    assert SECRET not in text
    assert text.isprintable()
    return caught.value
