# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""Lab hosts with a STAND-IN for Marzban (panel_host/marzban), for the role panel: in a "container" of a STAND-IN for
the docker command (panel_host/docker.py), and under systemd.
"""

from __future__ import annotations

import json
import re
import shutil
import stat
from pathlib import Path
from typing import Any

import yaml

from tests.lab.host import Host
from tests.lab.machine import LabError
from tests.support.panel import Panel
from tests.support.world import World, until

HERE = Path(__file__).resolve().parent / "panel_host"
ADDON = HERE / "addon"  # a STAND-IN for roles/panel/files
PANEL = "0d1f3b52-7c9e-4c8e-9b0f-3a2d5e6f7a81"  # as the stand-in has it
SECRETS = ("r00t-passw0rd", "hunter2%40", "hunter2@", "sudo # pass")

# As an operator leaves it: a database beside it, comments, quotes, carriage returns, and no line's end
COMPOSE = """# پنل 🙂, do not touch
services:
  mariadb:
    image: "mariadb:lts"   # the database
    environment:
      MYSQL_ROOT_PASSWORD: 'r00t-passw0rd'
    command: --bind-address=127.0.0.1

  marzban:
    # Marzban itself
    image: gozargah/marzban:v0.8.4
    restart: always
    env_file: .env
    network_mode: host
    volumes:
      - /var/lib/marzban:/var/lib/marzban
    depends_on: [mariadb]""".replace("\n", "\r\n")
DOTENV = """UVICORN_PORT = 8000
SUDO_USERNAME = "admin"
SUDO_PASSWORD = "sudo # pass"
SQLALCHEMY_DATABASE_URL = "mysql+pymysql://marzban:hunter2%40@127.0.0.1/marzban"
{more}# the end"""
UNIT = """[Unit]
Description=A stand-in for Marzban
[Service]
ExecStart=/usr/bin/env python3 /opt/panel/main.py
Restart=on-failure
WorkingDirectory=/opt/panel
[Install]
WantedBy=multi-user.target
"""


class PanelHost:
    """A host with the stand-in. ``watched`` are the folders whose every byte the role has to give back."""

    watched: tuple[str, ...]
    config: str  # the file that the operator may edit
    dotenv: str
    data: str  # where the stand-in for the database is
    installation: str
    url = "http://127.0.0.1:8000"

    def __init__(self, host: Host) -> None:
        self.host = host

    def path(self, name: str) -> Path:
        return self.host.root / name.lstrip("/")

    def read(self, name: str) -> str:
        return self.path(name).read_bytes().decode()

    def write(self, name: str, text: str, mode: int = 0o644) -> None:
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
        path.chmod(mode)

    def get(self, path: str) -> tuple[int, dict[str, str], Any]:
        """Asked on the host, as the role does it, and by other code: status, headers, JSON."""
        script = f"""
import http.client, json, socket, ssl, sys
place = {self.place!r}
if isinstance(place, str):
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(place)
elif {self.url.startswith("https")}:
    connection = http.client.HTTPSConnection(*place, context=ssl._create_unverified_context())
else:
    connection = http.client.HTTPConnection(*place)
connection.request("GET", {path!r})
answer = connection.getresponse()
print(json.dumps([answer.status, dict(answer.headers), json.loads(answer.read())]))
"""
        status, headers, body = json.loads(self.host.run(["python3", "-c", script]).stdout)
        return status, headers, body

    place: tuple[str, int] | str = ("127.0.0.1", 8000)

    def up(self) -> bool:
        """Whether it answers."""
        try:
            return self.get("/api/admin")[0] == 401
        except LabError:
            return False

    def serves(self) -> bool:
        """Whether with the add-on."""
        status, headers, _body = self.get("/api/tunnels")
        return (status, headers.get("Marzban-Panel-Id")) == (401, PANEL)

    def alone(self) -> bool:
        """Whether without it."""
        return self.get("/api/admin")[0] == 401 and self.get("/api/tunnels")[0] == 404

    def snapshot(self) -> dict[str, tuple[int, bytes]]:
        """Mode and content of all there is in the watched folders."""
        found = {}
        for folder in self.watched:
            top = self.path(folder)
            for path in [top, *sorted(top.rglob("*"))] if top.exists() else []:
                if "__pycache__" not in path.parts:
                    content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
                    found["/" + str(path.relative_to(self.host.root))] = (stat.S_IMODE(path.lstat().st_mode), content)
        return found

    def process(self) -> str:
        """Of the panel; another one after a restart."""
        raise NotImplementedError

    def restart(self) -> None:
        raise NotImplementedError

    def tunnels(self, *names: str) -> None:
        """Records in the stand-in for the database."""
        self.write(f"{self.data}/tables.json", json.dumps([{"id": n, "name": name} for n, name in enumerate(names, 1)]))


class ComposeHost(PanelHost):
    watched = ("/opt/marzban", "/var/lib/marzban")
    config = "/opt/marzban/docker-compose.yml"
    dotenv = "/opt/marzban/.env"
    data = "/var/lib/marzban"
    installation = "compose"

    def set_up(self) -> None:
        library = "/usr/local/lib/docker-stand-in"
        shutil.copytree(HERE / "marzban", self.path("/code"), ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(
            Path(yaml.__file__).parent,
            self.path(f"{library}/yaml"),
            ignore=shutil.ignore_patterns("*.so", "__pycache__"),
        )
        shutil.copy(HERE / "docker.py", self.path(library))
        self.write("/usr/local/bin/docker", f'#!/bin/sh\nexec python3 {library}/docker.py "$@"\n', 0o755)
        self.write(f"{library}/bin/python", '#!/bin/sh\nexec python3 "$@"\n', 0o755)
        self.write(f"{library}/bin/alembic", '#!/bin/sh\necho "migrated: $*"\n', 0o755)
        self.path("/var/lib/marzban").mkdir()
        self.write(self.config, COMPOSE, 0o640)
        self.write(self.dotenv, DOTENV.format(more="DATA = /var/lib/marzban\n"), 0o600)
        self.restart()

    def compose(self, *words: str) -> str:
        return self.host.run(["docker", "compose", "-f", self.config, "-p", "marzban", *words]).stdout

    def restart(self) -> None:
        """As Marzban's own script does it."""
        self.compose("down")
        self.compose("up", "-d", "--remove-orphans")
        until("the panel", self.up)

    pid = "/run/docker-stand-in/marzban.pid"

    def process(self) -> str:
        return self.host.run(["cat", self.pid]).stdout

    def database(self) -> str:
        return self.host.run(["cat", "/run/docker-stand-in/mariadb.pid"]).stdout

    def calls(self) -> list[str]:
        """What the stand-in for docker was called for since the last time: verbs and what follows them."""
        path = self.path("/var/log/docker-stand-in")
        said = re.findall(r"-p marzban (.+)", path.read_text())
        path.write_text("")
        return [call for call in said if not call.startswith(("config", "logs"))]


class SystemdHost(PanelHost):
    watched = ("/opt/panel", "/etc/systemd/system", "/var/lib/marzban")
    config = "/etc/systemd/system/marzban.service"
    dotenv = "/opt/panel/.env"
    data = "/opt/panel"
    installation = "systemd"
    url = "https://127.0.0.1:8443"
    place = ("127.0.0.1", 8443)

    def __init__(self, host: Host, panel: Panel) -> None:
        super().__init__(host)
        self._panel = panel

    def set_up(self) -> None:
        shutil.copytree(HERE / "marzban", self.path("/opt/panel"), ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("server.pem", "server-key.pem"):
            shutil.copy(self._panel.directory / name, self.path("/opt"))
        more = "UVICORN_SSL_CERTFILE = /opt/server.pem\nUVICORN_SSL_KEYFILE = /opt/server-key.pem\n"
        self.write(self.dotenv, DOTENV.format(more=more).replace("8000", "8443"), 0o600)
        self.write(self.config, UNIT)
        self.host.run(["systemctl", "enable", "--quiet", "marzban"])
        self.restart()

    def restart(self) -> None:
        self.host.run("systemctl daemon-reload; systemctl restart marzban")
        until("the panel", self.up)

    def process(self) -> str:
        return self.host.run(["systemctl", "show", "--property=MainPID", "marzban"]).stdout


def hosts_of(world: World) -> tuple[ComposeHost, SystemdHost]:
    """The hosts c and s of a world, with the stand-in running."""
    both = ComposeHost(world.lab.host("c")), SystemdHost(world.lab.host("s"), world.panel)
    for item in both:
        item.set_up()
    return both
