# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The door into Marzban, as the role installs it: what it does to the panel that it is in, and what it must not do.

Each test runs with the stand-in, and with a real Marzban where MARZBAN_SRC names a checkout; what the database has to
do with, on SQLite and on MariaDB.
"""

from __future__ import annotations

import itertools
import json
import re
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from sqlalchemy import Connection, NullPool, create_engine, text

from marzban_tunnels import __version__, migrate
from tests.contract.conftest import DOORS
from tests.lab import machine
from tests.support import marzban
from tests.support.marzban import Marzban

Made = Callable[..., Marzban]
_numbers = itertools.count(1)
OURS = ("tunnel_panel", "tunnels", "tunnel_ends", "tunnel_addresses", "alembic_version_tunnels")


#: What a Marzban is and its database → the door that it belongs to
ALL = {
    "standin-sqlite": "mounted",
    "standin-mariadb": "mounted",
    "marzban-sqlite": "marzban-sqlite",
    "marzban-mariadb": "marzban-mariadb",
}
KINDS = [kind for kind, door in ALL.items() if door in DOORS]
# What MariaDB does otherwise than SQLite is in other tests: the schema, two that start at once, twenty clients.
mariadb_is_a_variation = pytest.mark.parametrize(
    "make",
    [pytest.param(kind, marks=pytest.mark.variation) if kind == "standin-mariadb" else kind for kind in KINDS],
    indirect=True,
)
# The same on SQLite: the schema is in test_panel_migrations.py, twenty clients in test_contract_concurrency.py.
sqlite_is_a_variation = pytest.mark.parametrize(
    "make",
    [pytest.param(kind, marks=pytest.mark.variation) if kind == "standin-sqlite" else kind for kind in KINDS],
    indirect=True,
)
without_mariadb = pytest.mark.parametrize("make", [kind for kind in KINDS if "mariadb" not in kind], indirect=True)


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Made]:
    """Makes panels, not started yet, which are stopped at the end. ``like`` gives one the database of another."""
    kind, database = request.param.split("-")
    if kind == "marzban" and not marzban.source():
        pytest.skip(marzban.MISSING)
    made: list[Marzban] = []

    def one(like: Marzban | None = None, **options: Any) -> Marzban:
        number = next(_numbers)
        url = ""
        if like:
            url = like.database
        elif database == "mariadb":
            url = request.getfixturevalue("mariadb").database(f"mounted{number}")
        made.append(Marzban(tmp_path / str(number), url, real=kind == "marzban", **options))
        return made[-1]

    yield one
    for panel in made:
        panel.stop()


@contextmanager
def connected(panel: Marzban) -> Iterator[Connection]:
    """A connection to a panel's database, with a transaction that is committed at the end."""
    engine = create_engine(panel.database, poolclass=NullPool)
    with engine.begin() as connection:
        yield connection


def schema(panel: Marzban) -> str:
    """All that the database says about its tables."""
    with connected(panel) as connection:
        if connection.dialect.name == "sqlite":
            query = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name"
            return repr(connection.execute(text(query)).all())
        names = sorted(connection.scalars(text("SHOW TABLES")))
        made = [connection.execute(text(f"SHOW CREATE TABLE `{name}`")).one()[1] for name in names]
    return re.sub(r" AUTO_INCREMENT=\d+", "", "\n".join(made))


def get(panel: Marzban, path: str) -> requests.Response:
    return requests.get(panel.url + path, timeout=30, allow_redirects=False)


def expect_marzban_alone(panel: Marzban) -> None:
    """It logs in, lists its nodes and shows its dashboard."""
    api = panel.api()
    assert api.send("GET", "/api/nodes") == []
    node = api.node()
    api.send("DELETE", f"/api/node/{node['id']}")
    assert get(panel, "/dashboard/").status_code == 200


@sqlite_is_a_variation
def test_the_schema_comes_and_goes_and_comes(make: Made) -> None:
    bare = make(addon=False)
    with bare:
        bare.api().node(name="de-1")
    before = schema(bare)
    assert not any(name in before for name in OURS)

    panel = make(like=bare)
    assert json.loads(panel.call(str(panel.addon / "start.py"), "records")) == {
        "version": __version__,
        "revision": None,
        "tunnels": [],
    }
    with panel:
        full = schema(panel)
        assert all(name in full for name in OURS)
        api = panel.api()
        made = api.tunnel(api.send("GET", "/api/nodes")[0], api.node(name="fi-1"), name="de-fi")
    with panel:
        assert schema(panel) == full, "a second start changes nothing"
        assert panel.api().send("GET", "/api/tunnels") == [made]
    told = json.loads(panel.call(str(panel.addon / "start.py"), "records"))
    assert told["revision"] == migrate.HEADS["tunnels"]
    assert [(tunnel["name"], tunnel["ends"][0]["addresses"]) for tunnel in told["tunnels"]] == [
        ("de-fi", made["ends"][0]["addresses"])
    ]

    panel.call(str(panel.addon / "start.py"), "remove")
    assert schema(panel) == before
    panel.call(str(panel.addon / "start.py"), "remove")  # nothing is left to remove
    with panel:
        assert schema(panel) == full
        assert panel.api().send("GET", "/api/tunnels") == []


@sqlite_is_a_variation
def test_two_that_start_at_once_migrate_once(make: Made) -> None:
    first = make()
    with make(like=first, addon=False):
        pass  # Marzban's own tables: it is not made for two that make them
    second = make(like=first)
    threads = [threading.Thread(target=panel.start) for panel in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    ids = {get(panel, "/api/tunnels").headers.get("Marzban-Panel-Id") for panel in (first, second)}
    assert len(ids) == 1
    assert None not in ids
    for panel in (first, second):
        assert "could not start" not in panel.log.read_text()
        assert "serves /api/tunnels and /dashboard/tunnels" in panel.log.read_text()


@mariadb_is_a_variation
def test_a_deleted_node_takes_its_tunnels_and_a_new_one_inherits_nothing(make: Made) -> None:
    with make() as panel:
        api = panel.api()
        a, b, c = api.node(), api.node(), api.node()
        gone, kept = api.tunnel(b, c), api.tunnel(a, b)
        api.send("DELETE", f"/api/node/{c['id']}")
        assert api.refused("GET", f"/api/tunnels/{gone['id']}", None, 404) == "Tunnel not found"
        assert [item["id"] for item in api.send("GET", "/api/tunnels")] == [kept["id"]]
        later = api.node()
        assert api.tunnel(a, later)["id"] > kept["id"]
        api.send("DELETE", f"/api/node/{later['id']}")
        assert [item["id"] for item in api.send("GET", "/api/tunnels")] == [kept["id"]]


@sqlite_is_a_variation
def test_twenty_clients_leave_a_consistent_database(make: Made) -> None:
    """They create, change and delete tunnels, and delete nodes in the middle of it."""
    with make() as panel:
        api = panel.api()
        nodes = [api.node() for _time in range(6)]
        clients = [api.another() for _time in range(20)]

        def work(number: int) -> set[int]:
            client, own, seen = clients[number], clients[number].node(), set()
            for turn in range(4):
                body = {"source_node_id": nodes[(number + turn) % 6]["id"], "tunnel_type": "wireguard"}
                made = client.bare("POST", "/api/tunnels", json=body | {"target_node_id": own["id"]})
                seen.add(made.status_code)
                if made.status_code == 200:
                    place = f"/api/tunnels/{made.json()['id']}"
                    seen.add(client.bare("PUT", place, json={"name": f"{number} {turn}"}).status_code)
                    if turn == 1:
                        seen.add(client.bare("DELETE", place).status_code)
                if turn == 2 and number < 3:
                    seen.add(client.own("DELETE", f"/api/node/{nodes[number]['id']}").status_code)
            if number % 2:
                seen.add(client.own("DELETE", f"/api/node/{own['id']}").status_code)
            return seen

        with ThreadPoolExecutor(20) as pool:
            assert set().union(*pool.map(work, range(20))) <= {200, 404}
        listed = api.send("GET", "/api/tunnels?limit=1000")
        assert listed
        assert all(len(tunnel["ends"]) == 2 for tunnel in listed)
    with connected(panel) as connection:
        counted = [connection.scalar(text(f"SELECT count(*) FROM {name}")) for name in OURS[1:4]]
        assert counted == [len(listed), 2 * len(listed), 4 * len(listed)]
        for side in ("source", "target"):
            orphans = f"SELECT count(*) FROM tunnels WHERE {side}_node_id NOT IN (SELECT id FROM nodes)"
            assert connection.scalar(text(orphans)) == 0


@mariadb_is_a_variation
def test_what_is_gone_while_the_addon_is_away_is_purged(make: Made) -> None:
    with make() as panel:
        api = panel.api()
        a, b, c = api.node(), api.node(), api.node()
        kept = api.tunnel(a, b)
        api.tunnel(b, c)
    with make(like=panel, addon=False) as bare:
        api = bare.api()
        assert get(bare, "/api/tunnels").status_code == 404
        api.send("DELETE", f"/api/node/{c['id']}")
        api.node(name="takes the id, where the database gives it again")
    with make(like=panel) as again:
        assert [item["id"] for item in again.api().send("GET", "/api/tunnels")] == [kept["id"]]


@without_mariadb
def test_an_addon_that_cannot_be_loaded_leaves_the_panel_serving(make: Made) -> None:
    panel = make()
    (panel.addon / "marzban_tunnels" / "mounted.py").write_text("This is text, not Python.")
    with panel:
        expect_marzban_alone(panel)
        assert get(panel, "/api/tunnels").status_code == 404
    assert "could not be loaded (see above); Marzban starts without it" in panel.log.read_text()
    assert "SyntaxError" in panel.log.read_text()


@pytest.mark.variation  # of the one before: the same handler in start.py
@without_mariadb
def test_a_setting_that_is_none_leaves_the_panel_serving(make: Made) -> None:
    with make(TUNNEL_IPV4_POOL="rubbish") as panel:
        expect_marzban_alone(panel)
        assert get(panel, "/api/tunnels").status_code == 404
    assert "TUNNEL_IPV4_POOL: " in panel.log.read_text()


@mariadb_is_a_variation
def test_a_database_that_cannot_be_migrated_leaves_the_panel_serving(make: Made) -> None:
    """A fork of Marzban has a table of the same name."""
    panel = make()
    with make(like=panel, addon=False):
        pass
    with connected(panel) as connection:
        connection.execute(text("CREATE TABLE tunnels (id INTEGER PRIMARY KEY, name VARCHAR(64))"))
        connection.execute(text("INSERT INTO tunnels VALUES (7, 'theirs')"))
    with panel:
        expect_marzban_alone(panel)
        answer = get(panel, "/api/tunnels")
        assert answer.status_code == 503
        assert answer.json()["detail"].startswith("The tunnels could not be started with this panel: its log says why")
        assert "Marzban-Panel-Id" not in answer.headers
    with connected(panel) as connection:
        assert connection.execute(text("SELECT * FROM tunnels")).all() == [(7, "theirs")]
    assert "the database has a table tunnels that is not this add-on's: rename it" in panel.log.read_text()


@without_mariadb
def test_a_database_that_is_locked_at_the_start_is_waited_for(make: Made) -> None:
    panel = make()
    with panel:
        made = get(panel, "/api/tunnels").headers["Marzban-Panel-Id"]
    with closing(sqlite3.connect(panel.database.removeprefix("sqlite:///"), isolation_level=None)) as somebody:
        somebody.execute("BEGIN IMMEDIATE")
        with panel:
            assert get(panel, "/api/tunnels").status_code == 503
            somebody.execute("ROLLBACK")
            machine.until("the tunnels", lambda: get(panel, "/api/tunnels").status_code == 401, 60)
            assert get(panel, "/api/tunnels").headers["Marzban-Panel-Id"] == made
    assert "database is locked" in panel.log.read_text()


@without_mariadb
def test_a_process_that_is_not_in_marzbans_folder_says_so(make: Made, tmp_path: Path) -> None:
    panel = make()
    done = subprocess.run(
        [panel.python, str(panel.addon / "start.py")],
        cwd=tmp_path,
        env=panel.env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "main.py" in done.stderr


@without_mariadb
def test_the_rest_of_the_openapi_document_is_as_it_was(make: Made) -> None:
    bare = make(addon=False)
    with bare:
        before = get(bare, "/openapi.json").json()
    with make(like=bare) as panel:
        after = get(panel, "/openapi.json").json()
    assert {path for path in after["paths"] if path not in before["paths"]} == {
        path for path in after["paths"] if path.startswith("/api/tunnels")
    }
    added = set(after["components"]["schemas"]) - set(before["components"]["schemas"])
    after["paths"] = {path: item for path, item in after["paths"].items() if not path.startswith("/api/tunnels")}
    after["components"]["schemas"] = {
        name: schema for name, schema in after["components"]["schemas"].items() if name not in added
    }
    assert after == before


@without_mariadb
@pytest.mark.parametrize("dashboard", ["/", "/secret-panel/", pytest.param("/dashboard/", marks=pytest.mark.variation)])
def test_the_page_is_beside_the_dashboard(make: Made, dashboard: str) -> None:
    with make(DASHBOARD_PATH=dashboard) as panel:
        page, own = get(panel, f"{dashboard}tunnels"), get(panel, dashboard)
        assert (page.status_code, own.status_code) == (200, 200)
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
        assert "Content-Security-Policy" not in own.headers
        assert page.text != own.text
        for path in re.findall(r'(?:src|href)="([^"#]+\.(?:js|css|svg))"', page.text):
            place = path if path.startswith("/") else f"{dashboard}{path.removeprefix('./')}"
            assert get(panel, place).status_code == 200, path
        assert get(panel, "/api/tunnels").status_code == 401
