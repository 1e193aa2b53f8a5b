# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The panel's client against a server that misbehaves."""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import Any

import pytest

from ansible_collections.marzban.tunnels.plugins.module_utils._errors import PanelError
from ansible_collections.marzban.tunnels.plugins.module_utils._panel import client as panel_client
from ansible_collections.marzban.tunnels.plugins.module_utils._panel import transport
from tests.integration.client.conftest import SECRET, client, refused
from tests.support.faulty import Answer, Faulty, Request, answer, drop
from tests.support.panel import Panel


def test_get_is_tried_again_and_then_told(faulty: Faulty, panel: Panel) -> None:
    faulty.on("GET", "/api/nodes", answer(500, "Internal Server Error", "text/plain"), times=1)
    faulty.on("GET", "/api/nodes", drop, times=1)
    assert len(client(faulty, panel).nodes()) == 3
    assert faulty.seen("GET", "/api/nodes") == 3
    faulty.on("GET", "/api/nodes", answer(500, "Internal Server Error", "text/plain"))
    refused("bad_answer", client(faulty, panel).nodes, "500", "Internal Server Error")
    assert faulty.seen("GET", "/api/nodes") == 6


def test_the_login_is_tried_again(faulty: Faulty, panel: Panel, waits: list[float]) -> None:
    faulty.on("POST", "/api/admin/token", answer(503, "restarting", "text/plain"), times=1)
    faulty.on("POST", "/api/admin/token", drop, times=1)
    assert len(client(faulty, panel).nodes()) == 3
    assert faulty.seen("POST", "/api/admin/token") == 3
    assert len(waits) == 2


@pytest.mark.parametrize("status", [401, 422])
def test_a_login_that_is_refused_is_not_tried_again(alone: Faulty, waits: list[float], status: int) -> None:
    alone.behave()
    alone.on("POST", "/api/admin/token", answer(status, {"detail": "no"}))
    refused("login", client(alone).nodes, str(status))
    assert alone.seen("POST", "/api/admin/token") == 1
    assert waits == []


@pytest.mark.parametrize("rule", [answer(503, {"detail": "busy"}), drop], ids=["503", "reset"])
def test_each_wait_is_longer_up_to_a_limit(alone: Faulty, waits: list[float], rule: Any) -> None:
    alone.on("GET", "/api/nodes", rule)
    refused("unreachable", client(alone, retries=7).nodes)
    assert alone.seen("GET", "/api/nodes") == 8
    for wait, about in zip(waits, [0.3, 0.6, 1.2, 2.4, 4.8, 8, 8], strict=True):
        assert 0.8 * about <= wait <= 1.2 * about


@pytest.mark.parametrize("path", ["/api/admin/token", "/api/node"])
def test_a_post_that_was_not_looked_at_is_sent_again(faulty: Faulty, panel: Panel, waits: Any, path: str) -> None:
    faulty.on("POST", path, answer(429, {"detail": "slow down"}, Retry_After="7"), times=1)
    faulty.on("POST", path, answer(429, {"detail": "slow down"}, Retry_After=formatdate(time.time() + 20)), times=1)
    asked = client(faulty, panel)
    asked.delete_node(asked.create_node({"name": "once", "address": "203.0.113.98"})["id"])
    assert faulty.seen("POST", path) == 3
    assert waits[0] == 7
    assert 10 <= waits[1] <= 20


@pytest.mark.parametrize("status", [401, 403])
def test_a_firewall_before_the_panel_is_not_the_panel(alone: Faulty, status: int) -> None:
    """It does not say that the login is wrong, nor that another admin would help."""
    alone.on("GET", "/api/nodes", answer(status, "<html>Attention Required!", "text/html"))
    words = ("a page of HTML", "Not the panel answered, but something before it", "let the API's calls pass")
    error = refused("not_panel", client(alone).nodes, str(status), *words)
    assert "sudo" not in str(error)


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_proxy_without_its_panel(alone: Faulty, status: int) -> None:
    alone.on("GET", "/api/nodes", answer(status, "<html>bad gateway", "text/html"))
    refused("unreachable", client(alone, retries=1).nodes, str(status), "a page of HTML")
    assert alone.seen("GET", "/api/nodes") == 2


@pytest.mark.parametrize(
    ("detail", "kind"),
    [
        ("The tunnels could not be started with this panel: its log says why", "not_started"),
        ("The database is busy: try again in a few seconds", "database_busy"),
        ("some proxy's own words", "unreachable"),
        ({"detail": "The database is busy"}, "unreachable"),
    ],
)
def test_a_panel_that_answers_what_it_lacks(alone: Faulty, detail: object, kind: str) -> None:
    """The hint is not to look whether the panel can be reached."""
    alone.on("GET", "/api/tunnels", answer(503, {"detail": detail}))
    refused(kind, client(alone, retries=0).tunnels, "503")


def test_many_ends_are_reported_in_several_calls(faulty: Faulty, panel: Panel) -> None:
    """A panel serves nobody else while it writes one."""
    keys = [
        {"uuid": f"0d1f3b52-7c9e-4c8e-9b0f-{number:012d}", "node": "nowhere", "public": {"public_key": "A" * 42 + "E="}}
        for number in range(1001)
    ]
    assert client(faulty, panel).post_keys([])[0] == 0
    assert faulty.seen("POST", "/api/tunnels/keys") == 1
    updated, rejected = client(faulty, panel).post_keys(keys)
    assert faulty.seen("POST", "/api/tunnels/keys") == 3
    assert updated == 0
    assert [item["uuid"] for item in rejected] == [key["uuid"] for key in keys]


def test_a_create_is_not_sent_twice(faulty: Faulty, panel: Panel) -> None:
    faulty.on("POST", "/api/node", drop)
    refused(
        "unreachable", lambda: client(faulty, panel).create_node({"name": "x", "address": "y"}), "POST", "/api/node"
    )
    assert faulty.seen("POST", "/api/node") == 1
    faulty.behave()
    faulty.on("POST", "/api/node", answer(503, {"detail": "busy"}))
    refused("unreachable", lambda: client(faulty, panel).create_node({"name": "x", "address": "y"}), "503")
    assert faulty.seen("POST", "/api/node") == 2


def test_an_update_by_version_is_not_sent_twice(faulty: Faulty, panel: Panel) -> None:
    faulty.on("PUT", "/api/tunnels/1", drop)
    refused("unreachable", lambda: client(faulty, panel).update_tunnel(1, {"name": "x"}, 1))
    assert faulty.seen("PUT", "/api/tunnels/1") == 1


def test_a_delete_whose_answer_was_lost_is_done(faulty: Faulty, panel: Panel) -> None:
    number = panel.add_node("short-lived", "203.0.113.99")["id"]

    def does_it_and_breaks_off(request: Request) -> Answer:
        faulty.forward(request)
        return drop(request)

    faulty.on("DELETE", f"/api/node/{number}", does_it_and_breaks_off, times=1)
    client(faulty, panel).delete_node(number)
    assert faulty.seen("DELETE", f"/api/node/{number}") == 2
    assert "short-lived" not in [node["name"] for node in panel.call("GET", "/api/nodes")]


def test_retry_after_is_followed(faulty: Faulty, panel: Panel) -> None:
    faulty.on("GET", "/api/nodes", answer(429, {"detail": "slow down"}, Retry_After="1"), times=1)
    begin = time.monotonic()
    assert len(client(faulty, panel).nodes()) == 3
    assert time.monotonic() - begin >= 1


def test_a_long_retry_after_is_told_at_once(alone: Faulty) -> None:
    alone.on("GET", "/api/nodes", answer(429, {"detail": "slow down"}, Retry_After="86400"))
    refused("busy", client(alone).nodes, "429", "slow down")
    assert alone.seen("GET", "/api/nodes") == 1


def test_no_redirect_is_followed(alone: Faulty) -> None:
    with Faulty() as other:
        for status in (301, 302, 303, 307, 308):
            alone.behave()
            alone.on("POST", "/api/admin/token", answer(200, {"access_token": "abc.def"}))
            alone.on("GET", "/api/nodes", answer(status, "", "text/plain", Location=other.url + "/api/nodes"))
            refused("bad_answer", client(alone).nodes, str(other.url), "redirect")
        alone.behave()
        alone.on("POST", "/api/admin/token", answer(307, "", "text/plain", Location=other.url + "/api/admin/token"))
        refused("bad_answer", client(alone).nodes, "redirect")
        assert other.requests == []


def test_a_server_that_refuses_the_connection() -> None:
    with Faulty() as gone:
        url = gone.url
    with pytest.raises(PanelError, match=r"no answer \(connection refused\)") as caught:
        panel_client.Panel(url, "admin", SECRET, retries=1, timeout=2).nodes()
    assert caught.value.kind == "unreachable"


def test_a_name_that_does_not_exist() -> None:
    quick = panel_client.Panel("https://panel.invalid:8000", "admin", SECRET, retries=0, timeout=5)
    refused("unreachable", quick.nodes, "panel.invalid")


def test_a_panel_that_never_answers(alone: Faulty) -> None:
    def sleeps(request: Request) -> Answer:
        time.sleep(3)  # longer than the client waits
        return drop(request)

    alone.on("GET", "/api/nodes", sleeps)
    refused("unreachable", client(alone, timeout=1, retries=0).nodes, "nothing within 1 s")


@pytest.mark.parametrize(
    "rule",
    [
        answer(200, b"{", "application/json"),
        answer(200, b"\xff\xfe", "application/json"),
        answer(200, b"[" * 200_000, "application/json"),
        answer(200, b"1" * 10_000, "application/json"),
        answer(200, {"nodes": []}),
        answer(200, [1, 2]),
        answer(200, None),
        answer(200, "<html>", "text/html"),
        answer(204, b""),
        answer(418, {"detail": {"a": "\u202e\x1b[31m" * 1000}}),
        answer(418, {"detail": [{"loc": ["body", 1], "msg": "bad"}, 5]}),
        answer(418, [[]]),
    ],
)
def test_answers_that_are_none(alone: Faulty, rule: Any) -> None:
    alone.on("GET", "/api/nodes", rule)
    error = refused("bad_answer", client(alone, retries=0).nodes, "GET ", "/api/nodes answered")
    assert len(str(error)) < 1200


def test_an_answer_without_end(alone: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MAX_ANSWER", 2**20)
    alone.on("GET", "/api/nodes", answer(200, b"[" + b" " * 2**21 + b"]", "application/json"))
    refused("bad_answer", client(alone).nodes, "more than 1 MiB")


def test_an_echo_of_the_password_is_not_passed_on(alone: Faulty) -> None:
    alone.behave()
    alone.on("POST", "/api/admin/token", answer(401, {"detail": f"wrong: {SECRET}"}))
    refused("login", client(alone).nodes, "wrong: ********")


@pytest.mark.parametrize("token", [None, 5, "", "a\nb", "ü", "x" * 9000])
def test_a_token_that_is_none(alone: Faulty, token: Any) -> None:
    alone.behave()
    alone.on("POST", "/api/admin/token", answer(200, {"access_token": token}))
    refused("bad_answer", client(alone).nodes, "without a token")
