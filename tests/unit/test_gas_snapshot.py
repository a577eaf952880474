"""The committed gas numbers, and what the check calls a difference. `make gas-snapshot` measures them anew."""

from __future__ import annotations

import json

from scripts.gas_snapshot import BATCHES, README, SNAPSHOT, differences, in_readme


def committed() -> dict[str, int]:
    return json.loads(SNAPSHOT.read_text())


def test_readme__has_the_committed_numbers() -> None:
    assert README.read_text() == in_readme(committed()), "run `make gas-snapshot WRITE=--write`"


def test_committed__every_batch_up_to_a_hundred() -> None:
    assert BATCHES == (1, 10, 50, 100)
    assert {f"settle, {count} in one transaction" for count in BATCHES} <= committed().keys()


def test_batch_of_fifty__saves_twenty_thousand_a_session() -> None:
    gas = committed()
    assert gas["endSession"] - gas["settle, 50 in one transaction"] / 50 >= 20_000


def test_differences__more_than_one_percent_new_or_gone__reported() -> None:
    was = {"same": 1000, "slightly": 1000, "more": 1000, "less": 1000, "gone": 1}
    now = {"same": 1000, "slightly": 1010, "more": 1011, "less": 989, "new": 1}
    assert {line.partition(":")[0] for line in differences(was, now)} == {"more", "less", "gone", "new"}
