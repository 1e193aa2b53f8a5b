# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The node service's front as its unit starts it, in a process of its own, with real TLS."""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import ipaddress
import json
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.world import until

FRONT = Path(__file__).resolve().parents[2] / "roles/node_api/files/front.py"


def make_certificate(folder: Path, name: str) -> bytes:
    """A self-signed certificate ``name.crt`` with ``name.key``; the certificate in DER."""
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    day = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(who).issuer_name(who).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(day).not_valid_after(day.replace(year=2119))
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = builder.add_extension(here, critical=False).sign(key, hashes.SHA256())
    (folder / f"{name}.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return made.public_bytes(serialization.Encoding.DER)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Front:
    """A front that listens. ``log`` is the file with what it says."""

    def __init__(self, folder: Path, root_half: str, clients: str = "") -> None:
        self.folder, self.log = folder, folder / "log"
        if not (folder / "tls.crt").exists():
            make_certificate(folder, "tls")
        (folder / "clients.pem").write_text(clients)
        self.port = free_port()
        self.cwd = folder / "cwd"
        self.cwd.mkdir(exist_ok=True)
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-I", str(FRONT), str(self.port), root_half],
                env={"CREDENTIALS_DIRECTORY": str(folder), "TMPDIR": str(self.cwd), "HOME": str(self.cwd)},
                cwd=self.cwd,
                stdout=log,
                stderr=log,
            )
        until("the front listens", self._listens)

    def _listens(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            return True
        return False

    def close(self) -> None:
        """Ends it. It has to have left no file, whatever was sent to it: neither where it runs, nor open."""
        links = [path.readlink() for path in Path(f"/proc/{self.process.pid}/fd").iterdir()]
        files = {path for path in links if path.is_file()} - {self.log}
        self.process.terminate()
        self.process.wait(10)
        assert [*self.cwd.iterdir(), *files] == []

    def connect(self, timeout: float = 20, certificate: Path | None = None, **more: Any) -> ssl.SSLSocket:
        """A connection over TLS; it trusts the front's certificate only."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(self.folder / "tls.crt")
        for name, value in more.items():
            setattr(context, name, value)
        if certificate:
            context.load_cert_chain(certificate, certificate.with_suffix(".key"))
        plain = socket.create_connection(("127.0.0.1", self.port), timeout)
        return context.wrap_socket(plain)

    def send(self, data: bytes, **more: Any) -> bytes:
        """All that is answered to these bytes, until the front ends the connection or this side is done."""
        with self.connect(**more) as client:
            with contextlib.suppress(OSError):  # it may have ended the connection already
                client.sendall(data)
            return read_all(client)

    def ask(
        self,
        method: str,
        path: str,
        key: str | None = None,
        body: Any = None,
        client: ssl.SSLSocket | None = None,
        **headers: str,
    ) -> tuple[int, dict[str, str], Any]:
        """``(status, headers, body)`` of one request."""
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        given = {"Host": "node", **{name.replace("_", "-"): value for name, value in headers.items()}}
        if key is not None:
            given["Authorization"] = f"Bearer {key}"
        if content:
            given["Content-Length"] = str(len(content))
        lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        used = client or self.connect()
        used.sendall(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + content)
        try:
            return read_answer(used)
        finally:
            if client is None:
                used.close()


def read_all(client: socket.socket) -> bytes:
    found = b""
    with contextlib.suppress(OSError):
        while piece := client.recv(65536):
            found += piece
    return found


def read_answer(client: socket.socket) -> tuple[int, dict[str, str], Any]:
    """One answer, with its body as JSON or text."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = client.recv(65536)
        assert piece, data
        data += piece
    head, _end, content = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _colon, value in (line.partition(": ") for line in lines)}
    while len(content) < int(headers["content-length"]):
        content += client.recv(65536)
    is_json = headers["content-type"] == "application/json"
    return int(first.split()[1]), headers, json.loads(content) if is_json else content.decode()


def pin_of(folder: Path) -> str:
    """The pin of ``tls.crt``, as the panel checks it."""
    certificate = x509.load_pem_x509_certificate((folder / "tls.crt").read_bytes())
    spki = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return "sha256:" + base64.b64encode(hashlib.sha256(spki).digest()).decode()
