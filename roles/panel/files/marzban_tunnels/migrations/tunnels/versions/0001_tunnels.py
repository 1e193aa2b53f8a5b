# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Tunnels, their ends and addresses, and the panel's own row."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001_tunnels"
down_revision = None
branch_labels = None
depends_on = None

_MYSQL: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4"}


def _exact(length: int) -> sa.String:
    variant = mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin")
    return sa.String(length).with_variant(variant, "mysql", "mariadb")


def _table(name: str, *items: Any, **options: Any) -> None:
    """Make a table. One of ours may be there: MariaDB commits each statement, and a migration that was cut off begins
    again. Raises ValueError where it is somebody else's."""
    inspector = sa.inspect(op.get_bind())
    if not inspector.has_table(name):
        op.create_table(name, *items, **options)
        return
    wanted = {item.name for item in items if isinstance(item, sa.Column)}
    if {column["name"] for column in inspector.get_columns(name)} != wanted:
        raise ValueError(
            f"the database has a table {name} that is not this add-on's: rename it, and start the panel again"
        )


def _index(name: str, table: str, columns: list[str]) -> None:
    if name not in {index["name"] for index in sa.inspect(op.get_bind()).get_indexes(table)}:
        op.create_index(name, table, columns)


def upgrade() -> None:
    """Make the tables."""
    _table(
        "tunnel_panel",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("uuid", sa.String(36), nullable=False),
        sa.Column("writes", sa.BigInteger, nullable=False),
        sa.Column("next_ipv4", sa.BigInteger, nullable=False),
        sa.Column("next_ipv6", sa.BigInteger, nullable=False),
        sa.Column("next_port", sa.BigInteger, nullable=False),
        **_MYSQL,
    )
    _table(
        "tunnels",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("uuid", sa.String(36), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("source_node_id", sa.Integer, nullable=False),
        sa.Column("target_node_id", sa.Integer, nullable=False),
        sa.Column("tunnel_type", sa.String(16), nullable=False),
        sa.Column("name", _exact(128), nullable=True),
        sa.Column(
            "config",
            sa.Text().with_variant(mysql.MEDIUMTEXT(charset="utf8mb4"), "mysql", "mariadb"),
            nullable=False,
        ),
        sa.Column("is_active", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("updated_at", sa.DateTime, nullable=False),
        sa.ForeignKeyConstraint(["source_node_id"], ["nodes.id"], name="fk_tunnels_source", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["target_node_id"], ["nodes.id"], name="fk_tunnels_target", ondelete="CASCADE"),
        sa.UniqueConstraint("uuid", name="uq_tunnels_uuid"),
        sa.UniqueConstraint("name", name="uq_tunnels_name"),
        **_MYSQL,
    )
    _index("ix_tunnels_source_node_id", "tunnels", ["source_node_id"])
    _index("ix_tunnels_target_node_id", "tunnels", ["target_node_id"])
    _table(
        "tunnel_ends",
        sa.Column("tunnel_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("role", sa.String(8), primary_key=True),
        sa.Column("node_id", sa.Integer, nullable=False),
        sa.Column("node_created_at", sa.DateTime, nullable=True),
        sa.Column("port", sa.Integer, nullable=False),
        sa.Column("interface", _exact(15), nullable=False),
        sa.Column("public", sa.String(4096), nullable=True),
        sa.Column("status", sa.String(16), nullable=True),
        sa.Column("error", sa.String(1024), nullable=True),
        sa.Column("measured", sa.String(1024), nullable=True),
        sa.Column("reported_at", sa.DateTime, nullable=True),
        sa.ForeignKeyConstraint(["tunnel_id"], ["tunnels.id"], name="fk_tunnel_ends_tunnel", ondelete="CASCADE"),
        sa.UniqueConstraint("node_id", "port", name="uq_tunnel_ends_port"),
        sa.UniqueConstraint("node_id", "interface", name="uq_tunnel_ends_interface"),
        **_MYSQL,
    )
    _table(
        "tunnel_addresses",
        sa.Column("host", sa.String(32), primary_key=True),
        sa.Column("tunnel_id", sa.Integer, nullable=False),
        sa.Column("role", sa.String(8), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("address", sa.String(43), nullable=False),
        sa.Column("first", sa.String(32), nullable=False),
        sa.Column("last", sa.String(32), nullable=False),
        sa.ForeignKeyConstraint(["tunnel_id"], ["tunnels.id"], name="fk_tunnel_addresses_tunnel", ondelete="CASCADE"),
        **_MYSQL,
    )
    _index("ix_tunnel_addresses_tunnel_id", "tunnel_addresses", ["tunnel_id"])
    _index("ix_tunnel_addresses_first", "tunnel_addresses", ["first"])


def downgrade() -> None:
    """Remove the tables; nodes and admins stay."""
    op.drop_table("tunnel_addresses")
    op.drop_table("tunnel_ends")
    op.drop_table("tunnels")
    op.drop_table("tunnel_panel")
