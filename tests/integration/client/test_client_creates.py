# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The client creates many tunnels: in how many requests, and what it takes from their answers. The panel behind is a
real one; what no panel of ours would answer, and an older one's header, is FAKED by a proxy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from typing import Any

import pytest

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import PanelError
from ansible_collections.marzban.tunnels.plugins.module_utils._panel import client as panel_client
from marzban_tunnels import schemas
from tests.integration.client.conftest import client, refused
from tests.integration.client.test_client_versions import of_version
from tests.support.faulty import Answer, Faulty, Request, drop
from tests.support.panel import Panel

PATH = "/api/tunnels/bulk"


@pytest.fixture(autouse=True)
def only_three(panel: Panel) -> Iterator[None]:
    """The panel has three tunnels after each test too."""
    before = {tunnel["id"] for tunnel in panel.call("GET", "/api/tunnels")}
    yield
    for tunnel in panel.call("GET", "/api/tunnels?limit=1000"):
        if tunnel["id"] not in before:
            panel.call("DELETE", f"/api/tunnels/{tunnel['id']}")


def bodies(*names: str, config: str = "{}", target: int = 2) -> list[Any]:
    body = {"source_node_id": 1, "target_node_id": target, "tunnel_type": "wireguard", "config": config}
    return [{**body, "name": name} for name in names]


def sizes(sender: panel_client.Panel, new: list[Any]) -> list[int]:
    """How many tunnels go into each request; all of them do, in their order."""
    batches = list(sender.batches(new))
    assert list(chain(*batches)) == new
    return [len(batch) for batch in batches]


def test_how_many_go_into_a_request(panel: Panel) -> None:
    assert schemas.CREATES == panel_client.CREATES
    new = bodies(*(f"b{number}" for number in range(205)))
    assert sizes(client(panel, timeout=600), new) == [100, 100, 5]
    assert sizes(client(panel, timeout=10), new) == [50, 50, 50, 50, 5]
    assert sizes(client(panel, timeout=4), new[:50]) == [20, 20, 10]
    assert sizes(client(panel, timeout=1), new[:7]) == [5, 2]
    assert sizes(client(panel), []) == []


def test_a_request_is_small_enough_for_a_proxy(panel: Panel) -> None:
    large = json.dumps({"note": "\\" * 30_000})
    new = bodies(*(f"b{number}" for number in range(13)), config=large)
    sender = client(panel)
    batches = list(sender.batches(new))
    assert max(len(json.dumps({"tunnels": batch})) for batch in batches) < 2**20
    assert 1 < len(batches[0]) < len(new)
    assert [len(sender.create_tunnels(batch)) for batch in batches] == [len(batch) for batch in batches]


@pytest.mark.parametrize("version", [None, "1", "2"])
def test_an_older_panel_gets_one_after_the_other(faulty: Faulty, panel: Panel, version: str | None) -> None:
    of_version(faulty, version)
    sender = client(faulty, panel)
    new = bodies("b1", "b2", "b3")
    assert sizes(sender, new) == [1, 1, 1]
    assert [sender.create_tunnels(batch)[0]["name"] for batch in sender.batches(new)] == ["b1", "b2", "b3"]  # type: ignore[index]
    assert faulty.seen("POST", "/api/tunnels") == 3
    assert faulty.seen("POST", PATH) == 0


def test_a_newer_panel_gets_them_together(faulty: Faulty, panel: Panel) -> None:
    of_version(faulty, "4")
    assert sizes(client(faulty, panel), bodies("b1", "b2")) == [2]


@pytest.mark.parametrize("alone", [False, True])
def test_a_refusal_has_its_kind_and_place(faulty: Faulty, panel: Panel, alone: bool) -> None:
    sender = client(faulty, panel)
    new = [
        *bodies("t0", "b1", "b1"),
        *bodies("b2", config='{"mtu": 1}'),
        *bodies("b3", target=99),
        *bodies("b4", target=1),
        *bodies("b5"),
    ]
    answers = list(chain(*(sender.create_tunnels([body]) for body in new))) if alone else sender.create_tunnels(new)
    kinds = [answer.kind if isinstance(answer, PanelError) else answer["name"] for answer in answers]
    assert kinds == ["conflict", "b1", "conflict", "invalid", "not_found", "invalid", "b5"]
    for place, status, words in ((0, 409, 'name: "t0" is the name of tunnel 1'), (3, 422, "config.mtu: ")):
        error = answers[place]
        assert isinstance(error, PanelError)
        assert f"POST {faulty.url}/api/tunnels{'' if alone else '/bulk'} answered {status}: {words}" in str(error)
        assert str(error).endswith(PanelError.HINTS[error.kind])
        assert error.status == status
    assert faulty.seen("POST", PATH) == (0 if alone else 1)


def test_a_refusal_of_all_of_them(faulty: Faulty, panel: Panel) -> None:
    new = bodies("b1", "b2")
    sender = client(faulty, panel)
    new[0]["name"] = "b" * 17 * 2**20
    refused("bad_answer", lambda: sender.create_tunnels(new), "answered 413: ")
    refused("login", lambda: client(faulty, panel, username="", token="old").create_tunnels(new[1:] * 2), "401")


def test_a_pool_that_is_used_up(faulty: Faulty, panel: Panel) -> None:
    headers = {"Content-Type": "application/json", "Marzban-Panel-Id": panel_id(panel)}
    detail = {"detail": "No address is left in the pool 10.201.0.0/30"}
    faulty.on("POST", "/api/tunnels", lambda request: Answer(507, json.dumps(detail).encode(), headers))
    (error,) = client(faulty, panel).create_tunnels(bodies("b1"))
    assert isinstance(error, PanelError)
    assert (error.kind, error.status) == ("full", 507)
    assert "No address is left in the pool" in str(error)


def panel_id(panel: Panel) -> str:
    sender = client(panel)
    sender.tunnels()
    return sender.id


def test_they_are_not_sent_twice(faulty: Faulty, panel: Panel) -> None:
    def does_it_and_breaks_off(request: Request) -> Answer:
        faulty.forward(request)
        return drop(request)

    faulty.on("POST", PATH, does_it_and_breaks_off)
    sender = client(faulty, panel)
    refused("unreachable", lambda: sender.create_tunnels(bodies("b1", "b2")), "POST", PATH)
    assert faulty.seen("POST", PATH) == 1
    assert [tunnel["name"] for tunnel in sender.tunnels()] == ["t0", "t1", "t2", "b1", "b2"]
    faulty.behave()
    answers = sender.create_tunnels(bodies("b1", "b2", "b3"))
    assert [isinstance(answer, PanelError) and answer.kind for answer in answers] == ["conflict", "conflict", False]


STRANGE: list[Any] = [
    [],
    {},
    {"tunnels": [{}, {}]},
    {"tunnels": {}, "rejected": []},
    {"tunnels": [{}], "rejected": []},
    {"tunnels": [{}, {}, {}], "rejected": []},
    {"tunnels": [{}, None], "rejected": []},
    {"tunnels": [{}, 5], "rejected": [5]},
    {"tunnels": [{}, None], "rejected": [{"index": 1, "detail": "no"}]},
    {"tunnels": [{}, None], "rejected": [{"index": "1", "status": 409, "detail": "no"}]},
    {"tunnels": [{}, None], "rejected": [{"index": True, "status": 409, "detail": "no"}]},
    {"tunnels": [{}, None], "rejected": [{"index": 2, "status": 409, "detail": "no"}]},
    {"tunnels": [{}, {}], "rejected": [{"index": 1, "status": 409, "detail": "no"}]},
    {"tunnels": [{}, None], "rejected": [{"index": 1, "status": 409, "detail": "no"}] * 2},
]


@pytest.mark.parametrize("said", STRANGE, ids=json.dumps)
def test_an_answer_that_is_not_one_for_each(faulty: Faulty, panel: Panel, said: Any) -> None:
    headers = {"Content-Type": "application/json", "Marzban-Panel-Id": panel_id(panel)}
    faulty.on("POST", PATH, lambda request: Answer(200, json.dumps(said).encode(), headers))
    refused("bad_answer", lambda: client(faulty, panel).create_tunnels(bodies("b1", "b2")), "that is not an ")


@pytest.mark.parametrize("detail", [None, 5, [], {}, {"config": {"mtu": 1}}, "\x00\u202e" * 2000, {"\n": "\n"}])
def test_a_refusal_in_any_words(faulty: Faulty, panel: Panel, detail: Any) -> None:
    headers = {"Content-Type": "application/json", "Marzban-Panel-Id": panel_id(panel)}
    said = {"tunnels": [{}, None], "rejected": [{"index": 1, "status": 404, "detail": detail, "more": 1}]}
    faulty.on("POST", PATH, lambda request: Answer(200, json.dumps(said).encode(), headers))
    made, error = client(faulty, panel).create_tunnels(bodies("b1", "b2"))
    assert made == {}
    assert isinstance(error, PanelError)
    assert str(error).isprintable()
    assert len(str(error)) < 1000
