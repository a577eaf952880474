"""When the block of a transaction was, so that its gas counts on the day that it was spent."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("txs", sa.Column("mined_ms", sa.BigInteger()))
    op.create_index("ix_txs_mined_ms", "txs", ["mined_ms"])


def downgrade() -> None:
    op.drop_index("ix_txs_mined_ms", "txs")
    with op.batch_alter_table("txs") as batch:
        batch.drop_column("mined_ms")
