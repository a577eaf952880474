"""Indexes over the few rows that are looked for: sessions that aren't closed, settlements that aren't final.

Nothing looks for a settlement by its transaction.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.drop_index("ix_sessions_closed", "sessions")
    op.drop_index("ix_settlements_finality", "settlements")
    op.execute("DROP INDEX IF EXISTS ix_settlements_tx_hash")  # a first backfill that was cut short hasn't made it yet
    for name, table, column, where in (
        ("ix_sessions_open", "sessions", "end_block", "closed = FALSE"),
        ("ix_settlements_unfinal", "settlements", "block_number", "finality <> 'final'"),
    ):
        op.create_index(name, table, [column], sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def downgrade() -> None:
    op.drop_index("ix_settlements_unfinal", "settlements")
    op.drop_index("ix_sessions_open", "sessions")
    op.create_index("ix_settlements_tx_hash", "settlements", ["tx_hash"])
    op.create_index("ix_settlements_finality", "settlements", ["finality"])
    op.create_index("ix_sessions_closed", "sessions", ["closed"])
