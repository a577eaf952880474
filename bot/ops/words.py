"""How amounts, times and addresses are written for people.

Promises: pure, total, and never a secret in what comes out. Amounts are exact: no digit of a base unit is lost.
Doesn't promise to be parsed: machines read `--json`.
"""

from __future__ import annotations

from datetime import UTC, datetime

from bot.domain.bill import amount as amount


def ether(wei: int) -> str:
    """An amount of ETH, to six decimals."""
    if 0 < wei < 10**12:
        return "< 0.000001 ETH"
    return f"{wei / 10**18:.6f}".rstrip("0").rstrip(".") + " ETH"


def duration(seconds: float) -> str:
    """A length of time in its two largest units: `3 h 20 min`, `1 min 5 s`, `12 s`."""
    left = max(0, round(seconds))
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {unit}")
        elif parts:
            break  # `1 d 5 s` says less than `1 d`
        if len(parts) == 2:
            break
    return " ".join(parts) or "0 s"


def count(number: int, thing: str) -> str:
    """How many of a thing: `1 room`, `2 rooms`."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def moment(at_ms: int, *, now_ms: int | None = None) -> str:
    """A point in time, UTC: the time of day alone when it is the day of `now_ms`, with the date otherwise."""
    at = _utc(at_ms)
    if now_ms is not None and at.date() == _utc(now_ms).date():
        return f"{at:%H:%M:%S}"
    return f"{at:%Y-%m-%d %H:%M:%S}"


def away(at_ms: int, now_ms: int) -> str:
    """How far a point in time is from now: `in 12 s`, `5 min ago`, `now`."""
    seconds = round((at_ms - now_ms) / 1000)
    if seconds == 0:
        return "now"
    return f"in {duration(seconds)}" if seconds > 0 else f"{duration(-seconds)} ago"


def short(text: str | None) -> str:
    """An address or hash, by its beginning and end; `–` for None."""
    if not text:
        return "–"
    return text if len(text) <= 14 or not text.startswith("0x") else f"{text[:6]}…{text[-4:]}"


def _utc(at_ms: int) -> datetime:
    # What a stranger wrote into a database can be far outside the calendar.
    return datetime.fromtimestamp(min(max(at_ms, 0), 253_402_300_799_000) / 1000, UTC)
