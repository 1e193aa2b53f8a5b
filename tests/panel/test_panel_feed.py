# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The feed, whose steps and clocks are these tests' own, and streams over an hour of such a clock."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import tracemalloc
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, insert
from sqlalchemy.orm import Session

from marzban_tunnels.feed import Step
from marzban_tunnels.live import Nothing
from marzban_tunnels.node_access import check_key
from marzban_tunnels.schemas import Reports, TunnelCreate, TunnelUpdate
from marzban_tunnels.settings import Settings
from marzban_tunnels.standalone.admins import Admins
from marzban_tunnels.standalone.app import build
from marzban_tunnels.standalone.database import Database
from marzban_tunnels.standalone.tables import Node
from tests.support.event_stream import PATH
from tests.support.managed_pair import copied
from tests.support.managed_panel import NoLines


class Said(Nothing):
    """STAND-IN for the manager: what each node says is what a test puts here."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: dict[tuple[str, str], dict[str, Any]] = {}

    def end(self, uuid: str, role: str) -> dict[str, Any] | None:
        return self.ends.get((uuid, role))

    def says(self, tunnel: Any, status: str = "active", **fields: Any) -> None:
        for role in ("source", "target"):
            told = {"status": status, "error": None, "measured": {"rtt_ms": 1.0}, "age": 0, "version": 1}
            self.ends[tunnel["uuid"], role] = told | fields


class Keeper:
    """Of all steps."""

    def __init__(self, steps: list[Step]) -> None:
        self._steps = steps

    def step(self, step: Step) -> None:
        self._steps.append(step)


def differs(step: Step) -> dict[str, set[int]]:
    """What a step has, without what is empty."""
    found = {"told": step.told, "measured": step.measured, "deleted": step.deleted}
    return {name: set(numbers) for name, numbers in found.items() if numbers}


class Panel:
    """One without a server. ``step`` looks, ``seconds`` later by its own clock."""

    def __init__(self, path: Path) -> None:
        self.database = Database(str(path))
        admins = Admins(self.database, 0)
        self.app, _manager, self.events = build(
            self.database, admins, Settings.from_env({}), check_key(None), NoLines(None), "", "/dashboard/"
        )
        self.feed = self.events.feed
        self.tunnels = self.feed.tunnels
        self.tunnels.live = self.live = Said()
        self.at, self.begun = 1000.0, datetime(2026, 11, 30, 12)
        self.feed.clock = self.events.clock = lambda: self.at
        self.feed.now = lambda: self.begun + timedelta(seconds=int(self.at))
        self.steps: list[Step] = []
        self.feed.add(Keeper(self.steps), lambda: True)
        with Session(self.database.engine) as session:
            ports: dict[str, Any] = {"port": 1, "api_port": 2, "status": "connected"}
            rows = [{"name": f"node-{number}", "address": f"192.0.2.{number}", **ports} for number in range(1, 6)]
            session.execute(insert(Node), rows)
            session.commit()

    def made(self, number: int = 1) -> list[Any]:
        with Session(self.database.engine) as session:
            return [
                self.tunnels.create(
                    session,
                    TunnelCreate(source_node_id=1 + item % 4, target_node_id=5, tunnel_type="wireguard"),
                )
                for item in range(number)
            ]

    def report(self, tunnel: Any, status: str = "active", **fields: Any) -> None:
        told = {"uuid": tunnel["uuid"], "node": tunnel["source_node_name"], "version": 1, "status": status}
        with Session(self.database.engine) as session:
            self.tunnels.store_reports(session, Reports.model_validate({"reports": [told | fields]}))

    def step(self, seconds: float = 0.0) -> Step:
        self.at += seconds
        self.feed.step()
        return self.steps[-1]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with all tables and an admin, which cost more than a copy."""
    path = tmp_path_factory.mktemp("tables") / "panel.db"
    with Database(str(path)) as database:
        database.upgrade()
        Admins(database, 0).put("admin", "password", is_sudo=True)
    return path


@pytest.fixture
def panel(tables: Path, tmp_path: Path) -> Iterator[Panel]:
    panel = Panel(copied(tables, tmp_path / "panel.db"))
    yield panel
    panel.database.engine.dispose()


def test_what_differs_is_told_once(panel: Panel) -> None:
    one, two = panel.made(2)
    first = panel.step()
    assert differs(first) == {"told": {one["id"], two["id"]}}
    assert (first.first, first.nodes) == (True, True)
    assert first.records == {tunnel["id"]: tunnel for tunnel in (one, two)}
    second = panel.step(seconds=5)
    assert not any((second.told, second.measured, second.deleted, second.nodes, second.first))
    panel.report(one, "error", error="no answer")
    told = panel.step()
    assert differs(told) == {"told": {one["id"]}, "measured": {one["id"]}}
    assert set(told.measured_ends) == {(one["id"], "source")}
    assert told.records[one["id"]]["status"] == "error"
    with Session(panel.database.engine) as session:
        panel.tunnels.delete(session, two["id"], None)
    gone = panel.step()
    assert differs(gone) == {"deleted": {two["id"]}}
    assert set(gone.records) == {one["id"]}
    assert two["id"] in told.records, "a step stays as it was"


def test_what_a_node_says_is_looked_at_where_it_is_touched(panel: Panel) -> None:
    one, two = panel.made(2)
    panel.step()
    panel.live.says(one)
    panel.live.says(two)
    panel.feed.touch([one["uuid"]])
    assert (told := panel.step()).told == {one["id"]}
    assert told.records[one["id"]]["status"] == "active"
    panel.live.says(one)
    panel.feed.touch([one["uuid"], "unknown"])
    assert differs(panel.step(seconds=5)) == {"measured": {one["id"]}}, "measured again, five seconds later"
    panel.live.says(one, age=1)
    panel.feed.touch([one["uuid"]])
    assert not panel.step(seconds=1).measured, "the same measurement, a second older"
    assert panel.step(seconds=60).told == {two["id"]}, "each is looked at after a minute, whatever was touched"


def test_what_changes_by_time_alone_is_told_in_time(panel: Panel) -> None:
    one, two = panel.made(2)
    panel.report(one)
    panel.live.says(two)
    panel.begun += datetime.fromisoformat(one["created_at"]) - panel.feed.now()  # the report has the real time
    begun = panel.at
    panel.step()
    found: dict[int, float] = {}
    while len(found) < 2 and panel.at < begun + 400:
        panel.live.says(two, age=int(panel.at + 1 - begun))
        for number in panel.step(seconds=1).told:
            found[number] = panel.at - begun
            assert panel.steps[-1].records[number]["stale"]
    assert found[two["id"]] == 23, "more than 22 s, and nobody touched it"
    assert 300 < found[one["id"]] <= 303


def test_rows_are_read_again_only_where_something_has_changed(panel: Panel) -> None:
    tunnels = panel.made(30)
    panel.report(tunnels[3])  # from then on its status is the same
    panel.step()
    asked: list[str] = []
    event.listen(panel.database.engine, "before_cursor_execute", lambda *told: asked.append(told[2]))

    def counted() -> tuple[int, int]:
        """Statements of a step, and those that read rows of tunnels as a whole."""
        asked.clear()
        panel.step()
        return sum(text.startswith("SELECT") for text in asked), sum("tunnels.config" in text for text in asked)

    panel.feed.touch([tunnels[0]["uuid"]])
    assert counted() == (0, 0)
    panel.feed.touch()
    assert counted() == (2, 0)
    panel.report(tunnels[3], measured={"rtt_ms": 1.0})
    assert counted() == (4, 0)
    with Session(panel.database.engine) as session:
        panel.tunnels.update(session, tunnels[4]["id"], TunnelUpdate(name="another"), None)
    assert counted() == (7, 1)
    assert panel.steps[-1].told == {tunnels[4]["id"]}


def test_a_step_that_fails_loses_nothing(panel: Panel, caplog: pytest.LogCaptureFixture) -> None:
    (one,) = panel.made()
    panel.step()
    reads = panel.feed._known.kept.revision
    panel.report(one)
    panel.live.says(one)
    panel.feed.touch([one["uuid"]], nodes=True)

    def away(session: Session) -> Any:
        raise TimeoutError("the database is away")

    panel.feed._known.kept.revision = away  # type: ignore[method-assign]
    with pytest.raises(TimeoutError):
        panel.step()
    panel.feed._known.kept.revision = reads  # type: ignore[method-assign]
    told = panel.step()
    assert (set(told.told), told.nodes) == ({one["id"]}, True)

    class Broken:
        def step(self, step: Step) -> None:
            raise ValueError("a mistake")

    panel.feed.listeners.insert(0, Broken())
    for _ in range(3):
        assert panel.step() is panel.steps[-1]
    assert len(panel.steps) == 5
    assert len(caplog.records) == 1, "one in a minute"


def test_nobody_needs_it(panel: Panel) -> None:
    assert panel.feed.needed()
    panel.feed.needs[-1] = lambda: False
    assert not panel.feed.needed()
    panel.made(2)
    panel.step()
    panel.feed.start()
    try:
        deadline = 100
        while not panel.feed._known.first and deadline:
            panel.feed.wake()
            threading.Event().wait(0.05)
            deadline -= 1
        assert panel.feed._known.first, "nothing is kept"
        assert len(panel.steps) == 1
    finally:
        panel.feed.stop()


@pytest.mark.variation
def test_fifty_pages_for_an_hour(panel: Panel) -> None:
    tunnels = panel.made(20)
    asyncio.run(_hour(panel, tunnels, _token(panel)))


def _token(panel: Panel) -> str:
    found: list[bytes] = []

    async def ask() -> None:
        body = b"username=admin&password=password"
        kind = (b"content-type", b"application/x-www-form-urlencoded")
        await _call(panel.app, "POST", "/api/admin/token", [kind], body, found.append)

    asyncio.run(ask())
    return str(json.loads(b"".join(found))["access_token"])


async def _call(app: Any, method: str, path: str, headers: Any, body: bytes, got: Any) -> None:
    """What uvicorn does with one request. The client stays."""
    sent = False

    async def receive() -> Any:
        nonlocal sent
        if sent:
            await asyncio.Event().wait()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            got(message.get("body", b""))
        else:
            assert message["status"] == 200, message

    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": path,
             "raw_path": path.encode(), "root_path": "", "query_string": b"", "headers": headers, "scheme": "http",
             "client": ("192.0.2.1", 1), "server": ("192.0.2.2", 80)}  # fmt: skip
    await app(scope, receive, send)


class _Client:
    """Counts what it gets, and keeps nothing."""

    def __init__(self) -> None:
        self.events: dict[bytes, int] = {}

    def __call__(self, part: bytes) -> None:
        for line in part.split(b"\n"):
            if line.startswith(b"event: "):
                self.events[line[7:]] = self.events.get(line[7:], 0) + 1


async def _hour(panel: Panel, tunnels: list[Any], token: str) -> None:
    looked: list[str] = []

    def count(*told: Any) -> None:
        if "FROM admins" in told[2]:
            looked.append(told[2])

    event.listen(panel.database.engine, "before_cursor_execute", count)
    clients = [_Client() for _ in range(50)]
    headers = [(b"authorization", f"Bearer {token}".encode())]
    open_ones = [asyncio.create_task(_call(panel.app, "GET", PATH, headers, b"", client)) for client in clients]
    while any(not client.events for client in clients):
        panel.step()
        await asyncio.sleep(0.01)
    looked.clear()
    lasting, sizes, threads = asyncio.all_tasks(), [], []
    tracemalloc.start()
    for second in range(3600):
        tunnel = tunnels[second % len(tunnels)]
        panel.live.says(tunnel, rtt_ms=second, measured={"rtt_ms": second})
        panel.feed.touch([tunnel["uuid"]])
        panel.steps.clear()
        panel.step(seconds=1)
        for _ in range(5):
            await asyncio.sleep(0)
        if looks := asyncio.all_tasks() - lasting:  # the time is simulated: they end within the second
            await asyncio.wait(looks)
        if second % 600 == 599:
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0])
            threads.append(threading.active_count())
    tracemalloc.stop()
    print(f"bytes after each ten minutes: {sizes}; threads {threads}; {clients[0].events}; {len(looked)} looks")
    # Of each stream after 30 to 60 s, and then each 60 s: sixty times, where none is at the very end of the hour
    assert 50 * 59 <= len(looked) <= 50 * 60
    assert not any(task.done() for task in open_ones)
    for client in clients:
        assert client.events[b"hello"] == 1
        assert client.events[b"beat"] >= 355
        assert client.events[b"tunnels"] + client.events[b"measured"] >= 3590
    assert max(sizes[1:]) < sizes[0] + 3_000_000, "as much as the buffer takes at most"
    assert threads == sorted(threads, reverse=True), "those that were needed to open them end, and none is added"
    panel.events.end()
    await asyncio.wait_for(asyncio.gather(*open_ones), 5)
