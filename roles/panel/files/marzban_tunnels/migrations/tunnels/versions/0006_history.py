# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""When a tunnel's status has changed, and how it was in the last day and in the last month.

No foreign key leads to ``tunnels``: an older version, which does not know these tables, has to be able to delete a
tunnel, and a thousand sums a minute need not be looked up one by one.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0006_history"
down_revision = "0005_nodes"
branch_labels = None
depends_on = None
_MYSQL: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4"}


# New ones for each use: a column can be in one table only
def _columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("last_status", sa.String(16)),
        sa.Column("status_since", sa.DateTime),
        sa.Column("status_changes", sa.Integer, nullable=False, server_default="0"),
    ]


def upgrade() -> None:
    """Make the tables, add the columns. MariaDB commits each step: a migration that was cut off begins again."""
    _table(
        "tunnel_changes",
        sa.Column("tunnel_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("at", sa.DateTime, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("error", sa.String(200)),
    )
    _table(
        "tunnel_sums",
        sa.Column("level", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("start", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("tunnel_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("up", sa.Integer, nullable=False),
        sa.Column("down", sa.Integer, nullable=False),
        sa.Column("samples", sa.Integer, nullable=False),
        sa.Column("rtt_us", sa.Integer),
        sa.Column("rtt_worst_us", sa.Integer),
        sa.Column("loss", sa.Integer),
        sa.Column("to_target", sa.BigInteger),
        sa.Column("to_source", sa.BigInteger),
    )
    there = {column["name"] for column in sa.inspect(op.get_bind()).get_columns("tunnels")}
    for column in _columns():
        if column.name not in there:
            op.add_column("tunnels", column)


def downgrade() -> None:
    """Take the history away; the tunnels stay."""
    inspector = sa.inspect(op.get_bind())
    there = {column["name"] for column in inspector.get_columns("tunnels")}
    for column in _columns():
        if column.name in there:
            op.drop_column("tunnels", column.name)
    for table in ("tunnel_sums", "tunnel_changes"):
        if inspector.has_table(table):
            op.drop_table(table)


def _table(name: str, *items: sa.Column[Any]) -> None:
    """Make a table that may be there already. Raises ValueError where it is somebody else's."""
    inspector = sa.inspect(op.get_bind())
    if not inspector.has_table(name):
        op.create_table(name, *items, sqlite_with_rowid=False, **_MYSQL)
        return
    if {column["name"] for column in inspector.get_columns(name)} != {item.name for item in items}:
        raise ValueError(
            f"the database has a table {name} that is not this add-on's: rename it, and start the panel again"
        )
