# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The nodes' services: how each is reached, what it has to remove, and who of several managers works.

No foreign key leads to ``nodes``: how a node was reached is needed after it was deleted.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0005_nodes"
down_revision = "0004_alike"
branch_labels = None
depends_on = None
_MYSQL: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4"}
_INDEX = "ix_tunnel_deletions_node_uuid"


def _exact(length: int) -> sa.String:
    variant = mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin")
    return sa.String(length).with_variant(variant, "mysql", "mariadb")


# New ones for each use: a column can be in one table only
def _columns() -> dict[str, list[sa.Column[Any]]]:
    return {
        "tunnel_panel": [
            sa.Column("lease_holder", sa.String(64)),
            sa.Column("lease_beat", sa.BigInteger, nullable=False, server_default="0"),
        ],
        "tunnel_ends": [
            sa.Column("reported_by", sa.String(8)),
            sa.Column("changed_public", sa.String(4096)),
        ],
    }


def upgrade() -> None:
    """Make the tables, add the columns. MariaDB commits each step: a migration that was cut off begins again."""
    _table(
        "tunnel_nodes",
        sa.Column("node_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("node_created_at", sa.DateTime),
        sa.Column("uuid", sa.String(36), nullable=False),
        sa.Column("generation", sa.Integer, nullable=False, server_default="1"),
        sa.Column("port", sa.Integer),
        sa.Column("pin", _exact(64)),
        sa.Column("counter", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("seen_counter", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("epochs", sa.String(512)),
        sa.Column("addresses", sa.String(4096)),
        sa.Column("name", _exact(256)),
        sa.Column("address", sa.String(256)),
        sa.UniqueConstraint("uuid", name="uq_tunnel_nodes_uuid"),
    )
    _table(
        "tunnel_deletions",
        sa.Column("uuid", sa.String(36), primary_key=True),
        sa.Column("node_uuid", sa.String(36), primary_key=True),
        sa.Column("node_id", sa.Integer, nullable=False),
        sa.Column("tunnel_id", sa.Integer, nullable=False),
        sa.Column("name", _exact(128)),
        sa.Column("tunnel_type", sa.String(16), nullable=False),
        sa.Column("node_name", _exact(256)),
        sa.Column("address", sa.String(256)),
        sa.Column("port", sa.Integer),
        sa.Column("pin", _exact(64)),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("counter", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("deleted_at", sa.DateTime, nullable=False),
        sa.Column("given_up", sa.Boolean, nullable=False, server_default=sa.false()),
    )
    inspector = sa.inspect(op.get_bind())
    if _INDEX not in {index["name"] for index in inspector.get_indexes("tunnel_deletions")}:
        op.create_index(_INDEX, "tunnel_deletions", ["node_uuid"])
    for table, columns in _columns().items():
        there = {column["name"] for column in inspector.get_columns(table)}
        for column in columns:
            if column.name not in there:
                op.add_column(table, column)


def downgrade() -> None:
    """Take all of it away; the tunnels stay. The nodes keep what was not yet removed there."""
    inspector = sa.inspect(op.get_bind())
    for table, columns in _columns().items():
        there = {column["name"] for column in inspector.get_columns(table)}
        for column in columns:
            if column.name in there:
                op.drop_column(table, column.name)
    for table in ("tunnel_deletions", "tunnel_nodes"):
        if inspector.has_table(table):
            op.drop_table(table)


def _table(name: str, *items: Any) -> None:
    """Make a table that may be there already. Raises ValueError where it is somebody else's."""
    inspector = sa.inspect(op.get_bind())
    if not inspector.has_table(name):
        op.create_table(name, *items, **_MYSQL)
        return
    expected = {item.name for item in items if isinstance(item, sa.Column)}
    if {column["name"] for column in inspector.get_columns(name)} != expected:
        raise ValueError(
            f"the database has a table {name} that is not this add-on's: rename it, and start the panel again"
        )
