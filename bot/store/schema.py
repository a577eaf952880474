"""The schema's version and how to reach it.

Promises: `upgrade` brings an empty or older database to the schema of this program, and refuses a newer one.
Alembic is imported only when there is something to migrate: most starts have nothing.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import inspect, text

from bot.errors import Misconfigured
from bot.store.db import Database

HEAD = "0001"
_KNOWN = ("0001",)


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
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with database.engine.connect().execution_options(keeper_write=True) as connection, connection.begin():
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
