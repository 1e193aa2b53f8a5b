# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""The panel's row counts the tunnels' ids, so that none is used again on any database.

SQLite's own counter (which 0001 used before) leaves a table of its own that can't be dropped: a removed add-on would
have left something in Marzban's schema.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002_next_id"
down_revision = "0001_tunnels"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the counter, past every id that was ever used."""
    bind = op.get_bind()
    if "next_id" in {column["name"] for column in sa.inspect(bind).get_columns("tunnel_panel")}:
        return  # MariaDB commits each step: a migration that was cut off begins again
    op.add_column("tunnel_panel", sa.Column("next_id", sa.BigInteger, nullable=False, server_default="1"))
    used = bind.scalar(sa.text("SELECT max(id) FROM tunnels")) or 0
    if bind.dialect.name == "sqlite" and bind.scalar(
        sa.text("SELECT 1 FROM sqlite_master WHERE name = 'sqlite_sequence'")
    ):
        used = max(used, bind.scalar(sa.text("SELECT seq FROM sqlite_sequence WHERE name = 'tunnels'")) or 0)
    bind.execute(sa.text("UPDATE tunnel_panel SET next_id = :next"), {"next": used + 1})


def downgrade() -> None:
    """Take the counter away."""
    op.drop_column("tunnel_panel", "next_id")
