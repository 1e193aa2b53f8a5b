# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""A Marzban as a process, with the add-on as its role installs it: ``python …/start.py`` in Marzban's folder.

``source()`` is the unmodified checkout that MARZBAN_SRC names; without one, the stand-in beside this file is run, which
is not one and says so. The checkout's Python is MARZBAN_PYTHON, or a virtual environment with its requirements.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

import prometheus_client
import requests

from tests.lab import machine
from tests.support.panel_api import Api

TOP = Path(__file__).resolve().parents[2]
FILES = TOP / "roles" / "panel" / "files"
STANDIN = Path(__file__).resolve().parent / "standin"
MISSING = "MARZBAN_SRC is not set: give it the path of an unmodified Marzban checkout"


def source() -> Path | None:
    """The checkout that the environment names."""
    return Path(os.environ["MARZBAN_SRC"]).resolve() if os.environ.get("MARZBAN_SRC") else None


def python(version: str = "") -> str:
    """A Python that has the checkout's requirements, of this version where one is wanted."""
    if os.environ.get("MARZBAN_PYTHON") and not version:
        return os.environ["MARZBAN_PYTHON"]
    checkout = source()
    assert checkout, MISSING
    wanted = (checkout / "requirements.txt").read_text()
    found = dict(line.split(" ", 1) for line in machine.run([str(TOP / "tools/pythons")]).stdout.splitlines())
    version = version or ("3.12" if "3.12" in found else "3.11")
    venv = TOP / ".cache" / "venv" / f"marzban-src-{version}-{hashlib.sha256(wanted.encode()).hexdigest()[:12]}"
    with machine.lock(venv.with_suffix(".lock")):
        if not (venv / "made").exists():
            shutil.rmtree(venv, ignore_errors=True)
            machine.run([found[version], "-m", "venv", str(venv)])
            # APScheduler wants pkg_resources, which later setuptools have no longer
            pip = [str(venv / "bin/pip"), "install", "--quiet", "--requirement", str(checkout / "requirements.txt")]
            machine.run([*pip, "setuptools<81"], timeout=1200)
            (venv / "made").touch()
    return str(venv / "bin" / "python")


def _in_memory() -> str:
    """A folder for a database, quick, and gone with this process."""
    memory = Path("/dev/shm")
    folder = tempfile.mkdtemp(prefix="marzban-", dir=memory if memory.is_dir() else None)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


class Marzban:
    """``url``, ``username``, ``password``, ``ca_path`` (None without TLS); ``addon`` is the folder with the add-on,
    ``log`` what the process said."""

    def __init__(
        self,
        directory: Path,
        database: str = "",
        real: bool = False,
        addon: bool = True,
        tls: bool = False,
        **env: str,
    ) -> None:
        self.directory = directory
        self.addon = directory / "addon"
        self.log = directory / "marzban.log"
        self.username, self.password = "admin", secrets.token_urlsafe(12)
        self.database = database or f"sqlite:///{_in_memory()}/db.sqlite3"
        self._real = real
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)
        if addon:
            self.install()
        self.folder, self.python = self._place()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.env = {
            "SQLALCHEMY_DATABASE_URL": self.database,
            "SUDO_USERNAME": self.username,
            "SUDO_PASSWORD": self.password,
            "UVICORN_PORT": str(self.port),
            "XRAY_EXECUTABLE_PATH": str(self._xray()),
            "JWT_ACCESS_TOKEN_EXPIRE_MINUTES": "70",
            "PYTHONDONTWRITEBYTECODE": "1",
            **env,
        }
        self.ca_path = self._certificate() if tls else None

    @property
    def url(self) -> str:
        """The base URL, without a trailing slash."""
        return f"{'https' if self.ca_path else 'http'}://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of its process."""
        assert self._process is not None
        return self._process.pid

    def install(self) -> None:
        """Put the add-on's files in place, as the role does."""
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(FILES / "marzban_tunnels", self.addon / "marzban_tunnels", ignore=ignore, dirs_exist_ok=True)
        shutil.copy(FILES / "start.py", self.addon)
        library = Path(prometheus_client.__file__).parent  # the role has the host's
        shutil.copytree(library, self.addon / "libraries" / library.name, ignore=ignore, dirs_exist_ok=True)

    def start(self) -> Marzban:
        """Run, with the add-on where it is installed; returns once it answers."""
        if self._real:
            self.call("-m", "alembic", "upgrade", "head")
        entry = str(self.addon / "start.py") if self.addon.exists() else "main.py"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self.python, entry],
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        process, end = self._process, time.monotonic() + 60
        while not self.answers():
            if process.poll() is not None or time.monotonic() > end:
                self.stop()
                raise RuntimeError(f"Marzban did not start: {self.log.read_text()[-4000:]}")
            time.sleep(0.05)
        return self

    def stop(self) -> None:
        """End the process; the files stay."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def __enter__(self) -> Marzban:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def answers(self) -> bool:
        """Whether requests are taken."""
        try:
            return requests.get(f"{self.url}/api/admin", timeout=5, verify=self.ca_path or True).status_code == 401
        except requests.RequestException:
            return False

    def api(self) -> Api:
        """A logged-in client."""
        api = Api(self.url, self.username, self.password, self.ca_path or True)
        api.impatient = self.database.startswith("sqlite")
        return api.login()

    def call(self, *words: str) -> str:
        """Run Marzban's Python in its folder and environment, and answer what it printed."""
        done = subprocess.run(
            [self.python, *words], cwd=self.folder, env=self._environment(), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stdout}{done.stderr}")
        return done.stdout

    def memory(self) -> int:
        """Resident memory of the process, in KiB."""
        assert self._process
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1])

    def processor(self) -> float:
        """Seconds of CPU that the process has used."""
        assert self._process
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _place(self) -> tuple[Path, str]:
        if self._real:
            checkout = source()
            assert checkout, MISSING
            return checkout, python()
        folder = self.directory / "standin"
        shutil.copytree(STANDIN, folder, dirs_exist_ok=True)
        return folder, sys.executable

    def _environment(self) -> dict[str, str]:
        dropped = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "DEBUG", "PYTHONPATH")
        kept = {key: value for key, value in os.environ.items() if key not in dropped}
        # The stand-in's own calls are the standalone door's; a real Marzban finds nothing of ours but what it is given.
        ours = {} if self._real else {"PYTHONPATH": str(self.addon if self.addon.exists() else FILES)}
        return {**kept, **self.env, **ours}

    def _certificate(self) -> str:
        """Have it serve TLS by a certificate of the standalone door's making; answers the CA's path."""
        command = [sys.executable, "-m", "marzban_tunnels", "certificate", str(self.directory), "--name", "127.0.0.1"]
        env = {**os.environ, "PYTHONPATH": str(FILES)}
        subprocess.run(command, env=env, check=True, capture_output=True)
        self.env |= {
            "UVICORN_SSL_CERTFILE": str(self.directory / "server.pem"),
            "UVICORN_SSL_KEYFILE": str(self.directory / "server-key.pem"),
            "UVICORN_SSL_CA_TYPE": "private",
            "UVICORN_HOST": "127.0.0.1",
        }
        return str(self.directory / "ca.pem")

    def _xray(self) -> Path:
        """A STAND-IN for Xray: tells a version, and else stays."""
        program = self.directory / "xray"
        program.write_text('#!/bin/sh\n[ "$1" = version ] && echo "Xray 1.8.24" && exit\nexec sleep infinity\n')
        program.chmod(0o755)
        return program
