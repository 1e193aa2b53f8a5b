# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The webhook: what it tells a real HTTP server, and when; with steps of the feed that a test makes, and once with a
panel and a simulated node."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from marzban_tunnels import webhook
from marzban_tunnels.feed import Step
from marzban_tunnels.live import Nothing
from marzban_tunnels.service import Tunnels
from marzban_tunnels.webhook import CA, SECRET, URL, Target, Webhook
from marzban_tunnels.webhook_queue import GATHER, KEEP, MOST, SETTLE, Pending
from tests.support import recipes, simulated_node
from tests.support.front import make_certificate
from tests.support.managed_panel import KEY, ManagedPanel, until
from tests.support.webhook_receiver import TOKEN, Receiver

KEY_OF_HOOK = "s" * 16 + "ecret-of-the-webhook"
EVENING = datetime(2026, 11, 30, 21, 0, 0)
FIELDS = {
    *("id", "uuid", "name", "type", "source", "target", "status", "before", "error", "symptom", "since", "at", "times")
}
BUSY = 3  # this machine may be busy


class FakeLive(Nothing):
    """FAKE manager: ``state`` is what it says it is."""

    state = "on"

    def manager_state(self) -> dict[str, Any]:
        return {"state": self.state, "detail": None}


class World:
    """A webhook, and the feed's steps for it."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.tunnels: Any = Tunnels.__new__(Tunnels)
        self.tunnels.live, self.tunnels.panel_id = FakeLive(), "0d1f3b52-7c9e-4c8e-9b0f-3a2d5e6f7a81"
        found = webhook.check(environ)
        assert found is not None
        self.hook = Webhook(self.tunnels, found)
        self.moment, self.records = EVENING, dict[int, dict[str, Any]]()
        self.engine = create_engine("sqlite://", poolclass=NullPool)  # without tables: nothing is known of before

    def written(self, path: Path, **statuses: str) -> None:
        """What the history has of each tunnel."""
        self.engine = create_engine(f"sqlite:///{path}", poolclass=NullPool)
        with self.engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE tunnels (id INTEGER, last_status TEXT)")
            for name, status in statuses.items():
                connection.exec_driver_sql("INSERT INTO tunnels VALUES (?, ?)", (int(name[1:]), status))

    def step(self, leads: Any = True, seconds: Any = 1, stale: Any = False, **statuses: str) -> None:
        """``t1="error"``: tunnel 1 has this status now."""
        self.moment += timedelta(seconds=seconds)
        told = {int(name[1:]): record(int(name[1:]), status, stale) for name, status in statuses.items()}
        self.records |= told
        nothing: frozenset[int] = frozenset()
        self.hook.step(Step(self.moment, self.records, frozenset(told), nothing, nothing, leads, self.engine))


def record(number: int, status: str, stale: bool = False) -> dict[str, Any]:
    """A tunnel as the API answers it, as far as it matters here, with what must not be told."""
    error = "no handshake" if status == "error" else None
    end = {"status": status, "error": error, "symptom": error and "no-answer", "stale": stale, "public": "PUBLIC"}
    return {
        "id": number, "uuid": f"u{number}", "name": f"t{number}", "tunnel_type": "wireguard", "config": "CONFIG",
        "source_node_name": "de-1", "target_node_name": "fi-1", "status": status, "stale": stale,
        "ends": [end, end | {"status": "active", "error": None}],
    }  # fmt: skip


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Shorter times; and whatever is logged, the URL's token and the secret are not in it."""
    monkeypatch.setattr("marzban_tunnels.webhook_queue.GATHER", 0.1)
    monkeypatch.setattr(webhook, "_LATEST", 0.05)
    with caplog.at_level(logging.DEBUG):
        yield
    said = "\n".join(f"{line.getMessage()} {line.exc_text}" for line in caplog.get_records("call"))
    assert TOKEN not in said
    assert KEY_OF_HOOK not in said


def environ(receiver: Receiver, **more: str) -> dict[str, str]:
    return {URL: receiver.url, SECRET: KEY_OF_HOOK, **more}


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the webhook has logged, after its first line."""
    said = [line.getMessage() for line in caplog.records if line.name == "uvicorn.error"]
    return [line.partition("the webhook at 127.0.0.1")[2].lstrip(": ") for line in said[1:]]


# What is sent


def test_what_arrives(receiver: Receiver) -> None:
    world = World(environ(receiver))
    world.step(t1="active", t2="active", t3="active")
    assert world.hook._thread is None, "there is nothing to tell"
    world.step(t1="error", t2="inactive")
    (message,) = until(lambda: receiver.messages)
    assert message.keys() == {"panel", "sent_at", "changes"}
    assert message["panel"] == world.tunnels.panel_id
    first, second = message["changes"]
    assert set(first) == FIELDS
    assert first == {
        "id": 1, "uuid": "u1", "name": "t1", "type": "wireguard", "source": "de-1", "target": "fi-1",
        "status": "error", "before": "active", "error": "no handshake", "symptom": "no-answer", "times": 1,
        "since": "2026-11-30T21:00:02Z", "at": "2026-11-30T21:00:02Z",
    }  # fmt: skip
    assert (second["status"], second["error"]) == ("inactive", None)
    headers = receiver.headers[0]
    assert headers["Content-Type"] == "application/json"
    assert abs(int(headers["Marzban-Timestamp"]) - time.time()) < 60
    text = receiver.bodies[0].decode()
    assert not [word for word in ("PUBLIC", "CONFIG", KEY_OF_HOOK, TOKEN) if word in text]
    assert not {"Authorization", "Cookie"} & headers.keys()


def test_the_check_of_a_signature_in_the_docs(receiver: Receiver) -> None:
    """The code in docs/webhook.md, as it is there."""
    found: dict[str, Any] = {}
    (code,) = recipes.read("webhook.md")["Check who sent it"].files.values()
    exec(code, found)
    world = World(environ(receiver))
    world.step(t1="active")
    world.step(t1="error")
    until(lambda: receiver.bodies)
    headers, body = receiver.headers[0], receiver.bodies[0]
    secret = KEY_OF_HOOK.encode()
    assert found["is_genuine"](secret, headers, body)
    assert not found["is_genuine"](b"x" * 32, headers, body)
    assert not found["is_genuine"](secret, headers, body + b" ")
    old = str(int(headers["Marzban-Timestamp"]) - 301)
    resent = headers | {"Marzban-Timestamp": old, "Marzban-Signature": "sha256=" + webhook.sign(secret, old, body)}
    assert not found["is_genuine"](secret, resent, body), "somebody sends it again"
    assert not found["is_genuine"](secret, headers | {"Marzban-Timestamp": old}, body)


def test_the_relay_in_the_docs(receiver: Receiver, tmp_path: Path) -> None:
    """As a process, between a webhook and what is STAND-IN here for Telegram: a failure there is sent again."""
    page = recipes.read("webhook.md")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    here = {"https://api.telegram.org/bot": f"{receiver.url.partition('/hook')[0]}/bot", "8765": port}
    for heading in ("Check who sent it", "To Telegram"):
        for name, text in page[heading].files.items():
            for example, real in here.items():
                text = text.replace(example, real)
            (tmp_path / name).write_text(text)
    env = os.environ | {"TUNNEL_WEBHOOK_SECRET": KEY_OF_HOOK, "BOT_TOKEN": "7:abc", "CHAT_ID": "42"}
    receiver.answers = [500]
    with subprocess.Popen([sys.executable, "relay.py"], cwd=tmp_path, env=env, stderr=subprocess.DEVNULL) as relay:
        try:
            until(lambda: listens(port))
            world = World({URL: f"http://127.0.0.1:{port}/", SECRET: KEY_OF_HOOK})
            world.step(t1="active", t2="active")
            world.step(t1="error", t2="inactive")
            until(lambda: len(receiver.bodies) == 2)
            until(lambda: world.hook._thread is None)
            forged = requests.post(f"http://127.0.0.1:{port}/", b"{}", headers={"Marzban-Timestamp": "1"}, timeout=10)
            assert forged.status_code == 403
        finally:
            relay.kill()
    assert receiver.paths == ["/bot7:abc/sendMessage"] * 2
    first, second = receiver.messages
    assert first == second
    assert first["chat_id"] == "42"
    assert first["text"].splitlines() == [
        "t1 (de-1 - fi-1): error, was active. no handshake",
        "t2 (de-1 - fi-1): inactive, was active. ",
    ]


def listens(port: str) -> bool:
    with socket.socket() as found:
        return found.connect_ex(("127.0.0.1", int(port))) == 0


def test_it_is_sent_again_until_it_is_taken(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    """In between the tunnel has changed again: that goes along, and nothing is told twice."""
    world = World(environ(receiver))
    world.step(t1="active", t2="active")
    gate = threading.Event()
    receiver.answers = [503, lambda: gate.wait(10), (429, {"Retry-After": "1"}), 200]
    world.step(t1="error", t2="error")
    until(lambda: len(receiver.bodies) == 2)
    world.step(t1="inactive")
    gate.set()
    until(lambda: len(receiver.bodies) == 4)
    until(lambda: not len(world.hook._pending))
    assert receiver.at[3] - receiver.at[2] >= 1, "as Retry-After asks for"
    told = [
        {change["id"]: (change["before"], change["status"], change["times"]) for change in message["changes"]}
        for message in receiver.messages
    ]
    first = {1: ("active", "error", 1), 2: ("active", "error", 1)}
    assert told == [first, first, *2 * [{1: ("active", "inactive", 2), 2: ("active", "error", 1)}]]
    until(lambda: len(lines(caplog)) == 2)
    assert lines(caplog) == ["it answered 503; it is tried again, for a day", "takes changes again"]


def test_what_is_refused_is_dropped_and_told_once(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    world = World(environ(receiver))
    world.step(t1="active", t2="active", t3="active")
    elsewhere = (302, {"Location": receiver.url})
    receiver.answers = [404, 404, elsewhere]
    for number in (1, 2, 3):
        world.step(**{f"t{number}": "error"})
        until(lambda number=number: len(receiver.bodies) == number)  # type: ignore[misc]
    until(lambda: len(lines(caplog)) == 2)
    assert lines(caplog) == [f"it answered {status}, so 1 changes are dropped" for status in (404, 302)]
    assert not len(world.hook._pending)
    assert len(receiver.bodies) == 3, "no redirect is followed"


def test_a_receiver_that_hangs_holds_up_nobody_else(
    receiver: Receiver, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "ANSWER", 0.2)
    world = World(environ(receiver))
    gate = threading.Event()
    world.step(**{f"t{number}": "active" for number in range(1, 1001)})
    receiver.answers = [lambda: gate.wait(10)]
    world.step(t1="error")
    until(lambda: receiver.bodies)
    begun = time.monotonic()
    world.step(**{f"t{number}": "error" for number in range(2, 1001)})
    assert time.monotonic() - begun < 0.1 * BUSY, "the feed's thread does not wait"
    until(lambda: len(receiver.changes) >= 1001)
    gate.set()
    assert {change["id"] for change in receiver.changes} == set(range(1, 1001))
    assert max(len(message["changes"]) for message in receiver.messages) == MOST
    assert "no answer within 0 s; it is tried again, for a day" in lines(caplog)


def test_tls_is_checked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_certificate(tmp_path, "hook")
    with Receiver(tmp_path, tls="hook") as receiver:
        strict = World(environ(receiver))
        strict.step(t1="active")
        strict.step(t1="error")
        until(lambda: lines(caplog))
        assert "its certificate or its TLS can't be used" in lines(caplog)[0]
        assert receiver.bodies == []
        trusting = World(environ(receiver, **{CA: str(tmp_path / "hook.crt")}))
        trusting.step(t1="active")
        trusting.step(t1="error")
        until(lambda: receiver.bodies)

        def over() -> bool:
            strict.hook._pending.forget(1)  # else it goes on trying
            return strict.hook._thread is None

        until(over)


def test_no_password_of_the_panels_user_is_sent(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password something\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    world = World(environ(receiver))
    world.step(t1="active")
    world.step(t1="error")
    until(lambda: receiver.bodies)
    until(lambda: world.hook._thread is None)
    assert "Authorization" not in receiver.headers[0]


# Who tells, and what


def test_a_panel_that_has_just_begun_tells_nothing_that_it_does_not_know(receiver: Receiver) -> None:
    """Before the nodes were asked, a tunnel is `connecting` because nobody knows better."""
    world = World(environ(receiver))
    world.step(t1="connecting", t2="connecting", t3="connecting", stale=True)
    world.step(t1="active", t2="error")
    world.step(seconds=webhook.BEGINNING)
    assert world.hook._known == {1: "active", 2: "error", 3: "connecting"}
    assert not len(world.hook._pending), "nothing was known of before"
    world.step(t3="active")
    until(lambda: receiver.bodies)
    assert [(change["id"], change["before"]) for change in receiver.changes] == [(3, "connecting")]


def test_one_process_tells(tmp_path: Path, receiver: Receiver) -> None:
    """The one whose manager works with the nodes; where none does, each that is not told that another one does."""
    world = World(environ(receiver))
    world.step(t1="active", leads=False)
    world.step(seconds=webhook.BEGINNING)
    world.tunnels.live.state = "elsewhere"
    world.step(t1="error", leads=False)
    assert not len(world.hook._pending)
    world.written(tmp_path / "panel.db", t1="error")
    world.step(t1="inactive", leads=True)
    until(lambda: receiver.bodies)
    world.tunnels.live.state = "off"  # runs only
    world.step(t2="active", leads=False)
    world.step(t2="error", leads=False)
    until(lambda: len(receiver.bodies) == 2)
    assert [(change["before"], change["status"]) for change in receiver.changes] == [
        ("error", "inactive"),
        ("active", "error"),
    ]


def test_a_manager_that_works_again_tells_only_what_is_different(tmp_path: Path, receiver: Receiver) -> None:
    """While the database was away it let go of the nodes, and the API said `connecting` of all tunnels."""
    world = World(environ(receiver))
    world.step(t1="active", t2="active")
    world.step(seconds=webhook.BEGINNING)
    world.tunnels.live.state = "elsewhere"
    world.step(t1="connecting", t2="connecting", stale=True, leads=False)
    world.step(seconds=30, leads=False)
    world.tunnels.live.state = "on"
    world.written(tmp_path / "panel.db", t1="active", t2="active")
    world.step()
    world.step(t1="active", t2="error")
    world.step(seconds=webhook.BEGINNING)
    until(lambda: receiver.bodies)
    assert [(change["id"], change["before"], change["status"]) for change in receiver.changes] == [
        (2, "active", "error")
    ]
    assert not len(world.hook._pending)


def one(panel: ManagedPanel, made: Any) -> Any:
    return panel.api.send("GET", f"/api/tunnels/{made['id']}")


def test_of_a_real_tunnel_until_after_a_restart(tmp_path: Path, receiver: Receiver) -> None:
    """A simulated node breaks a tunnel; then the panel is restarted, and it is well meanwhile."""
    settings = environ(receiver)
    with simulated_node.Nodes() as nodes:
        first, second = nodes.add("de-1"), nodes.add("fi-1")
        with ManagedPanel(tmp_path / "panel.db", environ=settings) as panel:
            panel.node(first), panel.node(second)
            made = panel.tunnel(first, second)
            until(lambda: one(panel, made)["status"] == "active")
            until(lambda: [change for change in receiver.changes if change["status"] == "active"])
            first.tunnels[made["uuid"]] |= {"status": "error", "error": "it is dead", "symptom": "dies"}
            until(lambda: one(panel, made)["status"] == "error")
            hook = next(item for item in panel.events.feed.listeners if isinstance(item, Webhook))
            until(lambda: len(hook._pending))
            assert len(receiver.messages) == 1, "the second message about a tunnel comes a minute after the first"
            end = one(panel, made)["ends"][0]
            assert (end["error"], end["symptom"]) == ("it is dead", "dies")
        del first.tunnels[made["uuid"]]["status"], first.tunnels[made["uuid"]]["error"]
        with ManagedPanel(tmp_path / "panel.db", environ=settings) as panel:
            until(lambda: one(panel, made)["status"] == "active")
            until(lambda: len(receiver.messages) == 2)
    assert [(change["before"], change["status"]) for change in receiver.changes][1] == ("error", "active")


# When it is told


def due(pending: Pending, now: float) -> list[tuple[int, str, str, int]]:
    """What is told at this moment."""
    if (moment := pending.due()) is None or moment > now:
        return []
    items = pending.take(now)
    pending.delivered(items, now)
    return [(item.change["id"], item.before, item.change["status"], item.times) for item in items]


def change(number: int, status: str) -> dict[str, Any]:
    return {"id": number, "status": status}


@pytest.fixture
def pending(monkeypatch: pytest.MonkeyPatch) -> Pending:
    monkeypatch.setattr("marzban_tunnels.webhook_queue.GATHER", GATHER)
    return Pending()


def test_what_comes_within_a_second_goes_together(pending: Pending) -> None:
    pending.put(change(1, "error"), "active", 0)
    pending.put(change(2, "error"), "active", 0.9)
    assert due(pending, 0.99) == []
    assert [item[0] for item in due(pending, 1)] == [1, 2]


def test_a_tunnel_that_comes_and_goes_is_held_and_told(pending: Pending) -> None:
    told = []
    status = "active"
    for second in range(301):
        before, status = status, "error" if status == "active" else "active"
        pending.put(change(1, status), before, second)
        told += [(second, *item) for item in due(pending, second)]
    assert [item[0] for item in told] == [1, 61, 121, 181, 241]
    assert [item[4] for item in told] == [2, 60, 60, 60, 60], "all changes are counted"
    assert [item.times for item in pending.take(301)] == [59]


def test_connecting_is_told_when_it_lasts(pending: Pending) -> None:
    """Each change of a record leads through it."""
    pending.put(change(1, "connecting"), "active", 0)
    assert due(pending, SETTLE - 0.1) == []
    pending.put(change(1, "active"), "connecting", SETTLE - 0.1)
    assert due(pending, 2 * SETTLE) == []
    assert len(pending) == 0
    pending.put(change(1, "connecting"), "active", 2 * SETTLE)
    pending.put(change(1, "active"), "connecting", 2 * SETTLE + 1)
    assert due(pending, 2 * SETTLE + 1) == [(1, "active", "active", 2)], "again, within a minute"
    pending.put(change(1, "connecting"), "active", 100)
    assert due(pending, 100 + SETTLE) == [(1, "active", "connecting", 1)], "it lasts"


def test_what_could_not_be_delivered_is_dropped_after_a_day(pending: Pending) -> None:
    pending.put(change(1, "error"), "active", 0)
    items = pending.take(1)
    assert pending.put_back(items, KEEP) == 0
    pending.put(change(1, "active"), "error", KEEP)
    (item,) = pending.take(KEEP)
    assert (item.before, item.change["status"], item.times) == ("active", "active", 2), "it may have arrived"
    assert pending.put_back([item], KEEP + 1) == 1
    assert len(pending) == 0


def test_a_deleted_tunnel_is_forgotten(pending: Pending) -> None:
    pending.put(change(1, "error"), "active", 0)
    pending.forget(1)
    assert pending.due() is None


# What the environment may say


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://hooks.example.com/x", None),
        ("https://hooks.example.com:8443/x?token=y", None),
        ("http://127.0.0.1:8080/", None),
        ("http://localhost/x", None),
        ("http://10.1.2.3/x", None),
        ("http://[fd00::1]/x", None),
        ("http://hooks.example.com/x", "it is http"),
        ("http://8.8.8.8/x", "it is http"),
        ("https://user:pass@hooks.example.com/x", "user or a password"),
        ("ftp://hooks.example.com/x", "not a URL"),
        ("hooks.example.com", "not a URL"),
        ("https://", "not a URL"),
        ("https://hooks.example.com:99999/", "not a URL"),
        ("https://[::1/", "not a URL"),
        ("https://hooks.example.com/a b", "spaces"),
        ("https://hooks.example.com/" + "x" * 2048, "2048 characters"),
    ],
)
def test_which_urls_can_be_used(url: str, why: str | None) -> None:
    found = webhook.check({URL: url, SECRET: KEY_OF_HOOK})
    if why is None:
        assert isinstance(found, Target)
        assert url not in repr(found)
        return
    assert isinstance(found, str)
    assert why in found
    assert "/x" not in found
    assert "pass@" not in found


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({SECRET: ""}, f"{SECRET} can't be used: it is empty"),
        ({SECRET: "short"}, "it has 5 characters and needs at least 32"),
        ({"NODE_API_KEY": KEY_OF_HOOK}, "another key of this panel"),
        ({"TUNNEL_METRICS_KEY": KEY_OF_HOOK}, "another key of this panel"),
        ({CA: "/nowhere"}, f"{CA} can't be used: No such file or directory"),
        ({CA: __file__}, "it has no certificate"),
        ({URL: ""}, f"{SECRET} is set, and {URL} is not"),
    ],
)
def test_what_is_wrong_is_told_and_stops_nothing(
    more: dict[str, str], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {URL: "https://hooks.example.com/x", SECRET: KEY_OF_HOOK, **more}
    world = World(settings)
    assert world.hook.needs(), "until it has been told"
    world.step(t1="active")
    world.step(t1="error")
    assert not world.hook.needs()
    (line,) = (line.getMessage() for line in caplog.records if line.name == "uvicorn.error")
    assert why in line
    assert world.hook._thread is None


def test_without_settings_there_is_nothing() -> None:
    assert webhook.check({}) is None
    assert webhook.check({"NODE_API_KEY": KEY}) is None
