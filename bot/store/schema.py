"""The schema's version and how to reach it.

Promises: `upgrade` brings an empty or older database to the schema of this program, and refuses a newer one.
Alembic is imported only when there is something to migrate: a new database is made as the tables say, which a test
holds equal to what the migrations make.
"""

from __future__ import annotations

from pathlib import Path

import structlog
from sqlalchemy import inspect, text

from bot.errors import Misconfigured
from bot.store.backup import take_backup
from bot.store.db import Database

log = structlog.get_logger("store")

HEAD = "0008"
_KNOWN = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008")


def differs(present: str | None) -> str | None:
    """What to do about a schema that isn't this keeper's, in words; None when it is."""
    if present == HEAD:
        return None
    if present is None:
        return "If DATABASE_URL names the keeper's, start `langdao-keeper run` once: it makes one"
    if present in _KNOWN:
        return "Start `langdao-keeper run` once: it brings it up to date"
    return "It was made by a newer keeper: upgrade this one (docs/backup.md#upgrade), or set another DATABASE_URL"


def version(database: Database) -> str | None:
    """The schema's version in this database, None when it is empty."""
    with database.engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def upgrade(database: Database) -> None:
    """Brings the schema up to date. Raises Misconfigured for a database made by a newer keeper."""
    present = version(database)
    if present == HEAD:
        return
    if present is not None and present not in _KNOWN:
        raise Misconfigured(
            f"The database has schema {present}, newer than this keeper's {HEAD}. "
            "Upgrade the keeper or choose another DATABASE_URL"
        )
    if present is None and _is_empty(database):
        _create(database)
    else:
        _keep_a_copy(database, present)
        migrate(database)


def _keep_a_copy(database: Database, present: str | None) -> None:
    """Before a migration; beside the database, named for the schema that it has."""
    if database.path is None:
        log.warning("schema.upgrading", present=present, to=HEAD, text="no copy is made of a PostgreSQL database")
        return
    target = database.path.with_name(f"{database.path.name}.schema-{present or 'none'}")
    if not target.exists():  # an upgrade that was cut short: the first copy is the good one
        take_backup(database, target)
    log.warning("schema.upgrading", present=present, to=HEAD, copy=str(target))


def _is_empty(database: Database) -> bool:
    with database.engine.connect() as connection:
        return not inspect(connection).get_table_names()


def _create(database: Database) -> None:
    """All tables at once, marked as Alembic would."""
    from bot.store.tables import Table

    with database.engine.connect().execution_options(keeper_write=True) as connection, connection.begin():
        Table.metadata.create_all(connection, checkfirst=False)
        connection.exec_driver_sql(
            "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL,"
            " CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))"
        )
        connection.execute(text("INSERT INTO alembic_version VALUES (:head)"), {"head": HEAD})


def migrate(database: Database) -> None:
    """Runs the migrations that this database hasn't had."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with database.engine.connect().execution_options(keeper_write=True) as connection, connection.begin():
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
