# SPDX-License-Identifier: AGPL-3.0-or-later
# Copyright (c) 2026 the marzban.tunnels authors
"""What is wrong with an end in one word, beside the sentence, so that the page can lead to the guide."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007_symptom"
down_revision = "0006_history"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; until an end is reported again it is empty."""
    if "symptom" in {column["name"] for column in sa.inspect(op.get_bind()).get_columns("tunnel_ends")}:
        return  # MariaDB commits each step: a migration that was cut off begins again
    op.add_column("tunnel_ends", sa.Column("symptom", sa.String(16)))


def downgrade() -> None:
    """Take the column away."""
    if "symptom" in {column["name"] for column in sa.inspect(op.get_bind()).get_columns("tunnel_ends")}:
        op.drop_column("tunnel_ends", "symptom")
