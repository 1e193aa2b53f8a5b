# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The manager's connection to a node: the pin before the first byte, and nothing that a node sends breaks it."""

from __future__ import annotations

import asyncio
import datetime
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from marzban_tunnels.manager import client, pins
from marzban_tunnels.manager.client import Client
from marzban_tunnels.manager.problems import Place, Problem
from tests.support.simulated_node import Nodes, SimulatedNode, pems


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with Nodes() as nodes:
        yield nodes


@pytest.fixture(scope="module")
def node(nodes: Nodes) -> SimulatedNode:
    return nodes.add("de-1")


def ask(
    node: SimulatedNode,
    *,
    pin: str = "",
    port: int = 0,
    address: str = "",
    times: int = 1,
    call: float = 2,
    certificate: tuple[str, str] | None = None,
) -> Any:
    """The last of so many answers on one connection."""

    async def asking() -> Any:
        place = Place("de-1", address or node.address, port or node.port)
        header = {"Authorization": "Bearer secret"}
        one = Client(place, pin or node.pin, header, pins.context(certificate), connect=2, call=call)
        try:
            for _time in range(times):
                found = await one.call("GET", "/health")
            return found
        finally:
            one.close()

    return asyncio.run(asking())


def problem(node: SimulatedNode, **options: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        ask(node, **options)
    return caught.value


def test_one_connection_serves_many_calls(node: SimulatedNode) -> None:
    before = node.connections
    node.instead = lambda method, path: (200, {"fine": True})
    assert ask(node, times=3) == (200, {"fine": True})
    assert node.connections == before + 1


def test_nothing_is_sent_to_a_wrong_pin(node: SimulatedNode) -> None:
    sent, connections = node.bytes, node.connections
    wrong = "sha256:" + "A" * 43 + "="
    found = problem(node, pin=wrong)
    assert found.code == "certificate_changed"
    assert wrong in found.detail
    assert node.pin in found.detail
    assert "marzban.tunnels.node_api" in found.detail
    node.instead = lambda method, path: (200, {})
    ask(node)  # another connection comes after it: the first has been read to its end
    assert node.connections <= connections + 2  # with TLS 1.3 a server may not count one that is gone at once
    assert node.bytes == sent + len("GET /health HTTP/1.1\r\n")


def test_a_client_certificate_is_shown_where_the_panel_has_one(nodes: Nodes) -> None:
    public, private, _pin = pems(datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1))
    node = nodes.add("marzban-1")
    node.trust(public)
    node.instead = lambda method, path: (200, {"fine": True})
    assert ask(node, certificate=(public, private)) == (200, {"fine": True})
    assert problem(node).code == "refused"
    assert not list(Path(tempfile.gettempdir()).glob("marzban-tunnels-*"))  # its key is in memory only


def test_nobody_there(node: SimulatedNode) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        found = problem(node, port=taken.getsockname()[1])
    assert found.code == "refused"
    assert found.detail.startswith("'de-1' at '127.0.0.1' port ")
    assert "systemctl status marzban-node-front" in found.detail
    for address in ("no-such-name.invalid", "not an address", "x" * 300, ""):
        if address:
            assert problem(node, address=address).code in ("refused", "timed_out"), address


def test_something_else_is_there(node: SimulatedNode) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        found = problem(node, port=silent.getsockname()[1])  # takes the connection, and no handshake comes
    assert found.code == "timed_out"


def test_a_silent_address_leaves_time_for_the_next(node: SimulatedNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """As behind a packet filter that lets only one of the panel's addresses in."""
    monkeypatch.setattr(client, "_resolve", lambda host: ["127.0.0.2", node.address])
    node.instead = lambda method, path: (200, {"fine": True})
    with socket.create_server(("127.0.0.2", node.port)):  # takes the connection, and no handshake comes
        assert ask(node, address="de-1.example") == (200, {"fine": True})


BAD: dict[str, bytes] = {
    "nothing": b"",
    "not HTTP": b"220 mail.example ESMTP\r\n\r\n",
    "no length": b"HTTP/1.1 200 OK\r\n\r\n{}",
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a huge length": b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n",
    "a number too long": b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999999\r\n\r\n",
    "a negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    "less than announced": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}",
    "no JSON": b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine",
    "no UTF-8": b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n\xff\xfe\xfd\xfc",
    "too deep": b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"[" * 100000,
    "endless headers": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200000,
    "a number for a status": b"HTTP/1.1 99999 OK\r\nContent-Length: 2\r\n\r\n{}",
}


@pytest.mark.parametrize("name", BAD)
def test_an_answer_that_is_none_is_a_problem(node: SimulatedNode, name: str) -> None:
    node.instead = lambda method, path: BAD[name]
    found = problem(node)
    assert found.code in ("bad_answer", "refused")
    assert len(found.detail) < 400
    node.instead = lambda method, path: (200, {})
    assert ask(node) == (200, {})


def test_a_slow_answer_and_a_wrong_key(node: SimulatedNode) -> None:
    node.instead = lambda method, path: (403, {"detail": "wrong"})
    assert problem(node).code == "key_wrong"
    node.instead = lambda method, path: (200, {})
    node.slow = 1.0
    assert problem(node, call=0.2).code == "timed_out"
    node.slow = 0.0


def test_a_large_answer_is_taken_up_to_the_bound(node: SimulatedNode) -> None:
    node.instead = lambda method, path: (200, "x" * (client.LARGEST - 2))
    assert len(ask(node, call=20)[1]) == client.LARGEST - 2
    node.instead = lambda method, path: (200, "x" * (client.LARGEST - 1))
    assert problem(node).code == "bad_answer"
