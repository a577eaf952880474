"""What decisions saw and the policies they went by, so that they can be made again."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("facts", sa.Column("joined_after", sa.BigInteger()))
    op.add_column("decisions", sa.Column("facts_to", sa.BigInteger()))
    op.add_column("decisions", sa.Column("saw", sa.JSON()))
    op.create_table(
        "policies",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("decided_after", sa.BigInteger(), nullable=False),
        sa.Column("policy", sa.JSON(), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("policies")
    with op.batch_alter_table("decisions") as batch:
        batch.drop_column("saw")
        batch.drop_column("facts_to")
    with op.batch_alter_table("facts") as batch:
        batch.drop_column("joined_after")
