"""Rows of the chain in bulk: what `bot.store.bulk` and `bot.store.chain_rows` promise, on both databases."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlmodel import select

from bot.store import bulk, chain_reorg, chain_rows, chain_step
from bot.store.chain_rows import BlockRow, End, Finality, LogRow, LogRows, Reorg, Rows, Start
from bot.store.chain_step import Step
from bot.store.db import Database
from bot.store.tables import FactRow
from tests.integration.test_store import database, postgres, url

__all__ = ["database", "postgres", "url"]

STUDENT, TUTOR, TOKEN = ("0x" + letter * 40 for letter in "123")
ALL_FINAL = Finality(confirmed_to=1_000_000, final_to=1_000_000)


def log_row(block: int, index: int, **more: Any) -> LogRow:
    row = LogRow(block, index, None, f"0xt{block}{index}", index, None, None, None, "0x1,0x2", "0x")
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
    starts = [Start(number, STUDENT, TUTOR, 4, 1, 10) for number in (1, 2)]
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
    starts = [Start(number, STUDENT, TUTOR, 4, 1, 10) for number in (1, 2, 3)]
    ends = [End(number, TUTOR, 7, 9, 1 + number, f"0xe{number}", 17) for number in (1, 2)]
    with database.write() as session:
        chain_rows.append(session, Rows(starts=starts, ends=ends), Finality(confirmed_to=3, final_to=2))
    assert [bool(row.closed) for row in stored(database, "sessions")] == [True, False, False]
    assert [row.finality for row in stored(database, "settlements")] == ["final", "confirmed"]


# Steps, reorgs, finality


def stretch(first: int, last: int, branch: int, starts: tuple[int, ...] = (), ends: tuple[int, ...] = ()) -> Rows:
    """Blocks first..last of a branch, with sessions that start in the first and end in the last."""
    rows = Rows([BlockRow(n, f"0x{branch}{n}", f"0x{branch}{n - 1}", n * 10) for n in range(first, last + 1)])
    huge = 2**256 - 1
    rows.starts = [Start(n, STUDENT, TUTOR, 1, first, first * 10) for n in starts]
    rows.ends = [End(n, TUTOR, huge, huge, last, f"0xe{n}", last * 10) for n in ends]
    for index, (number, name, block) in enumerate(
        [(n, "SessionStarted", first) for n in starts] + [(n, "SessionEnded", last) for n in ends]
    ):
        log = LogRow(block, index, block * 10, f"0x{index}", 0, name, number, STUDENT, "", "0x")
        rows.logs.append(log)
    return rows


NOTHING_FINAL = Finality(confirmed_to=0, final_to=0)


def dump(database: Database) -> dict[str, list[Any]]:
    with database.engine.connect() as connection:
        return {
            table: list(connection.execute(text(f"SELECT * FROM {table} ORDER BY 1, 2")))
            for table in ("blocks", "logs", "sessions", "settlements")
        }


def test_advance__amounts_of_uint256__are_exact(database: Database) -> None:
    with database.write() as session:
        chain_step.advance(session, Step(stretch(1, 3, 1, starts=(1,), ends=(1,)), NOTHING_FINAL))
    (row,) = dump(database)["settlements"]
    assert row.paid == row.billed_s == str(2**256 - 1)


def test_retract__after_append__leaves_the_tables_as_they_were(database: Database) -> None:
    """Quotes: "after retracting a block, the tables are as if it had never been appended"."""
    with database.write() as session:
        chain_step.advance(session, Step(stretch(1, 3, 1, starts=(1, 2), ends=(2,)), NOTHING_FINAL))
    before = dump(database)
    with database.write() as session:
        chain_step.advance(session, Step(stretch(4, 6, 1, starts=(3,), ends=(1, 3)), NOTHING_FINAL))
    assert dump(database) != before
    with database.write() as session:
        taken = chain_reorg.retract(session, Reorg(3, 6, "0x16", 4, "0x24"))
    assert dump(database) == before
    assert [key.session_id for key in taken.sessions] == [1, 3]
    assert taken.removed == 3
    with database.read() as session:
        assert len(session.exec(select(FactRow)).all()) == 2


def test_advance__the_same_rows_twice__are_stored_once(database: Database) -> None:
    rows = stretch(1, 3, 1, starts=(1,), ends=(1,))
    with database.write() as session:
        chain_step.advance(session, Step(rows, NOTHING_FINAL))
    before = dump(database)
    with database.write() as session:
        chain_step.advance(session, Step(rows, NOTHING_FINAL))
    assert dump(database) == before


def test_sweep__as_blocks_become_final__raises_and_closes(database: Database) -> None:
    with database.write() as session:
        chain_step.advance(session, Step(stretch(1, 3, 1, starts=(1, 2), ends=(1,)), NOTHING_FINAL))
        chain_step.advance(session, Step(stretch(4, 5, 1, ends=(2,)), NOTHING_FINAL))
        assert chain_rows.sweep(session, Finality(confirmed_to=5, final_to=3)) == 1
    rows = dump(database)
    assert [row.finality for row in rows["settlements"]] == ["final", "confirmed"]
    assert [row.closed for row in rows["sessions"]] == [True, False]


def test_advance__many_sessions__finds_all_earlier_starts(database: Database) -> None:
    numbers = tuple(range(1, 1_700))
    with database.write() as session:
        chain_step.advance(session, Step(stretch(1, 1, 1, starts=numbers), NOTHING_FINAL))
        done = chain_step.advance(session, Step(stretch(2, 2, 1, ends=numbers), NOTHING_FINAL))
    assert len(done.ended) == len(numbers)
    assert all(row.student == STUDENT and row.language == 1 for row in dump(database)["settlements"])


def test_prune__below_the_cursor__keeps_the_newest_header(database: Database) -> None:
    with database.write() as session:
        chain_step.advance(session, Step(stretch(1, 9, 1), NOTHING_FINAL))
        chain_step.prune(session, 8)
        assert [row.number for row in chain_step.zone(session)] == [8, 9]
        chain_step.prune(session, 100)
        assert [row.number for row in chain_step.zone(session)] == [9]
