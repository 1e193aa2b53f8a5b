# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Runs the migrations. Each tree has a version table of its own, so that Marzban's heads stay single."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, inspect, text

# The newest revisions, in the order of an upgrade, because tunnels point to nodes. A start that finds them needs no
# Alembic, which would stay in the panel's memory.
HEADS = {"standalone": "0001_standalone", "tunnels": "0007_symptom"}
TREES = tuple(HEADS)
LOCK_TIMEOUT = 30  # seconds; SQLite waits as long as its connections do (5 s on Marzban)
_LOCK = 0x6D7A  # "mz"
_GENERATION = re.compile(r"v([0-9]+)_")
_log = logging.getLogger("uvicorn.error")  # the log that Marzban writes to


class NewerTables(ValueError):
    """The tables are of a later version of this package, and this one can't do what was asked for with them."""


@contextmanager
def locked(engine: Engine) -> Iterator[Connection]:
    """A connection in a transaction that no other migration overlaps, committed at the end. MariaDB commits at each
    statement that makes a table; the lock is held over all of them. Raises OperationalError, on MariaDB
    TimeoutError, when it can't be had."""
    with engine.connect().execution_options(sqlite_begin="IMMEDIATE") as connection:
        if connection.dialect.name in ("mysql", "mariadb"):
            with _locked_by_name(connection), connection.begin():  # the lock goes after the commit
                yield connection
            return
        with connection.begin():
            if connection.dialect.name == "postgresql":
                connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}s'"))
                connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
            elif not connection.connection.dbapi_connection.in_transaction:  # type: ignore[union-attr]
                connection.exec_driver_sql("BEGIN IMMEDIATE")  # the standalone door's engine has done it itself
            yield connection


@contextmanager
def _locked_by_name(connection: Connection) -> Iterator[None]:
    """MariaDB's lock, held over all commits."""
    name = {"name": f"marzban_tunnels.{connection.engine.url.database}"[:64], "seconds": LOCK_TIMEOUT}
    taken = connection.scalar(text("SELECT GET_LOCK(:name, :seconds)"), name)
    connection.commit()
    if taken != 1:
        raise TimeoutError(f"another migration of the tunnels' tables has taken more than {LOCK_TIMEOUT} s")
    try:
        yield
    finally:
        connection.execute(text("SELECT RELEASE_LOCK(:name)"), {"name": name["name"]})
        connection.commit()


def upgrade(connection: Connection, tree: str, revision: str = "head") -> None:
    """Bring one tree up to ``revision``. The caller's transaction is used, and committed by the caller.

    Tables of a later version stay as they are: that version was here, and somebody went back to this one. Raises
    NewerTables where this version can't work with them.
    """
    there = usable(connection, tree)
    if revision == "head" and there == HEADS[tree]:
        return
    if _later(there, tree):
        _log.warning(
            "marzban_tunnels: the %s tables are of a later version (%s); this one works with them", tree, there
        )
        return
    from alembic import command

    command.upgrade(_config(connection, tree), revision)


def downgrade(connection: Connection, tree: str, revision: str) -> None:
    """Take one tree down to ``revision`` (``base``: remove its tables). Raises NewerTables, where only a later version
    knows what has to go."""
    there = current(connection, tree)
    if _later(there, tree):
        raise _newer(there, tree)
    from alembic import command

    command.downgrade(_config(connection, tree), revision)


def remove(connection: Connection, tree: str) -> None:
    """Drop all tables of one tree, and the one that tells its version."""
    downgrade(connection, tree, "base")
    connection.execute(text(f"DROP TABLE IF EXISTS {_version_table(tree)}"))


def current(connection: Connection, tree: str) -> str | None:
    """The revision that the database is at; None where the tree has no tables there."""
    if not inspect(connection).has_table(_version_table(tree)):
        return None
    revision: str | None = connection.scalar(text(f"SELECT version_num FROM {_version_table(tree)}"))  # noqa: S608
    return revision


def usable(connection: Connection, tree: str) -> str | None:
    """The revision that the database is at. Raises NewerTables where this version can't even read these tables."""
    there = current(connection, tree)
    if _later(there, tree) and _generation(there) != _generation(HEADS[tree]):
        raise _newer(there, tree)
    return there


def _later(there: str | None, tree: str) -> bool:
    """Whether a database's revision is of a later version of this package than this one."""
    return there not in (None, HEADS[tree]) and there not in revisions(tree)


def _generation(revision: str | None) -> int:
    """Of a revision's id: ``0004_name`` is of the first, ``v2_0007_name`` of the second. Within a generation a
    migration only adds what older code can do without: tables, and columns that may be empty or have a default."""
    found = _GENERATION.match(revision or "")
    return int(found[1]) if found else 1


def _newer(there: str | None, tree: str) -> NewerTables:
    return NewerTables(
        f"the {tree} tables in the database are of a later version ({there}) than this one ({HEADS[tree]}), which "
        "can't change them. Nothing was changed. Install that version again; to go back nevertheless, let it take the "
        f"tables down to {HEADS[tree]} first"
    )


def revisions(tree: str) -> set[str]:
    """The revisions that a tree knows."""
    from alembic.script import ScriptDirectory

    return {script.revision for script in ScriptDirectory(str(_path(tree))).walk_revisions()}


def _path(tree: str) -> Path:
    return Path(__file__).parent / "migrations" / tree


def _version_table(tree: str) -> str:
    return f"alembic_version_{tree}"


def _config(connection: Connection, tree: str) -> Any:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_path(tree)).replace("%", "%%"))
    config.attributes["connection"] = connection
    config.attributes["version_table"] = _version_table(tree)
    return config
