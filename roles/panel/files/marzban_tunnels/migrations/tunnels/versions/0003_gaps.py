# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""How much time is between an end's reports, so that one is stale when it is late, and not after a fixed time."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003_gaps"
down_revision = "0002_next_id"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; until an end has reported twice it is empty."""
    if "gaps" in {column["name"] for column in sa.inspect(op.get_bind()).get_columns("tunnel_ends")}:
        return  # MariaDB commits each step: a migration that was cut off begins again
    op.add_column("tunnel_ends", sa.Column("gaps", sa.String(64)))


def downgrade() -> None:
    """Take the column away."""
    op.drop_column("tunnel_ends", "gaps")
