# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role panel on a host with a real Docker and Docker Compose, and an update of Marzban's image that starts in
another way. In the image is the unmodified Marzban that MARZBAN_SRC names, or else the STAND-IN of panel_hosts.py.

What this shows with stand-ins for Docker, and in all its cases: test_role_panel.py and test_role_panel_rescue.py.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.marzban.tunnels.plugins.action.panel_addon import read
from ansible_collections.marzban.tunnels.plugins.module_utils._installer import package
from tests.lab.image import Image
from tests.support import addon_direct
from tests.support.marzban import FILES, python, source
from tests.support.panel_hosts import ADDON, HERE, ComposeHost
from tests.support.world import World, until

pytestmark = [pytest.mark.lab, pytest.mark.variation]
REAL = source() is not None
SOURCE = FILES if REAL else ADDON
PASSWORD = "r00t-passw0rd"
NAME = "one (1) متن 🙂"
LATEST = "gozargah/marzban:latest"
FOLDER = "/var/lib/marzban/tunnels"
# As Marzban's own
COMPOSE = f"""services:
  marzban:
    image: {LATEST}
    restart: always
    env_file: .env
    network_mode: host
    volumes:
      - /var/lib/marzban:/var/lib/marzban
"""
DOTENV = f"""UVICORN_PORT = 8000
SUDO_USERNAME = "root-admin"
SUDO_PASSWORD = "{PASSWORD}"
XRAY_EXECUTABLE_PATH = "/bin/true"
SQLALCHEMY_DATABASE_URL = "sqlite:////var/lib/marzban/db.sqlite3"
DATA = /var/lib/marzban
"""
# As Marzban's own, less what fetches things
KNOWN = """FROM debian
WORKDIR /code
COPY bin /usr/local/bin
COPY code /code
COPY packages /usr/local/lib/python3.11/dist-packages
CMD ["bash", "-c", "alembic upgrade head; python main.py"]
"""
# Its packages are off the path of `python`, and only its own command knows where they are.
OTHER = """FROM debian
WORKDIR /code
COPY python /usr/local/bin/python
COPY code /code
COPY packages /opt/packages
CMD ["bash", "-c", "export PYTHONPATH=/opt/packages; python -m alembic upgrade head; exec python main.py"]
"""
# It gets the command as its arguments, and does not look at them.
ENTRY = """FROM marzban:known
ENTRYPOINT ["bash", "-c", "alembic upgrade head; exec python main.py"]
"""


class DockerHost(ComposeHost):
    """A host as Marzban's installation script leaves it, with two images of Marzban."""

    def set_up(self) -> None:
        context = self.path("/root/image")
        packages = context / "packages"
        if REAL:
            ignore = shutil.ignore_patterns(".git", "__pycache__", "db.sqlite3")
            shutil.copytree(str(source()), context / "code", ignore=ignore)
            made = Path(python("3.11")).parents[1] / "lib/python3.11/site-packages"  # the image is a Debian 12
            shutil.copytree(made, packages)  # as compiled by pip, or each new container compiles it again
        else:
            shutil.copytree(HERE / "marzban", context / "code", ignore=shutil.ignore_patterns("__pycache__"))
            packages.mkdir()
            (context / "code/config.py").rename(packages / "config.py")
        (context / "bin").mkdir()
        self.write("/root/image/bin/python", '#!/bin/sh\nexec python3 "$@"\n', 0o755)
        self.write("/root/image/bin/alembic", '#!/bin/sh\nexec python3 -m alembic "$@"\n', 0o755)
        shutil.copy(context / "bin/python", context / "python")
        self._import_debian()
        for name, text in (("known", KNOWN), ("other", OTHER), ("entry", ENTRY)):
            self.write(f"/root/image/{name}", text)
            build = f"DOCKER_BUILDKIT=0 docker build --quiet --tag marzban:{name} --file /root/image/{name} /root/image"
            self.host.run(build, timeout=300)
        self.write(self.config, COMPOSE)
        self.write(self.dotenv, DOTENV, 0o600)
        self.have("known")
        self.restart()

    def _import_debian(self) -> None:
        unpack = ["zstd", "--decompress", "--stdout", str(Image("bookworm").ready(print).archive)]
        into = self.host.inside(["docker", "import", "-", "debian"])
        with subprocess.Popen(unpack, stdout=subprocess.PIPE) as tar:
            subprocess.run(into, stdin=tar.stdout, stdout=subprocess.DEVNULL, check=True)
        assert tar.returncode == 0

    def restart(self) -> None:
        self.compose("down")
        self.compose("up", "-d", "--remove-orphans")
        until("the panel", self.up, 60)

    def serves(self) -> bool:
        status, headers, _body = self.get("/api/tunnels")
        return status == 401 and "marzban-panel-id" in map(str.lower, headers)

    def have(self, image: str) -> None:
        """As `docker pull` brings it under the name that the compose file has."""
        self.host.run(["docker", "tag", f"marzban:{image}", LATEST])

    def update(self) -> None:
        """As `marzban update` does it one day."""
        self.have("other")
        self.compose("down")
        self.compose("up", "-d", "--remove-orphans")
        until("a container that was started again", lambda: int(self.state("RestartCount")) > 0, 60)

    def state(self, what: str) -> str:
        return self.host.run(["docker", "inspect", "--format", f"{{{{.{what}}}}}", "marzban-marzban-1"]).stdout.strip()

    def record(self) -> None:
        """A tunnel on the panel."""
        if not REAL:
            self.tunnels(NAME)
            return
        script = """
import json, sys, urllib.parse, urllib.request
def call(path, body, token="", kind="application/json"):
    headers = {"Content-Type": kind, "Authorization": "Bearer " + token}
    request = urllib.request.Request("http://127.0.0.1:8000" + path, body.encode(), headers)
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)
login, name = json.load(sys.stdin)
form = "application/x-www-form-urlencoded"
token = call("/api/admin/token", urllib.parse.urlencode(login), kind=form)["access_token"]
ids = [
    call("/api/node", json.dumps({"name": node, "address": "127.0.0.1", "add_as_new_host": False}), token)["id"]
    for node in ("de-1", "fi-1")
]
body = {"source_node_id": ids[0], "target_node_id": ids[1], "tunnel_type": "wireguard", "name": name}
body["config"] = json.dumps({role: {"endpoint": "203.0.113.1"} for role in ("source", "target")})
call("/api/tunnels", json.dumps(body), token)
"""
        given = json.dumps([{"username": "root-admin", "password": PASSWORD}, NAME])
        self.host.run(["python3", "-c", script], input=given)


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    return make_world(register=False, d="trixie+docker")


@pytest.fixture(scope="module")
def d(world: World) -> DockerHost:
    host = DockerHost(world.lab.host("d"))
    host.set_up()
    addon_direct.prepare(host)
    return host


def call(host: DockerHost, **given: Any) -> dict[str, Any]:
    return addon_direct.run(host, archive=package.pack(read(str(SOURCE))), health_timeout=60, **given)


def test_an_image_that_starts_in_another_way(world: World, d: DockerHost) -> None:
    given = {"marzban_panel_hosts": "d", "panel_source": str(SOURCE)}
    run = world.play("panel", "-e", json.dumps(given), inventory=world.static())
    assert run.code == 0, run.text
    assert run.results("panel_addon")[0]["changes"] == [
        f"{d.config}: command written",
        f"{FOLDER}: add-on written",
        "restarted",
    ]
    assert d.serves()
    d.record()

    d.update()
    assert not d.up()
    said = call(d)["msg"]
    assert "Only a restart was tried. Without the add-on's lines Marzban starts, so they were taken out of" in said
    assert d.alone()
    assert d.read(d.config) == COMPOSE

    d.have("known")
    assert call(d)["changes"] == [f"{d.config}: command written", "restarted"]
    assert d.serves()

    d.update()
    answer = call(d, state="absent")
    assert answer["changes"] == [f"{d.config}: command taken out", "restarted"]
    assert "ModuleNotFoundError: No module named" in answer["left"]
    assert d.read(d.config) == COMPOSE
    d.restart()
    assert d.alone()

    d.have("known")
    d.restart()
    assert f"The panel still has 1 tunnel ({NAME})." in call(d, state="absent")["msg"]
    done = call(d, state="absent", remove_records=True)
    assert done["changes"] == [f"{FOLDER}: add-on removed", "tables dropped"]
    assert [item["name"] for item in json.loads(d.path(done["records"]).read_text())["tunnels"]] == [NAME]
    assert d.alone()

    d.have("entry")
    d.restart()
    said = call(d)["msg"]
    assert f"The image '{LATEST}' has an ENTRYPOINT of its own" in said
    assert said.endswith("The old state is back, and the panel answers.")
    assert d.read(d.config) == COMPOSE
    assert d.alone()
