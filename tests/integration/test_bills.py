"""The bill: told once, when the end is confirmed, and never of the distant past."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlmodel import select

from bot.domain.facts import SessionKey
from bot.nudges.bills import Bills
from bot.store.bills import Bills as Unbilled
from bot.store.db import Writer
from bot.store.tables import ActionRow, Settlement
from tests.support.record import NOW_MS, NOW_S, Record, record


class Said:
    """What the nudger was told to say."""

    def __init__(self) -> None:
        self.bills: list[tuple[int, SessionKey, dict[str, Any], int]] = []

    def bill(self, action_id: int, key: SessionKey, payload: dict[str, Any], created_ms: int, until_ms: int) -> None:
        self.bills.append((action_id, key, payload, until_ms))


@pytest.fixture
def kept(tmp_path: Path) -> Record:
    return record(tmp_path / "keeper.db")


def telling(kept: Record, said: Said, *, skew_ms: int = 0) -> Bills:
    return Bills(
        Unbilled(Writer(kept.database)),
        said,  # type: ignore[arg-type]
        max_age_ms=600_000,
        skew_ms=lambda: skew_ms,
        clock_ms=lambda: NOW_MS,
        look_every_s=0.01,
    )


async def test_bills__confirmed_end__told_once_with_what_it_cost(kept: Record) -> None:
    key = kept.session(7)
    kept.end(key, ago_s=10, paid=62_000)
    said, bills = Said(), None
    bills = telling(kept, said)
    await bills.look()
    await bills.look()
    await telling(kept, said).look()
    [(_, told, payload, until_ms)] = said.bills
    assert told == key
    assert (payload["billed_s"], payload["paid"], payload["tx_hash"]) == (62, "62000", f"0x{0xE007:064x}")
    assert until_ms == (NOW_S - 10) * 1000 + 600_000


@pytest.mark.parametrize(
    "end",
    [
        {"finality": "seen"},  # a reorg may take back what was merely seen
        {"ago_s": 601},  # never later than EFFECT_MAX_AGE_S after it
        {"rate": None},  # its details weren't read yet
        {"ended_by": None},  # nor who it was: nobody knows yet why
        {"student": None},
    ],
    ids=["seen", "old", "no-details", "no-ender", "no-student"],
)
async def test_bills__end_that_is_not_to_be_told__nothing(kept: Record, end: dict[str, Any]) -> None:
    kept.end(kept.session(7), **end)
    said = Said()
    await telling(kept, said).look()
    assert said.bills == []


async def test_bills__chains_clock_is_ahead__age_is_measured_in_the_chains_time(kept: Record) -> None:
    kept.end(kept.session(7), ago_s=100)
    said = Said()
    await telling(kept, said, skew_ms=550_000).look()
    assert said.bills == []


async def test_bills__crash_while_it_was_told__taken_up_again(kept: Record) -> None:
    kept.end(kept.session(7))
    first, second = Said(), Said()
    await telling(kept, first).look()
    waiting = await Unbilled(Writer(kept.database)).open()
    assert [(bill.action_id, bill.key) for bill in waiting] == [bill[:2] for bill in first.bills]
    with kept.database.write() as session:
        for row in session.exec(select(ActionRow)):
            row.state = "done"
    assert list(await Unbilled(Writer(kept.database)).open()) == []
    await telling(kept, second).look()
    assert second.bills == []


async def test_bills__hundreds_at_once__each_once(kept: Record) -> None:
    for number in range(1, 701):
        kept.end(kept.session(number))
    said = Said()
    bills = telling(kept, said)
    await bills.look()
    await bills.look()
    assert len({bill[1] for bill in said.bills}) == len(said.bills) == 700


async def test_bills__told_before__are_not_even_read(kept: Record) -> None:
    """what is asked every few seconds costs what has come since, not all that ended within the window"""
    read: list[int] = []
    for number in range(1, 4):
        kept.end(kept.session(number))
    bills = telling(kept, Said())
    await bills.look()
    kept.end(kept.session(9))

    def note(row: Settlement, _context: object) -> None:
        read.append(row.session_id)

    event.listen(Settlement, "load", note)
    try:
        await bills.look()
        await bills.look()
    finally:
        event.remove(Settlement, "load", note)
    assert read == [9]
