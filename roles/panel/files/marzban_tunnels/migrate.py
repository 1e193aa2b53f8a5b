# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Runs the migrations. Each tree has a version table of its own, so that Marzban's heads stay single."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

TREES = ("standalone", "tunnels")  # in the order of an upgrade: tunnels point to nodes


def upgrade(connection: Connection, tree: str, revision: str = "head") -> None:
    """Bring one tree up to ``revision``. The caller's transaction is used, and committed by the caller."""
    command.upgrade(_config(connection, tree), revision)


def downgrade(connection: Connection, tree: str, revision: str) -> None:
    """Take one tree down to ``revision`` (``base``: remove its tables)."""
    command.downgrade(_config(connection, tree), revision)


def revisions(tree: str) -> set[str]:
    """The revisions that a tree knows."""
    return {script.revision for script in ScriptDirectory(str(_path(tree))).walk_revisions()}


def _path(tree: str) -> Path:
    return Path(__file__).parent / "migrations" / tree


def _config(connection: Connection, tree: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_path(tree)).replace("%", "%%"))
    config.attributes["connection"] = connection
    config.attributes["version_table"] = f"alembic_version_{tree}"
    return config
