# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The front of the node service: real TLS and HTTP, with a STAND-IN for the root half (tests/support/root_half.py)."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import random
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.front import Front, make_certificate, read_all, read_answer
from tests.support.root_half import KEY, LIST, PANEL, TUNNEL, UUID, StandIn
from tests.support.world import until

pytest.importorskip("aiohttp", reason="the environments for other versions of ansible-core do not have it")
BUSY = 3  # times as long it may take here, where other tests share the machine
POST = {"panel": PANEL, "node": "de-1", "counter": 7, "revision": "r", "tunnel": {"name": "é😀"}}


@pytest.fixture(scope="module")
def root_half(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    replaced = StandIn(str(tmp_path_factory.mktemp("root") / "root.sock"))
    yield replaced
    replaced.close()


@pytest.fixture(scope="module")
def front(root_half: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """One that knows the certificate ``panel.crt``."""
    folder = tmp_path_factory.mktemp("front")
    der = make_certificate(folder, "panel")
    make_certificate(folder, "stranger")
    root_half.certificates = [hashlib.sha256(der).hexdigest()]
    started = Front(folder, str(root_half._server.server_address), (folder / "panel.crt").read_text())
    yield started
    assert started.process.poll() is None, started.log.read_text()
    started.close()
    assert "Traceback" not in started.log.read_text()


@pytest.fixture(autouse=True)
def fresh(root_half: StandIn) -> None:
    root_half.calls.clear()
    root_half.replies.clear()


def test_the_calls_reach_the_root_half_and_its_answers_the_panel(front: Front, root_half: StandIn) -> None:
    with front.connect() as client:  # one connection for all
        calls: list[tuple[str, str, Any, dict[str, str], Any, dict[str, Any]]] = [
            ("GET", "/api/tunnels?x=1", None, {}, LIST, {"call": "list"}),
            (
                "GET",
                "/api/tunnels?after=0a-7&x&wait=0.25",
                None,
                {},
                LIST,
                {"call": "list", "after": "0a-7", "wait": 0.25},
            ),
            ("POST", "/api/tunnel", POST, {}, TUNNEL, {"call": "post", "body": POST}),
            ("GET", f"/api/tunnel/{UUID.upper()}/status", None, {}, TUNNEL, {"call": "status", "id": UUID}),
            ("GET", "/api/tunnel/1/status", None, {}, TUNNEL, {"call": "status", "id": 1}),
        ]
        for method, path, body, headers, answer, call in calls:
            assert front.ask(method, path, KEY, body, client, **headers)[::2] == (200, answer)
            assert root_half.calls.pop() == {"key": KEY, **call}
        removed = front.ask("DELETE", "/api/tunnel/1", KEY, None, client, Marzban_Counter="8")
        assert removed[::2] == (200, {"uuid": UUID, "message": "removed"})
        assert root_half.calls.pop() == {"key": KEY, "call": "delete", "id": 1, "counter": 8, "epoch": None}
        assert front.ask("GET", "/api/tunnel/2/status", KEY, None, client)[0] == 404
        root_half.calls.clear()
        status, headers, body = front.ask("GET", "/health", None, None, client)
        assert (status, body, headers["server"], root_half.calls) == (200, "ok", "marzban-node", [])


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "code"),
    [
        ("GET", "/", {}, 404, "no_such_path"),
        ("GET", "/api/tunnel/1/status/", {}, 404, "no_such_path"),
        ("PUT", "/api/tunnels", {}, 405, "no_such_method"),
        ("HEAD", "/health", {}, 405, None),
        ("CONNECT", "node:1", {}, 404, "no_such_path"),
        ("GET", "/api/tunnels", {}, 401, "no_key"),
        ("GET", "/api/tunnels", {"Authorization": "Basic eDp5"}, 401, "no_key"),
        ("GET", "/api/tunnels", {"Authorization": "Bearer a b"}, 401, "no_key"),
        ("GET", "/api/tunnel/0/status", {"Authorization": f"Bearer {KEY}"}, 422, "invalid"),
        ("GET", "/api/tunnel/2147483648/status", {"Authorization": f"Bearer {KEY}"}, 422, "invalid"),
        ("GET", "/api/tunnel/..%2f..%2fetc/status", {"Authorization": f"Bearer {KEY}"}, 422, "invalid"),
        *(
            ("GET", f"/api/tunnels?{query}", {"Authorization": f"Bearer {KEY}"}, 422, "invalid")
            for query in (
                *("after=", "after", "after=%0a", "after=a+b", f"after={'x' * 65}", "after=1&after=1"),
                *("wait=", "wait=-1", "wait=21", "wait=20.1", "wait=1e1", "wait=inf", "wait=nan", "wait=1&wait=1"),
                *("wait=0x1", "wait=1_0", "wait=" + "1" * 5000),
            )
        ),
        ("DELETE", "/api/tunnel/1", {"Authorization": f"Bearer {KEY}"}, 422, "invalid"),
        ("DELETE", "/api/tunnel/1", {"Authorization": f"Bearer {KEY}", "Marzban-Counter": "-1"}, 422, "invalid"),
    ],
)
def test_what_needs_no_rights_is_refused_here(
    front: Front, root_half: StandIn, method: str, path: str, headers: dict[str, str], status: int, code: str | None
) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    told = front.send(f"{method} {path} HTTP/1.1\r\nHost: n\r\nConnection: close\r\n{lines}\r\n".encode())
    assert int(told.split()[1]) == status
    assert code is None or f'"code":"{code}"'.encode() in told
    assert (b"\r\nAllow: " in told) == (status == 405)
    assert (b"\r\nWWW-Authenticate: Bearer\r\n" in told) == (status == 401)
    assert root_half.calls == []


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b'"x"', b"\xff{}", b'{"a": NaN}', b"[" * 200_000, b'{"a": %s}' % (b"1" * 9000), b"{}" * 2],
)
def test_a_body_that_is_not_an_object_of_json(front: Front, root_half: StandIn, body: bytes) -> None:
    status, _headers, told = front.ask("POST", "/api/tunnel", KEY, body)
    assert (status, told["code"], list(told["detail"])) == (422, "invalid", ["body"])
    assert root_half.calls == []


def test_bodies_are_bounded(front: Front, root_half: StandIn) -> None:
    largest = b'{"a": "%s"}' % (b"x" * (262144 - 120))
    assert front.ask("POST", "/api/tunnel", KEY, largest)[0] == 200
    assert len(root_half.calls.pop()["body"]["a"]) == 262144 - 120
    too_long = {"a": "é" * 60_000}  # escaped, it is longer than a line to the root half may be
    assert front.ask("POST", "/api/tunnel", KEY, str(too_long).replace("'", '"').encode())[0] == 413
    for key in (KEY, None):
        status, headers, _told = front.ask("POST", "/api/tunnel", key, b"x" * 262145)
        assert (status, headers["connection"]) == (413 if key else 401, "close")
    chunked = (
        f"POST /api/tunnel HTTP/1.1\r\nHost: n\r\nAuthorization: Bearer {KEY}\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    assert b" 411 " in front.send(chunked.encode() + b"2\r\n{}\r\n0\r\n\r\n")
    assert front.ask("POST", "/api/tunnel", KEY, gzip.compress(b"{}"), Content_Encoding="gzip")[0] == 415
    assert root_half.calls == []


def test_a_client_certificate_is_a_key_too(front: Front, root_half: StandIn) -> None:
    with front.connect(certificate=front.folder / "panel.crt") as client:
        assert front.ask("GET", "/api/tunnels", client=client)[::2] == (200, LIST)
        assert root_half.calls.pop() == {"call": "list", "certificate": root_half.certificates[0]}
    with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):  # noqa: SIM117 - the handshake, as TLS 1.3 has it
        with front.connect(certificate=front.folder / "stranger.crt") as client:
            front.ask("GET", "/api/tunnels", client=client)
    assert root_half.calls == []


def test_old_tls_is_refused(front: Front) -> None:
    with front.connect(maximum_version=ssl.TLSVersion.TLSv1_2) as client:
        assert client.version() == "TLSv1.2"
        assert front.ask("GET", "/health", client=client)[0] == 200
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLS"), pytest.raises((ssl.SSLError, ConnectionError)):
        front.connect(maximum_version=ssl.TLSVersion.TLSv1_1, minimum_version=ssl.TLSVersion.TLSv1)


def test_a_root_half_that_does_not_answer_is_named(front: Front, root_half: StandIn) -> None:
    for reply in (b"", b"{}\n", b"[]\n", b"nonsense\n", b'{"status": 500, "body": {}}\n', b"[" * 100_000 + b"\n"):
        root_half.replies.append(reply)
        status, headers, told = front.ask("GET", "/api/tunnels", KEY)
        assert (status, told["code"], headers["retry-after"]) == (503, "unanswered", "2")
        assert "marzban-node-root.service" in told["detail"]
    assert front.log.read_text().count("did not answer") == 1
    assert front.ask("GET", "/api/tunnels", KEY)[0] == 200


@pytest.mark.variation
def test_a_root_half_that_is_slow_is_busy_before_the_panel_gives_up(front: Front, root_half: StandIn) -> None:
    root_half.delay.clear()
    start = time.monotonic()
    try:
        status, _headers, told = front.ask("GET", "/api/tunnels", KEY)
        assert (status, told["code"]) == (503, "busy")
    finally:
        root_half.delay.set()
    assert 3.5 < time.monotonic() - start < 15


@pytest.mark.variation
def test_a_call_that_waits_has_its_time_and_that_of_any_call(front: Front, root_half: StandIn) -> None:
    root_half.delay.clear()
    start = time.monotonic()
    try:
        status, _headers, told = front.ask("GET", "/api/tunnels?after=a&wait=1.5", KEY)
        assert (status, told["code"]) == (503, "busy")
    finally:
        root_half.delay.set()
    assert 5.0 < time.monotonic() - start < 16


def test_a_front_that_ends_ends_calls_that_wait(root_half: StandIn, tmp_path: Path) -> None:
    other = Front(tmp_path, str(root_half._server.server_address))
    root_half.delay.clear()
    try:
        with other.connect() as client, ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(other.ask, "GET", "/api/tunnels?after=a&wait=20", KEY, None, client)
            until("it has come", lambda: root_half.calls)
            start = time.monotonic()
            other.close()
            assert time.monotonic() - start < 1.5 * BUSY
            assert (waiting.result(5)[0], waiting.result()[2]["code"]) == (503, "unanswered")
    finally:
        root_half.delay.set()


def test_wrong_keys_are_late_after_ten_and_a_right_one_never_is(front: Front) -> None:
    wrong = "w" * 43

    def took(key: str, status: int, client: ssl.SSLSocket) -> float:
        start = time.monotonic()
        assert front.ask("GET", "/api/tunnels", key, client=client)[0] == status
        return time.monotonic() - start

    with front.connect() as client:
        quick = [took(wrong, 403, client) for _time in range(9)]
        assert min(quick) < 0.5
        took(wrong, 403, client)
        assert took(wrong, 403, client) >= 1
        assert min(took(KEY, 200, client) for _time in range(3)) < 0.5
    told = front.log.read_text()
    assert "A wrong access key came from 127.0.0.1.\n" in told
    assert wrong not in told
    assert KEY not in told


RAW = [
    b"",
    b"\r\n\r\n",
    b"\0" * 100,
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET http://[::1 HTTP/1.1\r\nHost: n\r\n\r\n",
    b"GET https://x:99999999/health HTTP/1.1\r\nHost: n\r\n\r\n",
    b"CONNECT x:y:z HTTP/1.1\r\n\r\nxxxx",
    b"POST /api/tunnel HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"POST /api/tunnel HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
    b"POST /api/tunnel HTTP/1.1\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
    b"POST /api/tunnel HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /api/tunnels HTTP/1.1\r\nAuthorization: Bearer \xff\xfe\r\n\r\n",
    b"GET /health HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n",
    b"GET /health HTTP/1.1\r\n" + b"a: b\r\n" * 2000 + b"\r\n",
    b"GET /health HTTP/1.1\r\n a: b\r\n\r\n",
    b"GET /health HTTP/1.1\nHost: n\n\n",
    b"GET /health HTTP/1.1\r\nHost: n\r\n\r\n" * 2_000,
]


def test_raw_bytes(front: Front, root_half: StandIn) -> None:
    """Whatever comes, no 500, the next client is served, and the front has not grown."""
    chance = random.Random(11)
    noise = [chance.randbytes(chance.randrange(1, 3000)) for _time in range(10)]
    whole = b"POST /api/tunnel HTTP/1.1\r\nHost: n\r\nAuthorization: Bearer w\r\nContent-Length: 2\r\n\r\n{}"
    spoiled = []
    for _time in range(20):
        cut = bytearray(whole[: chance.randrange(1, len(whole))])
        cut[chance.randrange(len(cut))] = chance.randrange(256)
        spoiled.append(bytes(cut) + b"\r\n\r\n")
    for data in [*RAW, *noise, *spoiled]:
        with front.connect() as client:
            with contextlib.suppress(OSError):
                client.sendall(data)
            with contextlib.suppress(OSError):
                client.shutdown(2)
        assert front.process.poll() is None
    for data in RAW[3:]:
        told = front.send(data, timeout=0.3)
        assert b"HTTP/1.1 5" not in told, (data[:80], told[:300])
    assert front.ask("GET", "/health")[0] == 200
    assert front.ask("GET", "/api/tunnels", KEY)[0] == 200
    lines = Path(f"/proc/{front.process.pid}/status").read_text().splitlines()
    assert next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) < 80 * 1024


def test_requests_sent_ahead_are_answered_one_after_the_other(front: Front, root_half: StandIn) -> None:
    head = f"Host: n\r\nAuthorization: Bearer {KEY}\r\n"
    body = b'{"a": 1}'
    post = f"POST /api/tunnel HTTP/1.1\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode()
    with front.connect() as client:
        for piece in (post[:30], post[30:], body[:3], body[3:] + f"GET /health HTTP/1.1\r\n{head}\r\n".encode()):
            client.sendall(piece)
        assert read_answer(client)[0] == 200
        assert read_answer(client)[2] == "ok"
    assert root_half.calls[0]["body"] == {"a": 1}


def test_one_address_does_not_get_all_connections(front: Front) -> None:
    until("earlier ones are gone", lambda: front.ask("GET", "/health")[0] == 200)
    with contextlib.ExitStack() as stack:
        held = 0
        with contextlib.suppress(OSError):
            for _time in range(40):
                stack.enter_context(front.connect())
                held += 1
        assert 10 <= held <= 16
    until("they are free again", lambda: _serves(front))


def _serves(front: Front) -> bool:
    with contextlib.suppress(OSError, AssertionError):
        return front.ask("GET", "/health")[0] == 200
    return False


@pytest.mark.variation
def test_who_sends_nothing_is_put_out(front: Front) -> None:
    start = time.monotonic()
    with front.connect() as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost:")
        assert read_all(client) == b""
    assert 8 < time.monotonic() - start < 18
