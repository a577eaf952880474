"""Nudges and bills in words, in the reader's language.

Promises: pure; a text says which session, why, what it costs, what happens next and when (UTC and from now). A
language that isn't here is answered in English. Amounts are base units with 6 decimals, shown exactly, at least three
of them. A catalogue (`locales/*.toml`) has every text of the English one with the same names in it; a test holds that.
Doesn't promise plurals: units are abbreviations, so that no language needs them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

DECIMALS: Final = 6
DEFAULT: Final = "en"
_FOLDER: Final = Path(__file__).parent / "locales"


def _catalogues() -> dict[str, dict[str, Any]]:
    return {path.stem: tomllib.loads(path.read_text(encoding="utf-8")) for path in sorted(_FOLDER.glob("*.toml"))}


_CATALOGUES: Final = _catalogues()
LOCALES: Final = tuple(_CATALOGUES)


def known(tag: str) -> str | None:
    """The catalogue for a language tag (`de`, `de-AT`, `pt_BR`), None when there is none."""
    language = tag.strip().replace("_", "-").partition("-")[0].lower()
    return language if language in _CATALOGUES else None


def subject(session_id: int, locale: str | None) -> str:
    """One line that says what it is about."""
    return _say(_of(locale), "subject", session=session_id)


def why(reason: str, locale: str | None = None) -> str:
    """The rule's name in words."""
    said: Mapping[str, str] = _of(locale)["why"]
    return said.get(reason) or said.get(reason.partition(":")[0]) or said["other"]


def nudge(
    locale: str | None,
    *,
    reason: str,
    asks: bool,
    session_id: int,
    elapsed_s: int,
    cost: int | None,
    per_minute: int | None,
    due_ms: int | None,
    now_ms: int,
    answer: str | None,
    page: str | None,
) -> str:
    """The text of a nudge, sentences in one line. `answer` is a link that says "still in the lesson"."""
    words = _of(locale)
    said = [why(reason, locale), _running(words, session_id, elapsed_s, cost, per_minute)]
    said.append(words["say"]["ask" if asks else "pay"])
    if answer:
        said.append(_say(words, "answer", link=answer))
    if due_ms is not None:
        left = duration(max(0, due_ms - now_ms) // 1000, words["units"])
        said.append(_say(words, "else_due" if asks else "due", at=_clock(due_ms), left=left))
    if page:
        said.append(_say(words, "page", link=page))
    return " ".join(said)


def bill(
    locale: str | None, *, session_id: int, elapsed_s: int, paid: int, tx_hash: str | None, page: str | None
) -> str:
    """The text of a bill: `Session 7 has ended: 12 min 4 s, 0.724 PYUSD, tx 0x…`."""
    words = _of(locale)
    elapsed, amount = duration(elapsed_s, words["units"]), pyusd(paid, words["decimal"])
    said = [_say(words, "bill", session=session_id, elapsed=elapsed, paid=amount, tx=tx_hash or "–")]
    if page:
        said.append(_say(words, "page", link=page))
    return " ".join(said)


def duration(seconds: int, units: Sequence[str] = ("h", "min", "s")) -> str:
    """`1 h 4 min`, `12 min 4 s`, `9 s`."""
    hour, minute, second = units
    hours, rest = divmod(seconds, 3600)
    minutes, left = divmod(rest, 60)
    if hours:
        return f"{hours} {hour} {minutes} {minute}"
    return f"{minutes} {minute} {left} {second}" if minutes else f"{left} {second}"


def pyusd(amount: int, decimal: str = ".") -> str:
    """Base units as PYUSD: `0.724`."""
    whole, part = divmod(amount, 10**DECIMALS)
    return f"{whole}{decimal}{f'{part:06d}'.rstrip('0').ljust(3, '0')}"


def _running(
    words: Mapping[str, Any], session_id: int, elapsed_s: int, cost: int | None, per_minute: int | None
) -> str:
    elapsed, decimal = duration(elapsed_s, words["units"]), words["decimal"]
    if cost is None or per_minute is None:
        return _say(words, "running", session=session_id, elapsed=elapsed)
    rate, so_far = pyusd(per_minute, decimal), pyusd(cost, decimal)
    return _say(words, "running_cost", session=session_id, elapsed=elapsed, rate=rate, cost=so_far)


def _of(locale: str | None) -> Mapping[str, Any]:
    return _CATALOGUES[(known(locale) if locale else None) or DEFAULT]


def _say(words: Mapping[str, Any], name: str, **values: object) -> str:
    return str(words["say"][name]).format(**values)


def _clock(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%H:%M:%S")
