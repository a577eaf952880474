"""What became of a transaction whose commit was asked for and never answered. PostgreSQL's; SQLite answers always.

Promises: `committed` says it for certain, and no earlier than it is: what the server still has open of it is ended
first.
"""

from __future__ import annotations

import time

from sqlalchemy import Engine, text
from sqlmodel import Session

AGAIN_S = 0.05
_NUMBER = text("SELECT CAST(pg_current_xact_id_if_assigned() AS text)")
_STATUS = text("SELECT pg_xact_status(CAST(:number AS xid8))")
_END = text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_xid = CAST(CAST(:number AS xid8) AS xid)"
)


def number_of(session: Session) -> str | None:
    """The server's number of this transaction; None if it changes nothing, or if the database never leaves a doubt."""
    if session.get_bind().dialect.name != "postgresql":
        return None
    session.flush()
    number = session.connection().execute(_NUMBER).scalar()
    return None if number is None else str(number)


def committed(engine: Engine, number: str) -> bool:
    """Did this transaction, of a connection that was lost, take effect? Raises what the database raises."""
    with engine.connect() as connection:
        while (status := connection.execute(_STATUS, {"number": number}).scalar()) == "in progress":
            connection.execute(_END, {"number": number})
            connection.rollback()
            time.sleep(AGAIN_S)
    return bool(status == "committed")
