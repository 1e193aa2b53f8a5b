# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The schema comes from Alembic alone, and goes both ways, on SQLite, MariaDB and PostgreSQL."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, NullPool, create_engine, inspect, text

from marzban_tunnels import migrate, tables
from marzban_tunnels.standalone import cli
from marzban_tunnels.standalone import tables as standalone
from tests.support.servers import PostgreSQL, Server

VERSIONS = {"alembic_version_standalone", "alembic_version_tunnels"}
OWN = set(tables.Base.metadata.tables)
NODES = {"tunnel_nodes", "tunnel_deletions"}
HISTORY = {"tunnel_changes", "tunnel_sums"}
ALL = OWN | set(standalone.Base.metadata.tables) | VERSIONS


_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def postgresql() -> Iterator[Server]:
    with PostgreSQL() as server:
        yield server


@pytest.fixture(params=["sqlite", "mariadb", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/panel.db"
    url: str = request.getfixturevalue(request.param).database(f"panel{next(_numbers)}")
    return url


@contextmanager
def connected(where: str) -> Iterator[Connection]:
    with create_engine(where, poolclass=NullPool).begin() as connection:
        yield connection


def found(where: str) -> set[str]:
    with connected(where) as connection:
        return set(inspect(connection).get_table_names())


def run(where: str, *arguments: str) -> None:
    assert cli.main(["migrate", "--database", where, *arguments]) == 0


def test_up_down_and_up_again(database: str) -> None:
    run(database, "upgrade", "head")
    assert found(database) == ALL
    run(database, "upgrade", "head")
    run(database, "downgrade", "base")
    assert found(database) == VERSIONS
    run(database, "upgrade", "head")
    assert found(database) == ALL


def test_the_tunnels_alone_come_and_go(database: str) -> None:
    run(database, "upgrade", "0001_standalone")
    assert not found(database) & OWN
    run(database, "upgrade", "0001_tunnels")
    assert found(database) & OWN == OWN - NODES - HISTORY
    run(database, "upgrade", "0005_nodes")
    assert found(database) & OWN == OWN - HISTORY
    run(database, "upgrade", "0006_history")
    assert found(database) >= OWN
    run(database, "downgrade", "0004_alike")
    assert found(database) & OWN == OWN - NODES - HISTORY


def test_models_and_migrations_agree(database: str) -> None:
    run(database, "upgrade", "head")
    if database.startswith("sqlite"):  # else each sum would be stored twice: once in the table, once in its index
        with connected(database) as connection:
            made = "SELECT count(*) FROM sqlite_master WHERE sql LIKE '%WITHOUT ROWID%' AND name IN {}"
            assert connection.scalar(text(made.format(tuple(sorted(HISTORY))))) == len(HISTORY)
    for base in (tables.Base, standalone.Base):
        with connected(database) as connection:
            options = {"compare_type": True, "include_object": partial(_ours, base.metadata)}
            different = compare_metadata(MigrationContext.configure(connection, opts=options), base.metadata)
        assert different == []
    with connected(database) as connection:
        assert inspect(connection).get_foreign_keys("tunnel_nodes") == []
        keys = inspect(connection).get_foreign_keys("tunnels")
    assert {key["referred_table"] for key in keys} == {"nodes"}
    assert {key["options"]["ondelete"] for key in keys} == {"CASCADE"}


def _ours(metadata: MetaData, item: object, name: str | None, kind: str, *_: object) -> bool:
    if kind == "table":
        return name in metadata.tables
    # the keys to nodes are in the migration only: the tables don't know whose nodes they are
    return not (kind == "foreign_key_constraint" and name in ("fk_tunnels_source", "fk_tunnels_target"))


def test_ids_go_on_where_an_older_version_stopped(tmp_path: Path) -> None:
    """Version 0.2.0 left it to SQLite to count them."""
    database = f"sqlite:///{tmp_path}/panel.db"
    run(database, "upgrade", "0001_standalone")
    run(database, "upgrade", "0001_tunnels")
    with connected(database) as connection:
        connection.execute(text("CREATE TABLE counted (id INTEGER PRIMARY KEY AUTOINCREMENT)"))
        connection.execute(text("INSERT INTO sqlite_sequence VALUES ('tunnels', 41)"))
        connection.execute(text("INSERT INTO tunnel_panel VALUES (1, 'u', 1, 1, 1, 1)"))
    run(database, "upgrade", "0002_next_id")
    with connected(database) as connection:
        assert connection.scalar(text("SELECT next_id FROM tunnel_panel")) == 42


def test_a_migration_that_was_cut_off_begins_again(request: pytest.FixtureRequest) -> None:
    """MariaDB commits each table as it is made."""
    database = request.getfixturevalue("mariadb").database("cut_off")
    run(database, "upgrade", "head")
    with connected(database) as connection:
        connection.execute(text("DELETE FROM alembic_version_tunnels"))
        connection.execute(text("ALTER TABLE tunnel_panel DROP COLUMN next_id"))
        connection.execute(text("ALTER TABLE tunnel_ends DROP COLUMN gaps, DROP COLUMN symptom"))
        connection.execute(text("ALTER TABLE tunnels DROP COLUMN alike"))
        for column in ("last_status", "status_since", "status_changes"):
            connection.execute(text(f"ALTER TABLE tunnels DROP COLUMN {column}"))
        connection.execute(text("ALTER TABLE tunnel_panel DROP COLUMN lease_beat, DROP COLUMN lease_holder"))
        connection.execute(text("ALTER TABLE tunnel_ends DROP COLUMN changed_public, DROP COLUMN reported_by"))
        connection.execute(text("DROP INDEX ix_tunnel_addresses_first ON tunnel_addresses"))
    run(database, "upgrade", "head")
    assert found(database) == ALL
    with connected(database) as connection:
        connection.execute(text("UPDATE alembic_version_tunnels SET version_num = '0004_alike'"))
        connection.execute(text("ALTER TABLE tunnel_panel DROP COLUMN lease_beat"))
        connection.execute(text("DROP INDEX ix_tunnel_deletions_node_uuid ON tunnel_deletions"))
        connection.execute(text("ALTER TABLE tunnels DROP COLUMN status_since"))
        connection.execute(text("DROP TABLE tunnel_sums"))
    run(database, "upgrade", "head")
    with connected(database) as connection:
        seen = inspect(connection)
        assert "lease_beat" in {column["name"] for column in seen.get_columns("tunnel_panel")}
        assert "status_since" in {column["name"] for column in seen.get_columns("tunnels")}
        assert "changed_public" in {column["name"] for column in seen.get_columns("tunnel_ends")}
        assert "ix_tunnel_deletions_node_uuid" in {index["name"] for index in seen.get_indexes("tunnel_deletions")}
        indexes = {index["name"] for index in seen.get_indexes("tunnel_addresses")}
    assert indexes == {"ix_tunnel_addresses_first", "ix_tunnel_addresses_tunnel_id"}


def test_every_varchar_has_a_length() -> None:
    for base in (tables.Base, standalone.Base):
        for table in base.metadata.tables.values():
            for column in table.columns:
                kind = column.type
                if kind.__visit_name__ in ("string", "VARCHAR"):
                    assert kind.length, column  # type: ignore[attr-defined]


def test_one_head_per_tree_and_unknown_revisions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert {tree: migrate.revisions(tree) for tree in migrate.TREES} == {
        "standalone": {"0001_standalone"},
        "tunnels": {
            *("0001_tunnels", "0002_next_id", "0003_gaps", "0004_alike", "0005_nodes", "0006_history", "0007_symptom"),
        },
    }
    for tree, head in migrate.HEADS.items():
        script = Config()
        script.set_main_option("script_location", str(Path(migrate.__file__).parent / "migrations" / tree))
        assert ScriptDirectory.from_config(script).get_heads() == [head]
    assert cli.main(["migrate", "--database", str(tmp_path / "x.db"), "upgrade", "none"]) == 1
    assert "none is not a revision" in capsys.readouterr().err
