# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Contract: GET /api/tunnels/events. What it tells is in tests/panel/test_panel_events.py; here is what differs by
door: who is let in, and the end of the process."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.contract.conftest import DOORS, NO_MANAGER
from tests.support import marzban
from tests.support.event_stream import PATH, EventStream
from tests.support.marzban import Marzban
from tests.support.panel import Panel
from tests.support.panel_api import Api, client

STREAMS = 50
LONGEST = 8.0  # seconds; it is 0.2 to 1, on a busy machine 4, and without an end of the streams there is none


def test_what_changes_is_told(api: Api, pair: tuple[Any, Any]) -> None:
    with EventStream(api) as stream:
        assert not stream.resumed
        made = api.tunnel(*pair)
        assert stream.tunnel(made["id"]) == made
        last = stream.last
    api.send("DELETE", f"/api/tunnels/{made['id']}")
    with EventStream(api, last) as stream:
        assert stream.resumed
        stream.until("tunnels", lambda data: data["deleted"] == [made["id"]])


def test_who_may_not_gets_no_stream(api: Api) -> None:
    nobody = Api(api.url, "", "", api.ca)
    here, elsewhere = nobody.bare("GET", PATH), nobody.bare("GET", "/api/tunnels")
    assert here.status_code == 401
    assert here.json() == elsewhere.json()
    for name in ("WWW-Authenticate", "Marzban-Panel-Id", "Marzban-Tunnels-Api"):
        assert here.headers.get(name) == elsewhere.headers.get(name)


@pytest.fixture(params=[door for door in DOORS if door != "marzban-mariadb"])
def door(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Panel | Marzban, Api, float]]:
    """A process of its own, a client of it, and the seconds that its end may take."""
    if request.param == "standalone":
        with Panel.start(tmp_path, tls=False, env=NO_MANAGER) as panel:
            yield panel, client(panel), LONGEST
        return
    if request.param != "mounted" and not marzban.source():
        pytest.skip(marzban.MISSING)
    real = request.param != "mounted"
    with Marzban(tmp_path, real=real, **NO_MANAGER) as running:
        longest = LONGEST
        if real:  # it ends other things than us, too
            longest = 3 * ended(running, running.api())
            running.start()
        yield running, running.api(), longest


def test_open_streams_do_not_hold_up_its_end(door: tuple[Panel | Marzban, Api, float]) -> None:
    """Nor do they take a thread. After its next start they are there again, and read everything."""
    running, api, longest = door
    tunnel = api.tunnel(api.node(), api.node())
    with ExitStack() as open_ones:
        streams = [open_ones.enter_context(EventStream(api)) for _ in range(2)]
        before = threads(running)
        streams += [open_ones.enter_context(EventStream(api)) for _ in range(2, STREAMS)]
        api.send("POST", f"/api/tunnels/{tunnel['id']}/deactivate")
        for stream in streams:
            stream.tunnel(tunnel["id"], lambda item: item["status"] == "inactive")
        assert threads(running) <= before + 2, "calls that come at once have threads of the server's"
        taken = ended(running, api)
        assert all(stream.ends() for stream in streams), "each client sees that it is over"
    print(f"it ends within {taken:.2f} s (at most {longest:.2f}) with {STREAMS} streams")
    assert taken < longest
    if isinstance(running, Marzban):
        running.start()
        with ExitStack() as open_ones:
            again = [open_ones.enter_context(EventStream(api, stream.last)) for stream in streams]
            assert not any(stream.resumed for stream in again)


def threads(running: Panel | Marzban) -> int:
    """Of its process."""
    return len(list(Path(f"/proc/{running.pid}/task").iterdir()))


@pytest.mark.variation
def test_a_client_that_does_not_read_does_not_hold_up_its_end(door: tuple[Panel | Marzban, Api, float]) -> None:
    running, api, longest = door
    first, second = api.node(), api.node()
    config = json.dumps({"note": "x" * 60_000})
    tunnels = [api.tunnel(first, second, config=config) for _ in range(40)]
    with stalled(api), EventStream(api) as stream:
        for name in ("again-1", "again-2", "again-3", "again-4", "again-5"):
            api.own("PUT", f"/api/node/{first['id']}", {"name": name})
            stream.tunnel(tunnels[-1]["id"], named(name))
        taken = ended(running, api)
    print(f"it ends within {taken:.2f} s (at most {longest:.2f}) with a client that does not read")
    assert taken < longest


def named(name: str) -> Callable[[Any], bool]:
    return lambda item: bool(item["source_node_name"] == name)


def ended(running: Panel | Marzban, api: Api) -> float:
    """Seconds that its end takes."""
    api.session.close()  # uvicorn waits for its clients
    begun = time.monotonic()
    running.stop()
    return time.monotonic() - begun


@contextmanager
def stalled(api: Api) -> Iterator[None]:
    """A stream whose client reads no more than its beginning."""
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(20)
        slow.connect(("127.0.0.1", int(api.url.rpartition(":")[2])))
        token = api.session.headers["Authorization"]
        slow.sendall(f"GET {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: {token!s}\r\n\r\n".encode())
        got = b""
        while b"event: hello" not in got:
            got += slow.recv(1000)
        yield
