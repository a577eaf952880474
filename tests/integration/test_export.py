"""`settlements --export` and the filters: files that other programs read."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from bot.store.db import Database
from bot.store.queries import SETTLEMENT_COLUMNS
from bot.store.schema import upgrade
from bot.store.tables import Settlement
from tests.support.record import Done, inside

ANN, BOB, EVE = (f"0x{digit * 40}" for digit in "123")
DAY = 86_400
FIRST = 1_790_812_800  # 2026-10-01 00:00:00 UTC


def row(number: int, student: str | None, tutor: str, day: int, **more: Any) -> Settlement:
    return Settlement(
        session_id=number, student=student, tutor=tutor, ended_at=FIRST + day * DAY, billed_s="60",
        paid=str(2**256 - 1), tx_hash=f"0x{number:064x}", block_number=number, **more,
    )  # fmt: skip


@pytest.fixture
def url(tmp_path: Path) -> str:
    one = Database(f"sqlite:///{tmp_path / 'keeper.db'}")
    upgrade(one)
    with one.write() as session:
        session.add(row(1, ANN, BOB, 0, room_id="=1+1", by_keeper=True, ended_by="keeper"))
        session.add(row(2, EVE, ANN, 10, by_keeper=False, ended_by="owner"))
        session.add(row(3, None, EVE, 31))
    one.dispose()
    return f"sqlite:///{tmp_path / 'keeper.db'}"


def ask(tmp_path: Path, url: str, *args: str) -> Done:
    return inside(tmp_path / "home", "settlements", *args, DATABASE_URL=url)


def test_export__csv__has_every_public_column_and_row_oldest_first(tmp_path: Path, url: str) -> None:
    file = tmp_path / "all.csv"
    done = ask(tmp_path, url, "--export", str(file))
    assert (done.code, done.err) == (0, f"3 settlements written to {file}.\n")
    with file.open(newline="") as content:
        reader = csv.DictReader(content)
        rows = list(reader)
    assert tuple(reader.fieldnames or ()) == SETTLEMENT_COLUMNS
    assert [one["session_id"] for one in rows] == ["1", "2", "3"]
    assert rows[0]["paid"] == str(2**256 - 1)
    assert [one["by_keeper"] for one in rows] == ["true", "false", ""]
    assert rows[2]["student"] == ""


def test_export__room_named_like_a_formula__is_text_in_a_spreadsheet(tmp_path: Path, url: str) -> None:
    file = tmp_path / "all.csv"
    ask(tmp_path, url, "--export", str(file))
    assert "'=1+1" in file.read_text()


def test_export__jsonl__equals_what_json_prints(tmp_path: Path, url: str) -> None:
    file = tmp_path / "all.jsonl"
    said = ask(tmp_path, url, "--export", str(file), "--json").json()
    assert said == {"file": str(file), "settlements": 3}
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines == ask(tmp_path, url, "--json").json()[::-1]


def test_export__stdout__is_csv(tmp_path: Path, url: str) -> None:
    out = ask(tmp_path, url, "--export", "-").out
    assert out.splitlines()[0] == ",".join(SETTLEMENT_COLUMNS)
    assert len(out.splitlines()) == 4


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (["--since", "2026-10-11"], [3, 2]),
        (["--since", "2026-10-11T00:00:01+00:00"], [3]),
        (["--until", "2026-10-11"], [1]),
        (["--since", "2026-10-01", "--until", "2026-11-01"], [2, 1]),
        (["--until", str(FIRST)], []),
        (["--participant", ANN], [2, 1]),
        (["--student", ANN], [1]),
        (["--tutor", ANN, "--since", "2026-10-01"], [2]),
        (["--limit", "1"], [3]),
    ],
)
def test_settlements__filters__by_time_and_participant(
    tmp_path: Path, url: str, filters: list[str], expected: list[int]
) -> None:
    assert [one["session_id"] for one in ask(tmp_path, url, *filters, "--json").json()] == expected
    if "--limit" not in filters:
        file = tmp_path / "some.jsonl"
        ask(tmp_path, url, *filters, "--export", str(file))
        found = [json.loads(line)["session_id"] for line in file.read_text().splitlines()]
        assert found == expected[::-1]


def test_export__place_that_cannot_be_written__says_so(tmp_path: Path, url: str) -> None:
    done = ask(tmp_path, url, "--export", str(tmp_path / "nowhere" / "all.csv"))
    assert done.code == 2
    assert "--export:" in done.err


def test_settlements__time_that_is_none__is_refused(tmp_path: Path, url: str) -> None:
    done = ask(tmp_path, url, "--since", "yesterday")
    assert done.code == 2
    assert "is not a time" in done.err
