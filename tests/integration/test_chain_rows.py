"""Rows of the chain in bulk: what `bot.store.bulk` and `bot.store.chain_rows` promise, on both databases."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from bot.store import bulk, chain_rows, chain_step
from bot.store.chain_rows import BlockRow, End, Finality, LogRow, LogRows, Rows, Start
from bot.store.chain_step import Step
from bot.store.db import Database
from tests.integration.test_store import database, postgres, url

__all__ = ["database", "postgres", "url"]

STUDENT, TUTOR, TOKEN = ("0x" + letter * 40 for letter in "123")
ALL_FINAL = Finality(confirmed_to=1_000_000, final_to=1_000_000)


def log_row(block: int, index: int, **more: Any) -> LogRow:
    row = LogRow(block, index, f"0xb{block}", None, f"0xt{block}{index}", index, None, None, None, "0x1,0x2", "0x")
    return row._replace(**more)


def stored(database: Database, table: str) -> list[Any]:
    with database.engine.connect() as connection:
        return list(connection.execute(text(f"SELECT * FROM {table} ORDER BY 1, 2")))


def test_insert__any_number_of_rows__all_are_stored_as_they_are(database: Database) -> None:
    given: list[LogRow] = []
    for block, count in enumerate((0, 1, 399, 400, 401, 1_227)):
        rows = Rows([BlockRow(block, f"0xb{block}", "0xa", 1)])
        for number in range(count):
            rows.logs.append(log_row(block, number, timestamp_s=number or None))
        given += rows.logs
        with database.write() as session:
            chain_step.advance(session, Step(rows, ALL_FINAL))
    assert [LogRow(*row) for row in stored(database, "logs")] == given
    assert len(given) == 2_428


def test_insert__one_of_the_rows_cant_be_stored__none_is_left(database: Database) -> None:
    """A statement that fails in its middle takes back nothing by itself; its transaction does."""
    rows = Rows([BlockRow(100, "0xb", "0xa", 1)])
    for number in range(500):
        rows.logs.append(log_row(1, number, **({"data": None} if number == 450 else {})))
    with pytest.raises(IntegrityError), database.write() as session:
        chain_step.advance(session, Step(rows, ALL_FINAL))
    assert stored(database, "logs") == stored(database, "blocks") == []


def test_insert__rows_that_are_there_already__stay_and_the_others_come(database: Database) -> None:
    sql, row = "INSERT INTO meta (name, value) VALUES ", "(?, ?)"
    with database.write() as session:
        bulk.insert(session.connection(), sql, row, ["a", "first"])
        bulk.insert(session.connection(), sql, row, ["a", "second", "b", "third"])
    assert [tuple(one) for one in stored(database, "meta") if one.name in "ab"] == [("a", "first"), ("b", "third")]


def test_log_rows__as_a_sequence__gives_what_was_appended() -> None:
    rows, given = LogRows(), [log_row(1, 0), log_row(1, 1), log_row(2, 0)]
    for row in given:
        rows.append(row)
    assert (len(rows), rows[0], rows[-1], list(rows)) == (3, given[0], given[2], given)
    with pytest.raises(IndexError):
        rows[3]


def test_append__end_of_a_session_whose_rate_was_read__its_settlement_has_it(database: Database) -> None:
    """Also of two that end in the same stretch: what wasn't read of one stays null."""
    starts = [Start(number, STUDENT, TUTOR, 4, 1, f"0xs{number}", 10) for number in (1, 2)]
    ends = [End(number, TUTOR, 7, 2**256 - 1, 2, f"0xe{number}", 17) for number in (1, 2)]
    with database.write() as session:
        chain_rows.append(session, Rows(starts=starts), ALL_FINAL)
        bulk.run(session.connection(), "UPDATE sessions SET rate = ?, token = ? WHERE session_id = ?", ("5", TOKEN, 1))
        chain_rows.append(session, Rows(ends=ends), ALL_FINAL)
    found = [
        (row.session_id, row.rate, row.token, row.student, row.language) for row in stored(database, "settlements")
    ]
    assert found == [(1, "5", TOKEN, STUDENT, 4), (2, None, None, STUDENT, 4)]
    assert [(row.end_block, bool(row.closed)) for row in stored(database, "sessions")] == [(2, True), (2, True)]


def test_append__start_and_end_of_which_one_is_final__only_that_session_is_closed(database: Database) -> None:
    starts = [Start(number, STUDENT, TUTOR, 4, 1, f"0xs{number}", 10) for number in (1, 2, 3)]
    ends = [End(number, TUTOR, 7, 9, 1 + number, f"0xe{number}", 17) for number in (1, 2)]
    with database.write() as session:
        chain_rows.append(session, Rows(starts=starts, ends=ends), Finality(confirmed_to=3, final_to=2))
    assert [bool(row.closed) for row in stored(database, "sessions")] == [True, False, False]
    assert [row.finality for row in stored(database, "settlements")] == ["final", "confirmed"]
