"""An older database, brought to this schema with what is in it; on SQLite and PostgreSQL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import text

import bot.store
from bot.chain import codec
from bot.store import audit_rows, chain_step
from bot.store.chain_rows import BlockRow, Finality, LogRow, Rows
from bot.store.chain_step import Step
from bot.store.db import Database
from bot.store.schema import upgrade
from tests.integration.test_store import postgres, url

__all__ = ["postgres", "url"]

STUDENT, TUTOR = "0x" + "51" * 20, "0x" + "70" * 20
UNKNOWN = "0x" + "ee" * 32
WORDS = ",".join("0x" + byte * 32 for byte in ("00", "51", "70"))


def to(database: Database, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(bot.store.__file__).parent / "migrations"))
    with database.engine.connect().execution_options(keeper_write=True) as connection, connection.begin():
        config.attributes["connection"] = connection
        go = command.upgrade if version_of(connection) < revision else command.downgrade
        go(config, revision)


def version_of(connection: Any) -> str:
    if not connection.dialect.has_table(connection, "alembic_version"):
        return ""
    return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one())


def log_of_before(index: int, name: str | None, topics: str) -> dict[str, Any]:
    return {"index": index, "name": name, "topics": topics, "id": 7 if name else None}


def stored_before(database: Database) -> None:
    """A session's start and an event that nobody knows, as the seventh schema had them."""
    logs = [
        log_of_before(0, "SessionStarted", f"{codec.SESSION_STARTED},{WORDS}"),
        log_of_before(1, None, f"{UNKNOWN},{WORDS}"),
        log_of_before(2, None, ""),
    ]
    with database.write() as session:
        for log in logs:
            session.execute(
                text(
                    "INSERT INTO logs (block_number, log_index, block_hash, tx_hash, tx_index, name, session_id,"
                    " topics, data) VALUES (5, :index, '0xb', '0xt', 0, :name, :id, :topics, '0x01')"
                ),
                log,
            )
        session.execute(
            text(
                "INSERT INTO sessions (session_id, student, tutor, language, start_block, start_tx, closed)"
                f" VALUES (7, '{STUDENT}', '{TUTOR}', 1, 5, '0xt', FALSE)"
            )
        )


def test_upgrade__logs_of_the_seventh_schema__are_as_a_new_index_has_them(url: str) -> None:
    database = Database(url)
    to(database, "0007")
    stored_before(database)
    upgrade(database)
    rows = Rows([BlockRow(6, "0xc", "0xb", 1)])
    new = LogRow(6, 0, None, "0xt", 0, "SessionStarted", 7, None, WORDS, "0x01")
    rows.logs.append(new)
    with database.write() as session:
        chain_step.advance(session, Step(rows, Finality(0, 0)))
    with database.read() as session:
        started, unknown, bare, added = audit_rows.logs(session, 5, 6)
    assert added == new
    assert started == new._replace(block_number=5)
    assert (unknown.topics, bare.topics) == (f"{UNKNOWN},{WORDS}", "")
    database.dispose()


def test_downgrade__to_the_seventh_schema__topics_and_transactions_are_back(url: str) -> None:
    database = Database(url)
    to(database, "0007")
    stored_before(database)
    upgrade(database)
    to(database, "0007")
    with database.engine.connect() as connection:
        topics = connection.execute(text("SELECT topics FROM logs ORDER BY log_index")).scalars().all()
        start_tx = connection.execute(text("SELECT start_tx FROM sessions")).scalar_one()
    assert topics == [f"{codec.SESSION_STARTED},{WORDS}", f"{UNKNOWN},{WORDS}", ""]
    assert start_tx == "0xt"
    database.dispose()
