# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Database servers of Debian's packages, each in a folder and on a socket of its own, which go with it.

with MariaDB() as server:
    url = server.database("panel")
"""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.lab import machine


def _say(text: str) -> None:
    print(text, flush=True)


class Server:
    """A server as a process; it ends with the ``with``."""

    command: list[str]
    user: str

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="server-"))  # pytest's folders are root's alone
        shutil.chown(self.directory, self.user)
        self.log = self.directory / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    def ready(self) -> bool:
        """Whether it answers."""
        raise NotImplementedError

    def run(self, command: list[str], check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command as the server's own user: neither likes root."""
        return machine.run(["setpriv", f"--reuid={self.user}", "--clear-groups", *command], check=check, timeout=120)

    def __enter__(self) -> Self:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", f"--reuid={self.user}", "--clear-groups", *self.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            machine.until(f"answer of {self.command[0]} (see {self.log})", self.ready, 60)
        except machine.LabError:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)
        shutil.rmtree(self.directory, ignore_errors=True)


class MariaDB(Server):
    """MariaDB, with a root that has no password, on a Unix socket only."""

    user = "nobody"

    def __init__(self) -> None:
        super().__init__()
        machine.install({"mariadbd": "mariadb-server-core", "mariadb": "mariadb-client-core"}, _say)
        data, self._socket = self.directory / "data", self.directory / "socket"
        make = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--skip-test-db", "--skip-name-resolve"]
        self.run([*make, "--auth-root-authentication-method=normal"])
        self.command = ["mariadbd", "--no-defaults", f"--datadir={data}", f"--socket={self._socket}"]
        self.command += ["--skip-networking", "--innodb-flush-log-at-trx-commit=0"]

    def ready(self) -> bool:
        return self._sql("SELECT 1", check=False).returncode == 0

    def database(self, name: str) -> str:
        """An empty database; answers its URL. Its collation is what MariaDB has when nobody asks for one."""
        self._sql(f"CREATE DATABASE {name}")
        return f"mysql+pymysql://root@localhost/{name}?unix_socket={self._socket}"

    def _sql(self, text: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        client = ["mariadb", "--no-defaults", f"--socket={self._socket}", "--user=root"]
        return self.run([*client, f"--execute={text}"], check)


class PostgreSQL(Server):
    """PostgreSQL, that trusts everybody, on a Unix socket only."""

    user = "nobody"

    def __init__(self) -> None:
        super().__init__()
        if not _postgresql():
            alone = Path("/etc/postgresql-common/createcluster.d/tests.conf")  # Debian's package would start a server
            alone.parent.mkdir(parents=True, exist_ok=True)
            alone.write_text("create_main_cluster = false\n")
            machine.install({"initdb": "postgresql"}, _say)  # Debian's name for its newest
        self._bin = _postgresql()
        data = self.directory / "data"
        self.run([f"{self._bin}/initdb", "--username=panel", "--auth=trust", "--no-sync", f"--pgdata={data}"])
        self.command = [f"{self._bin}/postgres", "-D", str(data), "-k", str(self.directory), "-h", "", "-F"]

    def ready(self) -> bool:
        return self._client("psql", "--dbname=postgres", "--command=SELECT 1", check=False).returncode == 0

    def database(self, name: str) -> str:
        """An empty database; answers its URL."""
        self._client("createdb", name)
        return f"postgresql+psycopg://panel@/{name}?host={self.directory}"

    def _client(self, command: str, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run([f"{self._bin}/{command}", f"--host={self.directory}", "--username=panel", *words], check)


def _postgresql() -> str:
    """The folder of the newest PostgreSQL's commands; empty where there is none."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))
    return os.path.dirname(found[-1]) if found else ""
