# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The standalone panel as a process, for tests.

    with Panel.start(tmp_path) as panel:
        requests.get(panel.url + "/api/nodes", headers=panel.headers(), verify=panel.ca_path)

Runs with the interpreter of the caller, which needs fastapi, uvicorn, sqlalchemy, alembic, pyjwt, python-multipart and
cryptography. ``panel.call`` is a small client without proxies and environment, for tests of other things.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import sqlite3
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

PACKAGES = Path(__file__).resolve().parents[2] / "roles" / "panel" / "files"


class Panel:
    """A running panel.

    ``url``, ``username``, ``password``, ``database``, ``log_path``, and ``ca_path`` (None without TLS).
    """

    def __init__(
        self, directory: Path, tls: bool, username: str, password: str, env: dict[str, str], port: int, host: str
    ) -> None:
        self.directory = directory
        self.username = username
        self.password = password
        self.host = host
        self.port = port
        self.database = directory / "panel.db"
        self.log_path = directory / "panel.log"
        self.error_path = directory / "panel.stderr"
        self.ca_path: str | None = str(directory / "ca.pem") if tls else None
        self.packages = PACKAGES  # where its package is; another one takes effect at the next restart
        self._env = env
        self._process: subprocess.Popen[bytes] | None = None
        self._token = ""

    @classmethod
    def start(
        cls,
        directory: str | Path,
        tls: bool = True,
        username: str = "admin",
        password: str | None = None,
        env: dict[str, str] | None = None,
        port: int = 0,
        host: str = "127.0.0.1",
        packages: Path = PACKAGES,
    ) -> Panel:
        """Start a panel whose files are in ``directory``, and return once it takes requests. ``env`` sets the panel's
        own settings; the password is a random one unless given. ``packages`` is the folder of its Python package."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        panel = cls(directory, tls, username, password or secrets.token_urlsafe(16), env or {}, port, host)
        panel.packages = packages
        if tls:
            panel.run("certificate", str(directory), "--name", host, "--name", "localhost")
        panel.restart()
        return panel

    @property
    def url(self) -> str:
        """The base URL, without a trailing slash."""
        return f"{'https' if self.ca_path else 'http'}://{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        """Of its process."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """End the process as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Stop when running, and start on the same port and database."""
        self.stop()
        port_file = self.directory / "port"
        port_file.unlink(missing_ok=True)
        command = ["serve", "--database", str(self.database), "--host", self.host, "--port", str(self.port)]
        command += ["--port-file", str(port_file), "--log-file", str(self.log_path)]
        if self.ca_path:
            command += ["--tls-cert", str(self.directory / "server.pem")]
            command += ["--tls-key", str(self.directory / "server-key.pem")]
        environment = self._environment(SUDO_USERNAME=self.username, SUDO_PASSWORD=self.password, **self._env)
        with self.error_path.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "marzban_tunnels", *command],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
            )
        deadline = time.monotonic() + 180
        while not port_file.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"the panel did not start: {self.error_path.read_text()}{self.log_path.read_text()}")
            time.sleep(0.02)
        self.port = int(port_file.read_text())

    def stop(self) -> None:
        """End the process; the files stay."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def __enter__(self) -> Panel:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def log_lines(self) -> list[dict[str, Any]]:
        """The access log so far: ``time``, ``method``, ``path``, ``status``, ``milliseconds``, ``admin``, ``client``.
        The line of a request is there as soon as its answer has been read."""
        lines = [json.loads(line) for line in self.log_path.read_text().splitlines()]
        return [line for line in lines if "method" in line]

    def writes(self) -> list[str]:
        """The requests so far that could have changed a record, such as ``PUT /api/tunnels/3``.
        Asking for a token does not count."""
        return [
            f"{line['method']} {line['path']}"
            for line in self.log_lines()
            if line["method"] not in ("GET", "HEAD", "OPTIONS") and line["path"] != "/api/admin/token"
        ]

    def run(self, *arguments: str, **environment: str) -> str:
        """Run another command of the package, and answer what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "marzban_tunnels", *arguments],
            env=self._environment(**environment),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"marzban_tunnels {' '.join(arguments)}: {done.stderr}")
        return done.stdout

    def add_admin(self, username: str, password: str, sudo: bool = False) -> None:
        """Another admin; not sudo unless asked for."""
        rank = ["--sudo"] if sudo else []
        self.run("admin", username, *rank, "--database", str(self.database), ADMIN_PASSWORD=password)

    def token(self, username: str | None = None, password: str | None = None) -> str:
        """A fresh token."""
        form = {"username": username or self.username, "password": password or self.password}
        status, body = self.request("POST", "/api/admin/token", form=form)
        if status != 200:
            raise RuntimeError(f"no token: {status} {body}")
        return str(body["access_token"])

    def headers(self) -> dict[str, str]:
        """The Authorization header, with a token that is asked for once."""
        self._token = self._token or self.token()
        return {"Authorization": f"Bearer {self._token}"}

    def call(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        """A call as the admin; answers the JSON, and fails unless the status is as expected."""
        got, answer = self.request(method, path, body, headers=self.headers())
        if got != status:
            raise AssertionError(f"{method} {path}: {got}, not {status}: {answer}")
        return answer

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        form: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, Any]:
        """A bare request; answers status and JSON (text where it is not JSON)."""
        sent = dict(headers or {})
        data = None
        if form is not None:
            data, sent["Content-Type"] = urlencode(form).encode(), "application/x-www-form-urlencoded"
        elif body is not None:
            data, sent["Content-Type"] = json.dumps(body).encode(), "application/json"
        place = urlsplit(self.url)
        assert place.hostname
        connection: http.client.HTTPConnection
        if self.ca_path:
            context = ssl.create_default_context(cafile=self.ca_path)
            connection = http.client.HTTPSConnection(place.hostname, place.port, timeout=30, context=context)
        else:
            connection = http.client.HTTPConnection(place.hostname, place.port, timeout=30)
        try:
            connection.request(method, path, data, sent)
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        try:
            return response.status, json.loads(text)
        except ValueError:
            return response.status, text

    def add_node(self, name: str, address: str, **fields: Any) -> Any:
        """A new node."""
        return self.call("POST", "/api/node", {"name": name, "address": address, "add_as_new_host": False, **fields})

    def add_tunnel(self, source: int, target: int, name: str | None = None, **fields: Any) -> Any:
        """A new WireGuard tunnel between two nodes' ids."""
        body = {"source_node_id": source, "target_node_id": target, "tunnel_type": "wireguard", "name": name, **fields}
        return self.call("POST", "/api/tunnels", body)

    def _environment(self, **more: str) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if key not in ("SUDO_USERNAME", "SUDO_PASSWORD")}
        return {**kept, "PYTHONPATH": str(self.packages), **more}


@contextlib.contextmanager
def database(panel: Panel) -> Iterator[sqlite3.Connection]:
    """The panel's database, behind its back; foreign keys are not enforced here. Counts as one of its own
    writes, so that who has the list already is given it again."""
    connection = sqlite3.connect(panel.database, timeout=10)
    try:
        yield connection
        connection.execute("UPDATE tunnel_panel SET writes = writes + 1")
        connection.commit()
    finally:
        connection.close()
