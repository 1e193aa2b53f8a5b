# Copyright (c) 2026 the marzban.tunnels authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role panel on a host with a real Marzban: the unmodified checkout that MARZBAN_SRC names, under the unit that its
own install_service.sh writes, by the Python of Debian 12. The checkout holds a docker-compose.yml, which nobody runs.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.lab.host import Host
from tests.support.marzban import python
from tests.support.world import Run, World, until

SOURCE = os.environ.get("MARZBAN_SRC", "")
pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(not SOURCE, reason="MARZBAN_SRC is not set: give it the path of an unmodified Marzban checkout"),
]
PLACE = "/opt/marzban"
PASSWORD = "real # secret"
NAME = "one (1) متن 🙂"
DOTENV = f"""UVICORN_PORT = 8123
SUDO_USERNAME = "root-admin"
SUDO_PASSWORD = "{PASSWORD}"
XRAY_EXECUTABLE_PATH = "/bin/true"
"""
SCHEMA = """import json, sqlite3
database = sqlite3.connect("/opt/marzban/db.sqlite3")
print(json.dumps(sorted(database.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall(), key=str)))
"""


class Marzban:
    """The host, and the panel on it over HTTP."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.host: Host = world.lab.host("m")
        shutil.copytree(SOURCE, self.path(PLACE), ignore=shutil.ignore_patterns(".git", "__pycache__", "db.sqlite3"))
        made = Path(python("3.11")).parents[1] / "lib/python3.11/site-packages"  # the host is a Debian 12
        shutil.copytree(made, self.path("/usr/local/lib/python3.11/dist-packages"), dirs_exist_ok=True)
        self.path(f"{PLACE}/.env").write_text(DOTENV)
        self.host.run(f"cd {PLACE} && python3 -m alembic upgrade head && bash install_service.sh", timeout=120)
        self.host.run("systemctl enable --quiet --now marzban")
        until("Marzban", lambda: self.status("/api/admin") == 401, 60)

    def path(self, name: str) -> Path:
        return self.host.root / name.lstrip("/")

    def ask(self, method: str, path: str, body: str = "", kind: str = "application/json", token: str = "") -> Any:
        """``[status, text]``"""
        script = (
            "import http.client, json, sys\n"
            "method, path, body, kind, token = json.load(sys.stdin)\n"
            "connection = http.client.HTTPConnection('127.0.0.1', 8123)\n"
            "headers = {'Content-Type': kind, 'Authorization': 'Bearer ' + token}\n"
            "connection.request(method, path, body, headers)\n"
            "answer = connection.getresponse()\n"
            "print(json.dumps([answer.status, answer.read().decode()]))\n"
        )
        given = json.dumps([method, path, body, kind, token])
        done = self.host.run(["python3", "-c", script], input=given, check=False)
        return json.loads(done.stdout) if done.returncode == 0 else [None, done.stderr]

    def status(self, path: str) -> int | None:
        return self.ask("GET", path)[0]

    def call(self, method: str, path: str, body: object = None) -> Any:
        """As the admin."""
        login = f"username=root-admin&password={PASSWORD.replace(' ', '+').replace('#', '%23')}"
        status, text = self.ask("POST", "/api/admin/token", login, "application/x-www-form-urlencoded")
        assert status == 200, text
        status, text = self.ask(method, path, json.dumps(body), token=json.loads(text)["access_token"])
        assert status == 200, text
        return json.loads(text)

    def schema(self) -> str:
        return self.host.run(["python3", "-c", SCHEMA]).stdout

    def files(self) -> dict[str, bytes]:
        """Of Marzban and of its unit, less its database and what Python leaves."""
        tops = [self.path(item) for item in (PLACE, "/etc/systemd/system", "/var/lib/marzban")]
        paths = [path for top in tops for path in [top, *top.rglob("*")] if "__pycache__" not in path.parts]
        return {
            str(path): path.read_bytes() if path.is_file() and not path.is_symlink() else b""
            for path in paths
            if path.exists() and not path.name.startswith("db.sqlite3")
        }

    def run(self, *words: str, code: int = 0, **variables: Any) -> Run:
        given = {"marzban_panel_hosts": "m", **variables}
        run = self.world.play("panel", "--diff", "-vvv", "-e", json.dumps(given), *words, inventory=self.world.static())
        assert run.code == code, run.text
        assert PASSWORD not in run.text + json.dumps(run.events)
        return run


@pytest.fixture(scope="module")
def marzban(make_world: Callable[..., World]) -> Marzban:
    return Marzban(make_world(register=False, m="bookworm"))


def test_a_stock_marzban_gets_tunnels_and_loses_them_again(marzban: Marzban) -> None:
    schema, files = marzban.schema(), marzban.files()
    assert marzban.status("/api/tunnels") == 404
    assert "restarted" in marzban.run("--check").results("panel_addon")[0]["changes"]
    assert marzban.files() == files

    answer = marzban.run(panel_settings={"TUNNEL_IPV4_POOL": "10.77.0.0/16"}).results("panel_addon")[0]
    assert (answer["version"], answer["installation"]) == ("0.8.4", "systemd")
    assert marzban.status("/api/tunnels") == 401
    assert marzban.call("GET", "/api/tunnels") == []
    nodes = [
        marzban.call("POST", "/api/node", {"name": name, "address": address, "add_as_new_host": False})["id"]
        for name, address in (("de-1", "203.0.113.1"), ("fi-1", "203.0.113.2"))
    ]
    body = {"source_node_id": nodes[0], "target_node_id": nodes[1], "tunnel_type": "wireguard", "name": NAME}
    tunnel = marzban.call("POST", "/api/tunnels", body)
    assert "10.77.0." in json.dumps(tunnel)
    assert marzban.run().changed() != [], "the settings go"
    assert marzban.run().changed() == []
    assert [item["id"] for item in marzban.call("GET", "/api/tunnels")] == [tunnel["id"]]

    refusal = marzban.run(code=2, panel_state="absent").results("panel_addon")[0]["msg"]
    assert refusal.startswith(f"The panel still has 1 tunnel ({NAME}).")
    removed = marzban.run(panel_state="absent", panel_remove_records=True).results("panel_addon")[0]
    assert json.loads(marzban.path(removed["records"]).read_text())["tunnels"][0]["uuid"] == tunnel["uuid"]
    assert marzban.status("/api/tunnels") == 404
    assert marzban.schema() == schema
    assert marzban.files() == files
    assert {node["name"] for node in marzban.call("GET", "/api/nodes")} == {"de-1", "fi-1"}
    assert marzban.run(panel_state="absent").changed() == []
