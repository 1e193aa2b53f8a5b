# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""Admins, nodes and the signing secret of the standalone door."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001_standalone"
down_revision = None
branch_labels = None
depends_on = None

_MYSQL: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4"}


def _exact(length: int) -> sa.String:
    variant = mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin")
    return sa.String(length).with_variant(variant, "mysql", "mariadb")


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "admins",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("username", _exact(64), nullable=False),
        sa.Column("password_hash", sa.String(256), nullable=False),
        sa.Column("password_set_at", sa.BigInteger, nullable=False),
        sa.Column("is_sudo", sa.Boolean, nullable=False),
        sa.UniqueConstraint("username", name="uq_admins_username"),
        **_MYSQL,
    )
    op.create_table(
        "nodes",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", _exact(256), nullable=False),
        sa.Column("address", sa.String(256), nullable=False),
        sa.Column("port", sa.Integer, nullable=False),
        sa.Column("api_port", sa.Integer, nullable=False),
        sa.Column("usage_coefficient", sa.Float, nullable=False),
        sa.Column("xray_version", sa.String(32), nullable=True),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("message", sa.String(1024), nullable=True),
        sa.Column("created_at", sa.DateTime, nullable=True),
        sa.UniqueConstraint("name", name="uq_nodes_name"),
        **_MYSQL,
    )
    op.create_table(
        "secrets",
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
        **_MYSQL,
    )


def downgrade() -> None:
    """Remove the tables."""
    op.drop_table("secrets")
    op.drop_table("nodes")
    op.drop_table("admins")
