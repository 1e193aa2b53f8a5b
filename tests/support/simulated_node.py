# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""STAND-INS for the node service: they speak its API (docs/development/node-service.md) over real TLS, and have no
tunnels. They keep what they are told, invent a public half for each tunnel, and say that it is active once they know
the peer's. Many of them run in one thread. They measure when a test says so (``look``), or all of them again and again.

    with Nodes() as nodes:
        node = nodes.add("de-1")
        node.allow(access)         # an item of POST /api/tunnels/nodes/access
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime
import hashlib
import json
import os
import ssl
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Answer = tuple[int, Any]


def pems(first_day: datetime.datetime) -> tuple[str, str, str]:
    """A certificate that is good for a day, its new key, and its pin."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "node")])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(7).not_valid_before(first_day).not_valid_after(first_day + datetime.timedelta(days=1))
    signed = made.sign(key, hashes.SHA256())
    encoding = serialization.Encoding
    private = key.private_bytes(encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    spki = key.public_key().public_bytes(encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    pin = "sha256:" + base64.b64encode(hashlib.sha256(spki).digest()).decode()
    return signed.public_bytes(encoding.PEM).decode(), private.decode(), pin


def certificate() -> tuple[ssl.SSLContext, str]:
    """A server's context with a new key, and its pin. The certificate is long over: dates don't matter."""
    public, private, pin = pems(datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "both.pem")
        path.write_text(private + public)
        context.load_cert_chain(path)
    return context, pin


class SimulatedNode:
    """One of them. What it holds may be looked at and changed by the test."""

    def __init__(self, name: str, nodes: Nodes, tls: ssl.SSLContext, pin: str) -> None:
        self.name, self.pin, self.port, self.address = name, pin, 0, "127.0.0.1"
        self.tls = tls
        self.endpoint = f"198.51.{len(nodes.all) // 250}.{len(nodes.all) % 250 + 1}"  # of its tunnels
        self.panel = self.uuid = ""
        self.hashes: list[str] = []
        self.tunnels: dict[str, dict[str, Any]] = {}  # uuid → what it was told last, with its own half
        self.removed: list[str] = []
        self.counter = 0
        self.epoch: str | None = None
        self.fails: set[str] = set()  # tunnels that it can't do, nor remove
        self.posted: list[tuple[str, bool]] = []  # uuid of a record, and whether it was active
        self.age: float | None = 0.5  # of its measurements
        self.measured: dict[str, Any] | None = None  # of each tunnel; None: always something else
        self.recoveries: Any = None  # of each tunnel
        self.requests: list[tuple[str, str]] = []  # method and path
        self.old = False  # a service that can't be listened to
        self.deaf = False  # one that never answers who listens
        self.listened = 0  # calls that wait for news, so far
        self.listening = 0  # and those that wait now
        self.bytes = 0  # of HTTP that came
        self.connections = 0
        self.slow = 0.0  # seconds before each answer
        self.doing = 0.0  # seconds that a change goes on after its 202
        self.ahead = 0.0  # of its clock
        self.api = 1
        self.trusts = False  # takes those without a key, whose client certificate its TLS has checked
        self.instead: Callable[[str, str], Answer | bytes | None] = lambda method, path: None
        self._nodes = nodes
        self._news = 0
        self._start = os.urandom(8).hex()
        self._waiting: set[asyncio.Future[None]] = set()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    def allow(self, item: Any, panel: str) -> None:
        """What the role writes to a node: an item of the answer of ``POST /api/tunnels/nodes/access``."""
        self.panel, self.uuid, self.hashes = panel, item["uuid"], item["hashes"]

    def trust(self, certificate: str) -> None:
        """Take nobody but the holder of this client certificate (PEM), and want no key. For one that is down."""
        self.tls.load_verify_locations(cadata=certificate)
        self.tls.verify_mode = ssl.CERT_REQUIRED
        self.trusts = True

    def look(self) -> None:
        """It has measured. From any thread."""
        self._nodes.soon(self.tell)

    def restart(self) -> None:
        """End all connections, and serve again at once with what is kept."""
        self.down()
        self._start = os.urandom(8).hex()
        self.up()

    def up(self) -> None:
        """Listen, on the port that it had before."""
        self._nodes.run(self._up())

    def down(self) -> None:
        """Refuse connections, and end those that are open."""
        self._nodes.run(self._down())

    def renew(self) -> None:
        """Another certificate; the node says so nowhere."""
        self.down()
        self.tls, self.pin = certificate()
        self.up()

    def wrote(self) -> list[tuple[str, str]]:
        """The requests that change something."""
        return [request for request in self.requests if request[0] != "GET"]

    def tell(self) -> None:
        """There is something new. In the nodes' thread."""
        self._news += 1
        for waiting in self._waiting:
            if not waiting.done() and not self.deaf:
                waiting.set_result(None)

    async def _up(self) -> None:
        self._server = await asyncio.start_server(self._serve, self.address, self.port, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _down(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
            for writer in list(self._writers):
                writer.transport.abort()
            await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        with contextlib.suppress(OSError, EOFError, ssl.SSLError):
            while await self._one(reader, writer):
                continue
        self._writers.discard(writer)
        writer.transport.abort()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        first = await reader.readline()
        if not first:
            return False
        self.bytes += len(first)
        method, address = first.decode().split()[:2]
        path, _mark, query = address.partition("?")
        headers = {}
        while line := (await reader.readline()).strip():
            name, _colon, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self.requests.append((method, path))
        if self.slow:
            await asyncio.sleep(self.slow)
        found = self.instead(method, path)
        if isinstance(found, bytes):
            writer.write(found)
            await writer.drain()
            return False
        if found is None and query and self._knows(headers):
            await self._listen(reader, **urllib.parse.parse_qs(query))
        status, answer = found or self._answer(method, path, headers, body)
        content = json.dumps(answer).encode()
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)
        await writer.drain()
        return True

    async def _listen(self, reader: asyncio.StreamReader, after: list[str], wait: list[str]) -> None:
        """Until there are other news than these. Raises EOFError where the panel has gone."""
        self.listened += 1
        if self.old or (after != [self._text()] and not self.deaf):
            return
        news, gone = asyncio.get_running_loop().create_future(), asyncio.ensure_future(reader.read(1))
        self._waiting.add(news)
        self.listening += 1
        try:
            seconds = None if self.deaf else float(wait[0])
            await asyncio.wait({news, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                raise EOFError
        finally:
            self.listening -= 1
            self._waiting.discard(news)
            gone.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await gone

    def _text(self) -> str:
        return f"{self._start}-{self._news}"

    def _knows(self, headers: dict[str, str]) -> bool:
        key = headers.get("authorization", "").removeprefix("Bearer ")
        return self.trusts or hashlib.sha256(key.encode()).hexdigest() in self.hashes

    def _answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        if not self._knows(headers):
            return (403 if "authorization" in headers else 401), {"detail": "wrong key", "code": "key"}
        parts = path.strip("/").split("/")
        if (method, path) == ("GET", "/api/tunnels"):
            told = [self.told(uuid) for uuid in self.tunnels]
            return 200, {
                "api": self.api, "engine": "simulated", "panel": self.panel, "node": self.uuid,
                "time": time.time() + self.ahead, "counter": self.counter, "epoch": self.epoch,
                "types": ["wireguard"], "tunnels": told,
            } | ({} if self.old else {"news": self._text()})  # fmt: skip
        if (method, path) == ("POST", "/api/tunnel"):
            return self._post(json.loads(body))
        if method == "DELETE" and parts[:2] == ["api", "tunnel"]:
            return self._delete(parts[2], int(headers["marzban-counter"]), headers["marzban-epoch"])
        return 404, {"detail": "unknown", "code": "unknown"}

    def _count(self, counter: int, epoch: str) -> Answer | None:
        if counter <= self.counter:
            return 409, {"detail": "older", "code": "older_database", "have": self.counter, "got": counter}
        self.counter, self.epoch = counter, epoch
        self.tell()
        return None

    def _post(self, sent: dict[str, Any]) -> Answer:
        assert sent["panel"] == self.panel, sent["panel"]
        if older := self._count(sent["counter"], sent["epoch"]):
            return older
        tunnel = sent["tunnel"]
        uuid = tunnel["uuid"]
        self.posted.append((uuid, tunnel["is_active"]))
        if uuid in self.fails:
            return 503, {"detail": "the disk is full", "code": "failed"}
        known = self.tunnels.get(uuid)
        if known and known["tunnel"]["version"] > tunnel["version"]:
            have, got = known["tunnel"]["version"], tunnel["version"]
            return 409, {"detail": "older", "code": "older_record", "have": have, "got": got}
        held = known or {"public_key": base64.b64encode(os.urandom(32)).decode(), "peer": None}
        if known is None and tunnel["tunnel_type"] == "openvpn":
            held["fingerprint"] = os.urandom(32).hex()
        (peer,) = (end for end in tunnel["ends"] if end["node"] != self.name)
        seen, certificate = ((peer["public"] or {}).get(name) for name in ("public_key", "fingerprint"))
        if held["peer"] is None or sent.get("accept_key") == seen:
            held["peer"], held["peer_certificate"] = seen, certificate  # a changed one is not taken by itself
        different = held["peer"] and seen and (held["peer"], held["peer_certificate"]) != (seen, certificate)
        self.tunnels[uuid] = held | {
            "tunnel": tunnel, "revision": sent["revision"], "seen": seen if different else None,
            "until": time.monotonic() + self.doing,
        }  # fmt: skip
        if self.doing:
            asyncio.get_running_loop().call_later(self.doing, self.tell)
        return (202 if self.doing else 200), self.told(uuid)

    def _delete(self, uuid: str, counter: int, epoch: str) -> Answer:
        if older := self._count(counter, epoch):
            return older
        if uuid in self.fails:
            return 503, {"detail": "the disk is full", "code": "failed"}
        if uuid not in self.tunnels and uuid not in self.removed:
            return 404, {"detail": "unknown", "code": "unknown"}
        there = self.tunnels.pop(uuid, None)
        self.removed.append(uuid)
        return 200, {"uuid": uuid, "message": "removed" if there else "was removed before"}

    def told(self, uuid: str) -> dict[str, Any]:
        """NODE_TUNNEL."""
        held = self.tunnels[uuid]
        tunnel, doing = held["tunnel"], held["until"] > time.monotonic()
        (local,) = (end for end in tunnel["ends"] if end["node"] == self.name)
        status = "inactive" if not tunnel["is_active"] else "active" if held["peer"] and not doing else "connecting"
        return {
            "uuid": uuid, "id": tunnel["id"], "name": tunnel["name"], "type": tunnel["tunnel_type"],
            "version": tunnel["version"], "revision": held["revision"], "active": tunnel["is_active"],
            "interface": local["interface"], "node": self.name, "peer": "", "role": local["role"],
            "status": held.get("status", status),
            "error": held.get("error"), "symptom": held.get("symptom"), "note": None, "refused": False, "missing": [],
            "public": {name: held[name] for name in ("public_key", "fingerprint") if name in held},
            "measured": {"rx_bytes": int(time.monotonic() * 1000)} if self.measured is None else self.measured,
            "recoveries": self.recoveries,
            "peer_key": {"known": held["peer"], "seen": held["seen"]} if held["seen"] else None, "age": self.age,
            "doing": doing,
        }  # fmt: skip


class Nodes:
    """The thread that they run in; all of them end with it."""

    def __init__(self) -> None:
        self.all: list[SimulatedNode] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._shared: tuple[ssl.SSLContext, str] | None = None

    def add(self, name: str, shared: bool = False) -> SimulatedNode:
        """A new one that listens. ``shared``: with the certificate of the others, which is cheaper for a hundred."""
        if shared and self._shared is None:
            self._shared = certificate()
        node = SimulatedNode(name, self, *(self._shared if shared and self._shared else certificate()))
        node.up()
        self.all.append(node)
        return node

    def measure(self, seconds: float) -> None:
        """From now on each of them measures so often, as real ones do, and not all at the same moment."""

        async def always() -> None:
            while True:
                for node in self.all:
                    await asyncio.sleep(seconds / len(self.all))
                    node.tell()

        self._measuring = asyncio.run_coroutine_threadsafe(always(), self._loop)

    def soon(self, work: Callable[[], None]) -> None:
        """Have the thread do something."""
        self._loop.call_soon_threadsafe(work)

    def run(self, work: Any) -> Any:
        """Have the thread do something, and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _cancelled(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.01)  # connections that were let go end in the loop

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        for node in self.all:
            node.down()
        self.run(self._cancelled())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
