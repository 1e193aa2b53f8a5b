# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The schema comes from Alembic alone, and goes both ways. SQLite here; other databases by ``PANEL_TEST_DATABASES``
(SQLAlchemy URLs of empty databases, separated by spaces)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import MetaData, create_engine, inspect

from marzban_tunnels import migrate, tables
from marzban_tunnels.standalone import cli
from marzban_tunnels.standalone import tables as standalone

VERSIONS = {"alembic_version_standalone", "alembic_version_tunnels"}
OWN = set(tables.Base.metadata.tables)
ALL = OWN | set(standalone.Base.metadata.tables) | VERSIONS


@pytest.fixture(params=["sqlite", *os.environ.get("PANEL_TEST_DATABASES", "").split()])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    where = f"sqlite:///{tmp_path}/panel.db" if request.param == "sqlite" else request.param
    yield where
    assert cli.main(["migrate", "--database", where, "downgrade", "base"]) == 0


def found(where: str) -> set[str]:
    engine = create_engine(where)
    try:
        return set(inspect(engine).get_table_names()) - {"sqlite_sequence"}
    finally:
        engine.dispose()


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
    assert found(database) >= OWN


def test_models_and_migrations_agree(database: str) -> None:
    run(database, "upgrade", "head")
    engine = create_engine(database)
    for base in (tables.Base, standalone.Base):
        with engine.connect() as connection:
            options = {"compare_type": True, "include_object": partial(_ours, base.metadata)}
            different = compare_metadata(MigrationContext.configure(connection, opts=options), base.metadata)
        assert different == []
    names = {key["name"]: key for key in inspect(engine).get_foreign_keys("tunnels")}
    assert {key["referred_table"] for key in names.values()} == {"nodes"}
    assert {key["options"]["ondelete"] for key in names.values()} == {"CASCADE"}
    engine.dispose()


def _ours(metadata: MetaData, item: object, name: str | None, kind: str, *_: object) -> bool:
    if kind == "table":
        return name in metadata.tables
    # the keys to nodes stand in the migration only: the tables don't know whose nodes they are
    return not (kind == "foreign_key_constraint" and name in ("fk_tunnels_source", "fk_tunnels_target"))


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
        "tunnels": {"0001_tunnels"},
    }
    assert cli.main(["migrate", "--database", str(tmp_path / "x.db"), "upgrade", "none"]) == 1
    assert "none is no revision" in capsys.readouterr().err
