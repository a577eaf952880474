"""Single-use links of questions to participants."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "links",
        sa.Column("digest", sa.String(), primary_key=True),
        sa.Column("session_key", sa.String(), nullable=False),
        sa.Column("address", sa.String()),
        sa.Column("action_id", sa.Integer(), nullable=False),
        sa.Column("made_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=False),
        sa.Column("answered_ms", sa.BigInteger()),
    )
    op.create_index("ix_links_session_key", "links", ["session_key"])
    op.create_index("ix_links_expires_ms", "links", ["expires_ms"])


def downgrade() -> None:
    op.drop_table("links")
