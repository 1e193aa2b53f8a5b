# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""A digest of each name, equal for names that people may take for each other: a new one is refused by it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004_alike"
down_revision = "0003_gaps"
branch_labels = None
depends_on = None
_INDEX = "ix_tunnels_alike"


def upgrade() -> None:
    """Add the column, and its index; each start of the panel fills in what is missing. MariaDB commits each step: a
    migration that was cut off begins again."""
    seen = sa.inspect(op.get_bind())
    if "alike" not in {column["name"] for column in seen.get_columns("tunnels")}:
        op.add_column("tunnels", sa.Column("alike", sa.String(64)))
    if _INDEX not in {index["name"] for index in seen.get_indexes("tunnels")}:
        op.create_index(_INDEX, "tunnels", ["alike"])


def downgrade() -> None:
    """Take the column away."""
    op.drop_index(_INDEX, "tunnels")
    op.drop_column("tunnels", "alike")
