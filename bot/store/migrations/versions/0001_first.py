"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "meta",
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("value", sa.String(), nullable=False),
    )
    op.create_table(
        "blocks",
        sa.Column("number", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("hash", sa.String(), nullable=False),
        sa.Column("parent_hash", sa.String(), nullable=False),
        sa.Column("timestamp_s", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "logs",
        sa.Column("block_number", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("log_index", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("block_hash", sa.String(), nullable=False),
        sa.Column("timestamp_s", sa.BigInteger()),
        sa.Column("tx_hash", sa.String(), nullable=False),
        sa.Column("tx_index", sa.Integer(), nullable=False),
        sa.Column("name", sa.String()),
        sa.Column("session_id", sa.BigInteger()),
        sa.Column("address", sa.String()),
        sa.Column("topics", sa.String(), nullable=False),
        sa.Column("data", sa.String(), nullable=False),
    )
    op.create_index("ix_logs_session_id", "logs", ["session_id"])
    op.create_table(
        "sessions",
        sa.Column("session_id", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("student", sa.String(), nullable=False),
        sa.Column("tutor", sa.String(), nullable=False),
        sa.Column("language", sa.Integer(), nullable=False),
        sa.Column("start_block", sa.BigInteger(), nullable=False),
        sa.Column("start_tx", sa.String(), nullable=False),
        sa.Column("started_at", sa.BigInteger()),
        sa.Column("end_block", sa.BigInteger()),
        sa.Column("rate", sa.String()),
        sa.Column("token", sa.String()),
        sa.Column("closed", sa.Boolean(), nullable=False),
    )
    op.create_index("ix_sessions_closed", "sessions", ["closed"])
    op.create_index("ix_sessions_end_block", "sessions", ["end_block"])
    op.create_index("ix_sessions_student", "sessions", ["student"])
    op.create_index("ix_sessions_tutor", "sessions", ["tutor"])
    op.create_table(
        "settlements",
        sa.Column("session_id", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("room_id", sa.String()),
        sa.Column("student", sa.String()),
        sa.Column("tutor", sa.String(), nullable=False),
        sa.Column("token", sa.String()),
        sa.Column("language", sa.Integer()),
        sa.Column("started_at", sa.BigInteger()),
        sa.Column("ended_at", sa.BigInteger()),
        sa.Column("billed_s", sa.String(), nullable=False),
        sa.Column("rate", sa.String()),
        sa.Column("paid", sa.String(), nullable=False),
        sa.Column("ended_by", sa.String()),
        sa.Column("by_keeper", sa.Boolean()),
        sa.Column("tx_hash", sa.String(), nullable=False),
        sa.Column("block_number", sa.BigInteger(), nullable=False),
        sa.Column("finality", sa.String(), nullable=False),
        sa.Column("reason", sa.String()),
        sa.Column("call_ended_at", sa.BigInteger()),
        sa.Column("overbilled_s", sa.BigInteger()),
        sa.Column("overbilled_amount", sa.String()),
        sa.Column("sender", sa.String()),
    )
    op.create_index("ix_settlements_block_number", "settlements", ["block_number"])
    op.create_index("ix_settlements_ended_at", "settlements", ["ended_at"])
    op.create_index("ix_settlements_finality", "settlements", ["finality"])
    op.create_index("ix_settlements_student", "settlements", ["student"])
    op.create_index("ix_settlements_tutor", "settlements", ["tutor"])
    op.create_index("ix_settlements_tx_hash", "settlements", ["tx_hash"])
    op.create_table(
        "rooms",
        sa.Column("room", sa.String(), primary_key=True),
        sa.Column("session_key", sa.String()),
        sa.Column("rule", sa.String()),
        sa.Column("trust", sa.Integer(), nullable=False),
        sa.Column("student", sa.String()),
        sa.Column("tutor", sa.String()),
        sa.Column("first_ms", sa.BigInteger(), nullable=False),
        sa.Column("heard_ms", sa.BigInteger(), nullable=False),
        sa.Column("beats", sa.Integer(), nullable=False),
        sa.Column("beat_first_ms", sa.BigInteger(), nullable=False),
        sa.Column("beat_last_ms", sa.BigInteger(), nullable=False),
        sa.Column("beat_source", sa.String()),
        sa.Column("state", sa.String(), nullable=False),
    )
    op.create_index("ix_rooms_session_key", "rooms", ["session_key"])
    op.create_index("ix_rooms_state", "rooms", ["state"])
    op.create_table(
        "facts",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("key", sa.String(), nullable=False, unique=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("trust", sa.Integer(), nullable=False),
        sa.Column("received_ms", sa.BigInteger(), nullable=False),
        sa.Column("said_ms", sa.BigInteger()),
        sa.Column("room", sa.String()),
        sa.Column("session_id", sa.BigInteger()),
        sa.Column("student", sa.String()),
        sa.Column("tutor", sa.String()),
        sa.Column("role", sa.String()),
        sa.Column("can_return", sa.Boolean(), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("session_key", sa.String()),
    )
    op.create_index("ix_facts_received_ms", "facts", ["received_ms"])
    op.create_index("ix_facts_room", "facts", ["room"])
    op.create_index("ix_facts_session_key", "facts", ["session_key"])
    op.create_table(
        "decisions",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("session_key", sa.String(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("look_again_ms", sa.BigInteger()),
        sa.Column("inputs", sa.JSON(), nullable=False),
    )
    op.create_index("ix_decisions_session_key", "decisions", ["session_key"])
    op.create_table(
        "actions",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("key", sa.String(), nullable=False, unique=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("session_key", sa.String(), nullable=False),
        sa.Column("decision_id", sa.Integer()),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("ended_ms", sa.BigInteger()),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("outcome", sa.String()),
    )
    op.create_index("ix_actions_open", "actions", ["state", "kind"])
    op.create_index("ix_actions_session_key", "actions", ["session_key"])
    op.create_table(
        "txs",
        sa.Column("hash", sa.String(), primary_key=True),
        sa.Column("nonce", sa.Integer(), nullable=False),
        sa.Column("sender", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("session_key", sa.String(), nullable=False),
        sa.Column("action_id", sa.Integer(), nullable=False),
        sa.Column("raw", sa.Text(), nullable=False),
        sa.Column("gas", sa.Integer(), nullable=False),
        sa.Column("max_fee", sa.String(), nullable=False),
        sa.Column("tip", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("stored_ms", sa.BigInteger(), nullable=False),
        sa.Column("stored_block", sa.BigInteger(), nullable=False),
        sa.Column("sent_ms", sa.BigInteger()),
        sa.Column("mined_block", sa.BigInteger()),
        sa.Column("mined_hash", sa.String()),
        sa.Column("gas_cost", sa.String()),
        sa.Column("note", sa.String()),
        sa.Column("closed", sa.Boolean(), nullable=False),
    )
    op.create_index("ix_txs_action_id", "txs", ["action_id"])
    op.create_index("ix_txs_closed", "txs", ["closed"])
    op.create_index("ix_txs_nonce", "txs", ["nonce"])
    op.create_index("ix_txs_session_key", "txs", ["session_key"])
    op.create_index("ix_txs_state", "txs", ["state"])
    op.create_table(
        "inbox",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("asked_ms", sa.BigInteger(), nullable=False),
        sa.Column("answered_ms", sa.BigInteger()),
        sa.Column("answer", sa.JSON()),
    )
    op.create_index("ix_inbox_answered_ms", "inbox", ["answered_ms"])
    op.create_table(
        "alerts",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("session_key", sa.String()),
        sa.Column("text", sa.String(), nullable=False),
        sa.Column("sent_ms", sa.BigInteger()),
    )
    op.create_index("ix_alerts_name", "alerts", ["name"])
    op.create_table(
        "tee",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("room", sa.String(), nullable=False),
        sa.Column("session_key", sa.String()),
        sa.Column("received_ms", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
    )
    op.create_table(
        "aftermath",
        sa.Column("room", sa.String(), primary_key=True),
        sa.Column("session_key", sa.String(), primary_key=True),
        sa.Column("how", sa.String(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("aftermath")
    op.drop_table("tee")
    op.drop_table("alerts")
    op.drop_table("inbox")
    op.drop_table("txs")
    op.drop_table("actions")
    op.drop_table("decisions")
    op.drop_table("facts")
    op.drop_table("rooms")
    op.drop_table("settlements")
    op.drop_table("sessions")
    op.drop_table("logs")
    op.drop_table("blocks")
    op.drop_table("meta")
