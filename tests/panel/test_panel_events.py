# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The streams of GET /api/tunnels/events: what they tell, who gets them, how they end."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from marzban_tunnels.events import Buffer
from tests.support.event_stream import PATH, EventStream, Page
from tests.support.managed_pair import Pair
from tests.support.managed_panel import PASSWORD, ManagedPanel, until
from tests.support.panel import Panel
from tests.support.panel_api import Api, client, key
from tests.support.simulated_node import Nodes


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManagedPanel]:
    """A panel whose manager is off."""
    with ManagedPanel(tmp_path_factory.mktemp("quiet") / "panel.db", key=None) as panel:
        yield panel


@pytest.fixture
def api(quiet: ManagedPanel) -> Iterator[Api]:
    """With an empty panel."""
    yield quiet.api
    for node in quiet.api.send("GET", "/api/nodes"):
        assert quiet.api.own("DELETE", f"/api/node/{node['id']}").status_code == 200


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Two simulated nodes and a tunnel, on a panel with a manager."""
    with Nodes() as nodes, ManagedPanel(tmp_path_factory.mktemp("pair") / "panel.db") as panel:
        yield Pair(panel, nodes, "events")


def report(api: Api, tunnel: Any, role: str = "source", **fields: Any) -> None:
    told = {"uuid": tunnel["uuid"], "node": tunnel[f"{role}_node_name"], "version": tunnel["version"]}
    answer = api.send("POST", "/api/tunnels/status", {"reports": [told | {"status": "active", "error": None} | fields]})
    assert answer["updated"] == 1, answer


def newest(api: Api) -> str:
    """The id of the last event."""
    with EventStream(api) as stream:
        return stream.last


def test_each_change_of_a_record_is_told(api: Api) -> None:
    first, second = api.node(), api.node()
    with EventStream(api) as stream:
        assert stream.answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert stream.answer.headers["Cache-Control"] == "no-store"
        assert stream.answer.headers["X-Accel-Buffering"] == "no"
        assert stream.answer.headers["Marzban-Tunnels-Api"] == "6"
        assert not stream.resumed
        made = api.tunnel(first, second)
        path = f"/api/tunnels/{made['id']}"
        assert stream.tunnel(made["id"]) == made
        changed = api.send("PUT", path, {"name": "größer"})
        assert stream.tunnel(made["id"]) == changed
        half = key()
        item = {"uuid": made["uuid"], "node": made["source_node_name"], "public": half}
        api.send("POST", "/api/tunnels/keys", {"keys": [item]})
        assert stream.tunnel(made["id"])["ends"][0]["public"] == half
        report(api, changed, status="error", error='<b>Kein Weg: "data: ü"')
        told = stream.tunnel(made["id"])
        assert (told["status"], told["ends"][0]["error"]) == ("error", '<b>Kein Weg: "data: ü"')
        api.send("POST", f"{path}/deactivate")
        assert stream.tunnel(made["id"])["status"] == "inactive"
        api.send("DELETE", path)
        stream.until("tunnels", lambda data: data == {"tunnels": [], "deleted": [made["id"]]})


def test_what_a_run_measures_again_is_told_without_the_record(api: Api, quiet: ManagedPanel) -> None:
    tunnel = api.tunnel(api.node(), api.node())
    with EventStream(api) as stream:
        for number, measured in enumerate(({"rtt_ms": 1.5}, {"rtt_ms": 2.5})):
            report(api, tunnel, measured=measured)
            if number == 0:
                assert stream.tunnel(tunnel["id"])["ends"][0]["measured"] == measured
        while (event := stream.next()).name == "nodes":
            continue
        (end,) = event.data["ends"]
        assert end.pop("age") <= 1
        assert end == {
            "tunnel_id": tunnel["id"], "role": "source", "measured": {"rtt_ms": 2.5}, "by": "run", "stale": False
        }  # fmt: skip


def test_a_page_that_takes_events_knows_what_the_list_says(api: Api) -> None:
    nodes = [api.node() for _ in range(4)]
    page, stream = Page(api), EventStream(api)
    page.read()
    tunnels = [api.tunnel(nodes[number], nodes[number - 1]) for number in range(4)]
    report(api, tunnels[1])
    while len(page.tunnels) < 4:
        page.take(stream.next())
    last = stream.last
    stream.close()  # a break, in which much happens
    api.send("DELETE", f"/api/tunnels/{tunnels[0]['id']}")
    api.own("DELETE", f"/api/node/{nodes[2]['id']}")
    api.own("PUT", f"/api/node/{nodes[1]['id']}", {"name": "another", "address": "203.0.113.77"})
    for number in range(5):
        report(api, tunnels[1], "target", measured={"rtt_ms": number})
    made = api.tunnel(nodes[0], nodes[1])
    with EventStream(api, last) as stream:
        assert stream.resumed
        expected = Page(api).read()
        assert sorted(expected.tunnels) == [tunnels[1]["id"], made["id"]]
        while page.lasting() != expected.lasting():
            page.take(stream.next())


def test_what_does_not_go_on_says_so(api: Api) -> None:
    with EventStream(api) as stream:
        epoch = stream.last.split("-")[0]
        for last in ("00000000-1", "x", f"{epoch}-999999", f"{epoch}--1", f"{epoch}-1{'0' * 40}"):
            with EventStream(api, last) as other:
                assert not other.resumed
                assert other.last == stream.last
        with EventStream(api, stream.last) as other:
            assert other.resumed


def test_the_buffer_is_bounded_in_number_and_bytes() -> None:
    few = Buffer(most_events=3, most_bytes=10_000)
    for number in range(1, 6):
        few.add("beat", str(number))
    assert few.after(1) is None
    assert few.after(6) is None
    found = few.after(2)
    assert found is not None
    assert found[1] == 5
    assert found[0].decode().count("data: ") == 3
    assert few.after(5) == (b"", 5)
    assert [few.position(f"{few.epoch}-{number}") for number in (1, 2, 5, 6)] == [None, 2, 5, None]
    small = Buffer(most_events=1000, most_bytes=1000)
    for _ in range(30):
        small.add("tunnels", "x" * 100)
    kept = small.after(small.last - 7)
    assert kept is not None
    assert small.after(small.last - 8) is None
    small.add("tunnels", "x" * 2000)  # more than it keeps at all
    assert small.after(small.last - 1) is None
    assert small.after(small.last) == (b"", small.last)


def named(name: str) -> Callable[[Any], bool]:
    return lambda item: bool(item["source_node_name"] == name)


def test_who_is_too_slow_is_told_to_read_again_and_holds_up_nobody(tmp_path: Path) -> None:
    with ManagedPanel(tmp_path / "panel.db", key=None) as panel, socket.socket() as slow:
        api = panel.api
        first, second = api.node(), api.node()
        config = json.dumps({"note": "x" * 60_000})
        tunnels = [api.tunnel(first, second, config=config) for _ in range(40)]
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(20)
        slow.connect(("127.0.0.1", int(api.url.rpartition(":")[2])))
        token = api.session.headers["Authorization"]
        slow.sendall(f"GET {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: {token!s}\r\n\r\n".encode())
        got = b""
        while b'"resumed":false' not in got:
            got += slow.recv(1000)
        with EventStream(api) as stream:
            for number in range(5):
                api.own("PUT", f"/api/node/{first['id']}", {"name": f"again-{number}"})
                stream.tunnel(tunnels[-1]["id"], named(f"again-{number}"))
        got, read = b"", 0
        while b'"resumed":false' not in got:
            part = slow.recv(65536)
            got, read = got[-20:] + part, read + len(part)
            assert part, "it was hung up on"
            assert read < 5 * 40 * 60_000, "all of it was kept for one that does not read"


def test_what_nodes_say_is_told_as_it_is_measured(shared: Pair) -> None:
    panel, tunnel = shared.panel, shared.tunnel
    with EventStream(panel.api) as stream:
        roles: set[str] = set()
        while roles != {"source", "target"}:
            (end, *_more) = stream.until("measured").data["ends"]
            assert end["tunnel_id"] == tunnel["id"]
            assert (end["by"], end["stale"]) == ("service", False)
            roles.add(end["role"])
        begun = len(shared.first.requests)
        told = [stream.until("measured").data["ends"] for _ in range(6)]
        looks = len(shared.first.requests) + len(shared.second.requests) - 2 * begun
        assert len(told) <= looks + 2, "nothing is told that was not measured again"
        shared.first.down()
        problem = stream.until("nodes", lambda data: any(node["problem"] for node in data["nodes"])).data
        assert [node["node"] for node in problem["nodes"]] == [shared.first.name], "those that are as before are not"
        assert problem["manager"]["state"] == "on"
        shared.first.up()
        stream.until("nodes", lambda data: [node["state"] for node in data["nodes"]] == ["ok"])
        shared.call("POST", "/deactivate")
        stream.tunnel(tunnel["id"], lambda item: item["status"] == "inactive")
        shared.call("POST", "/activate")
        stream.tunnel(tunnel["id"], lambda item: item["status"] == "active")
        ids = [panel.node(node)["id"] for node in (shared.first, shared.second)]
        assert all(panel.api.own("DELETE", f"/api/node/{number}").status_code == 200 for number in ids)
        stream.until("nodes", lambda data: str(ids[0]) in data["gone"])


def test_who_may_not_gets_no_stream(api: Api, quiet: ManagedPanel) -> None:
    with quiet.writing() as session:
        session.execute(text("DELETE FROM admins WHERE username <> 'admin'"))
    quiet.admins.put("guest", PASSWORD, is_sudo=False)
    guest = Api(api.url, "guest", PASSWORD, True).login()
    for caller, status in ((guest, 403), (Api(api.url, "", "", True), 401)):
        for path in (PATH, "/api/tunnels"):
            answer = caller.bare("GET", path)
            assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/json")
            if path == PATH:
                told, shown = answer.json(), answer.headers.get("WWW-Authenticate")
        assert (answer.json(), answer.headers.get("WWW-Authenticate")) == (told, shown), "as the other calls"
    assert quiet.events.is_full() is False
    assert api.bare("POST", PATH).status_code == 405


def test_the_token_is_looked_at_again(api: Api, quiet: ManagedPanel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quiet.events, "recheck", 0.3)
    quiet.admins.put("other", PASSWORD, is_sudo=True)
    other = Api(api.url, "other", PASSWORD, True).login()
    for wrong, right in (("is_sudo = 0", "is_sudo = 1"), ("password_set_at = 9e9", "password_set_at = 0"), ("", "")):
        with EventStream(api) as stays, EventStream(other) as ends:
            with quiet.writing() as session:
                what = f"UPDATE admins SET {wrong}" if wrong else "DELETE FROM admins"
                session.execute(text(f"{what} WHERE username = 'other'"))
            assert ends.ends()
            api.node()
            stays.until("nodes")
        if right:
            with quiet.writing() as session:
                session.execute(text(f"UPDATE admins SET {right} WHERE username = 'other'"))


def test_no_more_streams_than_a_process_serves(api: Api, quiet: ManagedPanel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quiet.events, "most_streams", 3)
    with ExitStack() as open_ones:
        streams = [open_ones.enter_context(EventStream(api)) for _ in range(3)]
        answer = api.bare("GET", PATH)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "30")
        assert "read the list" in answer.json()["detail"]
        streams[0].close()
        until(lambda: not quiet.events.is_full())
        open_ones.enter_context(EventStream(api))


def test_fifty_streams_cost_no_thread_and_no_session(api: Api, quiet: ManagedPanel) -> None:
    pool, used = quiet.engine.pool, []
    tunnel = api.tunnel(api.node(), api.node())
    EventStream(api).close()  # the threads that a call needs are there now
    threads = threading.active_count()
    with ExitStack() as open_ones:
        streams = [open_ones.enter_context(EventStream(api)) for _ in range(50)]
        assert threading.active_count() == threads
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            used.append(pool.checkedout())  # type: ignore[attr-defined]
            time.sleep(0.01)
        assert min(used) == 0
        assert sorted(used)[len(used) * 9 // 10] == 0, "the feed looks each second, for some milliseconds"
        api.send("POST", f"/api/tunnels/{tunnel['id']}/deactivate")
        for stream in streams:
            stream.tunnel(tunnel["id"], lambda item: item["status"] == "inactive")
        assert len({stream.last for stream in streams}) == 1
    until(lambda: quiet.events.open_streams() == 0)


def test_a_database_that_is_away_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ManagedPanel(tmp_path / "panel.db", key=None) as panel:
        monkeypatch.setattr(panel.events, "beat", 0.2)
        first, second = panel.api.node(), panel.api.node()
        with EventStream(panel.api) as stream:
            stream.until("beat")
            with panel.writing() as session:
                session.execute(text("ALTER TABLE tunnels RENAME TO elsewhere"))
                session.execute(text("UPDATE tunnel_panel SET writes = writes + 1"))
            until(lambda: "can't be told" in caplog.text)
            last = newest(panel.api)
            time.sleep(2.5)  # a beat came each second
            assert newest(panel.api) == last
            with panel.writing() as session:
                session.execute(text("ALTER TABLE elsewhere RENAME TO tunnels"))
            stream.until("beat")
            tunnel = panel.api.tunnel(first, second)
            stream.tunnel(tunnel["id"])
        assert caplog.text.count("can't be told") == 1


def test_the_access_log_has_a_stream_when_it_begins(panel: Panel) -> None:
    shared = client(panel)
    with EventStream(shared):
        (line,) = [line for line in panel.log_lines() if line["path"] == PATH]
    assert (line["status"], line["admin"]) == (200, panel.username)
    shared.session.close()
