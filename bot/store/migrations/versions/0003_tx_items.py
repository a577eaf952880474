"""A transaction may end several sessions: each is a row of its own."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "tx_items",
        sa.Column("tx_hash", sa.String(), primary_key=True),
        sa.Column("position", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("session_key", sa.String(), nullable=False),
        sa.Column("action_id", sa.Integer(), nullable=False),
    )
    op.create_index("ix_tx_items_session_key", "tx_items", ["session_key"])
    op.execute(
        "INSERT INTO tx_items (tx_hash, position, session_key, action_id)"
        " SELECT hash, 0, session_key, action_id FROM txs WHERE kind <> 'fill'"
    )
    op.drop_index("ix_txs_action_id", "txs")
    op.drop_index("ix_txs_session_key", "txs")
    with op.batch_alter_table("txs") as batch:
        batch.drop_column("session_key")
        batch.drop_column("action_id")


def downgrade() -> None:
    with op.batch_alter_table("txs") as batch:
        batch.add_column(sa.Column("session_key", sa.String(), nullable=False, server_default=""))
        batch.add_column(sa.Column("action_id", sa.Integer(), nullable=False, server_default="0"))
    first = "FROM tx_items WHERE tx_items.tx_hash = txs.hash AND position = 0"
    op.execute(
        f"UPDATE txs SET session_key = coalesce((SELECT session_key {first}), ''),"  # noqa: S608 (no input)
        f" action_id = coalesce((SELECT action_id {first}), 0)"
    )
    op.create_index("ix_txs_action_id", "txs", ["action_id"])
    op.create_index("ix_txs_session_key", "txs", ["session_key"])
    op.drop_table("tx_items")
