"""Which nudge was said to whom by which channel."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "deliveries",
        sa.Column("action_id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("channel", sa.String(), primary_key=True),
        sa.Column("address", sa.String(), primary_key=True),
        sa.Column("begun_ms", sa.BigInteger(), nullable=False),
        sa.Column("how", sa.String(), nullable=False),
        sa.Column("done_ms", sa.BigInteger()),
    )


def downgrade() -> None:
    op.drop_table("deliveries")
