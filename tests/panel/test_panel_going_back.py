# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""An older version of the panel's package on tables that a later one has migrated: it goes on with them where it can,
and where it can't it says what to do. Nothing is lost either way."""

from __future__ import annotations

import logging
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Connection, NullPool, create_engine, inspect, text

from marzban_tunnels import migrate, mounted
from tests.support.panel import PACKAGES, Panel

HEAD = migrate.HEADS["tunnels"]
MIGRATION = """import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on = {revision!r}, {HEAD!r}, None, None


def upgrade():
    op.add_column("tunnels", sa.Column("hue", sa.String(8)))
    op.create_table("tunnel_hues", sa.Column("hue", sa.String(8), primary_key=True))


def downgrade():
    op.drop_table("tunnel_hues")
    op.drop_column("tunnels", "hue")
"""


def later_version(folder: Path, revision: str) -> Path:
    """A package as a later version may be: it has one migration more. Answers the folder that it is in."""
    packages = folder / revision
    shutil.copytree(PACKAGES, packages, ignore=shutil.ignore_patterns("__pycache__"))
    package = packages / "marzban_tunnels"
    (package / f"migrations/tunnels/versions/{revision}.py").write_text(MIGRATION.format(revision=revision, HEAD=HEAD))
    code = (package / "migrate.py").read_text()
    (package / "migrate.py").write_text(code.replace(f'"{HEAD}"', f'"{revision}"'))
    return packages


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a panel that had a tunnel, and does not run."""
    with Panel.start(tmp_path_factory.mktemp("database"), tls=False) as panel:
        nodes = [panel.add_node(name, "203.0.113.1")["id"] for name in ("de-1", "fi-1")]
        panel.add_tunnel(nodes[0], nodes[1], "first")
    return panel.database


@pytest.fixture
def old(tmp_path: Path, database: Path) -> Panel:
    """A panel of this version with that database, not started yet."""
    panel = Panel(tmp_path, False, "admin", "the-passw0rd", {}, 0, "127.0.0.1")
    shutil.copy(database, panel.database)
    return panel


def names(panel: Panel) -> list[str]:
    return [tunnel["name"] for tunnel in panel.call("GET", "/api/tunnels")]


@pytest.fixture
def marzban(old: Panel, monkeypatch: pytest.MonkeyPatch) -> str:
    """As in Marzban's folder: its ``config`` names the database."""
    url = f"sqlite:///{old.database}"
    monkeypatch.setitem(sys.modules, "config", SimpleNamespace(SQLALCHEMY_DATABASE_URL=url))
    return url


def test_an_older_version_goes_on_with_tables_that_have_more(old: Panel, tmp_path: Path) -> None:
    later = later_version(tmp_path, "0099_hue")
    old.run("migrate", "--database", str(old.database), "upgrade", "head", PYTHONPATH=str(later))
    with old:
        old.restart()
        assert names(old) == ["first"]
        ids = [node["id"] for node in old.call("GET", "/api/nodes")]
        second = old.add_tunnel(ids[0], ids[1], "second")
        changed = old.call("PUT", f"/api/tunnels/{second['id']}", {"config": '{"mtu": 1400}'})
        assert changed["version"] == 2
    old.packages = later
    with old:
        old.restart()
        assert names(old) == ["first", "second"]


def test_look_alikes_of_an_older_version_are_kept(old: Panel) -> None:
    """It took `de-fi` beside `DE-FI`, and has left no digests. Both stay as they are, and no third one comes."""
    with old:
        old.restart()
        ids = [node["id"] for node in old.call("GET", "/api/nodes")]
        second = old.add_tunnel(ids[0], ids[1], "second")
    with sqlite3.connect(old.database) as connection:
        connection.execute("UPDATE tunnels SET alike = NULL")
        connection.execute("UPDATE tunnels SET name = 'FIRST' WHERE name = 'second'")
    connection.close()
    with old:
        old.restart()
        assert names(old) == ["first", "FIRST"]
        changed = old.call("PUT", f"/api/tunnels/{second['id']}", {"config": '{"mtu": 1400}', "name": "FIRST"})
        assert (changed["name"], changed["version"]) == ("FIRST", 2)
        body = {"source_node_id": ids[0], "target_node_id": ids[1], "tunnel_type": "wireguard", "name": "First"}
        assert 'looks like "' in old.call("POST", "/api/tunnels", body, 409)["detail"]


def test_an_older_version_says_which_tables_it_can_not_use(old: Panel, tmp_path: Path) -> None:
    later = str(later_version(tmp_path, "v2_0099_hue"))
    migration = ("migrate", "--database", str(old.database))
    old.run(*migration, "upgrade", "head", PYTHONPATH=later)
    with pytest.raises(RuntimeError) as caught:
        old.restart()
    said = str(caught.value)
    assert "marzban_tunnels: the tunnels tables in the database are of a later version (v2_0099_hue)" in said
    assert f"let it take the tables down to {HEAD} first" in said
    assert "Traceback" not in said
    old.run(*migration, "downgrade", HEAD, PYTHONPATH=later)
    with old:
        old.restart()
        assert names(old) == ["first"]


@contextmanager
def opened(url: str) -> Iterator[Connection]:
    with create_engine(url, poolclass=NullPool).begin() as connection:
        yield connection


def revision(url: str) -> str | None:
    with opened(url) as connection:
        return migrate.current(connection, "tunnels")


def set_revision(url: str, name: str) -> None:
    with opened(url) as connection:
        connection.execute(text("UPDATE alembic_version_tunnels SET version_num = :name"), {"name": name})


def test_the_add_on_takes_its_tables_down_to_what_an_older_one_knows(
    marzban: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mounted.command(["downgrade", "0001_tunnels"]) == 0
    assert revision(marzban) == "0001_tunnels"
    assert mounted.command(["downgrade", "base"]) == 1
    assert "base is not a revision" in capsys.readouterr().err
    with opened(marzban) as connection:
        migrate.upgrade(connection, "tunnels")
    assert mounted.command(["records"]) == 0
    assert '"name": "first"' in capsys.readouterr().out


@pytest.mark.parametrize(("there", "readable"), [("0099_hue", True), ("v2_0099_hue", False)])
def test_a_removal_leaves_tables_that_it_does_not_know(
    marzban: str, there: str, readable: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else what the later version has made would stay in Marzban's schema for good."""
    set_revision(marzban, there)
    assert mounted.command(["records"]) == (0 if readable else 1)
    assert mounted.command(["remove"]) == 1
    assert f"are of a later version ({there}) than this one ({HEAD})" in capsys.readouterr().err
    assert revision(marzban) == there
    with opened(marzban) as connection:
        assert connection.scalar(text("SELECT count(*) FROM tunnels")) == 1


def test_a_later_start_is_told_in_the_log(marzban: str, caplog: pytest.LogCaptureFixture) -> None:
    set_revision(marzban, "0099_hue")
    with caplog.at_level(logging.WARNING), opened(marzban) as connection:
        migrate.upgrade(connection, "tunnels")
    assert "the tunnels tables are of a later version (0099_hue); this one works with them" in caplog.text


@pytest.mark.parametrize("tree", migrate.TREES)
def test_a_migration_of_the_same_generation_only_adds(tree: str, tmp_path: Path) -> None:
    """The promise by which an older version goes on: what it reads is there, and what it writes is taken."""
    engine = create_engine(f"sqlite:///{tmp_path}/panel.db", poolclass=NullPool)
    before: dict[str, dict[str, Any]] = {}
    for name in sorted(migrate.revisions(tree)):
        with engine.begin() as connection:
            if tree == "tunnels" and not before:
                migrate.upgrade(connection, "standalone")
            migrate.upgrade(connection, tree, name)
            seen = inspect(connection)
            tables = [table for table in seen.get_table_names() if not table.startswith("alembic")]
            after = {table: {column["name"]: column for column in seen.get_columns(table)} for table in tables}
        for table, columns in before.items():
            for column, was in columns.items():
                now = after[table][column]
                assert (str(now["type"]), now["nullable"]) == (str(was["type"]), was["nullable"]), (name, column)
            for column, now in after[table].items():
                assert column in columns or now["nullable"] or now["default"] is not None, (name, column)
        before = after
