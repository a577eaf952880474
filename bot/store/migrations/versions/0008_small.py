"""Smaller rows of the chain: an index is as fast as they are small.

A log's block is known by its number, its first topic by its name, and where a session started by its log. What isn't
known otherwise stays. Nothing read the hashes that go.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

# Names and first topics as they were when this was written: the contract's seven events.
_TOPICS = {
    "SessionStarted": "0xa1b15600c9aef5c5d3c0c18700942ad4caf125753a856588b1aa2a0a969b0063",
    "SessionEnded": "0x1f566c0c31d295290bb19b5162e239dbdeeb51107556dd0c39b1a86a303ed393",
    "StudentRegistered": "0xfe5b2460448f2d2597bf84d2f034eba36aee74fa0398907c1e9501aacd55ec51",
    "TutorRegistered": "0xb825f885fabbf774de69a1255df84b85b730a6553b26edb062877027b406d449",
    "FundsDeposited": "0xf0d0e99cae184d0187b093b48894117462462379674a6e11d89c3fbb618e96b0",
    "FundsWithdrawn": "0xa92ff919b850e4909ab2261d907ef955f11bc1716733a6cbece38d163a69af8a",
    "PaymentProcessed": "0x0538ab32a957d2b55d0ec70a4029e73fdf19f500832839b1d7bafcfbca2a5630",
}
_REST = len("0x") + 64 + len(",") + 1  # where the second topic begins


def upgrade() -> None:
    without_first = sa.text("UPDATE logs SET topics = substr(topics, :rest) WHERE name IS NOT NULL")
    op.execute(without_first.bindparams(rest=_REST))
    op.drop_column("logs", "block_hash")
    op.drop_column("sessions", "start_tx")


def downgrade() -> None:
    """All but the hashes of blocks, which only the story of a reorg told."""
    for name, topic in _TOPICS.items():
        with_first = sa.text("UPDATE logs SET topics = :topic || ',' || topics WHERE name = :name")
        op.execute(with_first.bindparams(topic=topic, name=name))
    op.add_column("logs", sa.Column("block_hash", sa.String(), nullable=False, server_default=""))
    op.add_column("sessions", sa.Column("start_tx", sa.String(), nullable=False, server_default=""))
    op.execute(
        "UPDATE sessions SET start_tx = logs.tx_hash FROM logs"
        " WHERE logs.session_id = sessions.session_id AND logs.name = 'SessionStarted'"
    )
