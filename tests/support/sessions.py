"""Sessions, facts and hints for tests of the core: short names for what they need a hundred times."""

from __future__ import annotations

import itertools
from typing import Any

from bot.domain.address import checksum
from bot.domain.facts import TRUST_OF, Fact, Hint, Kind, Role, SessionKey, Source, Trust
from bot.domain.session import Session, fold

T0 = 1_800_000_000_000  # epoch ms at which the lessons of these tests begin


def address(number: int) -> str:
    return str(checksum(f"0x{number:040x}"))


STUDENT, TUTOR, OTHER_STUDENT, OTHER_TUTOR = (address(0xA0 + n) for n in range(4))
KEY = SessionKey(7, STUDENT, TUTOR)

_ids = itertools.count(1)


def hint(kind: Kind, at_s: float = 0, source: Source = Source.WEBHOOK, **more: Any) -> Hint:
    """A hint received `at_s` seconds after T0, from the webhook with the secret unless said otherwise."""
    trust = more.pop("trust", TRUST_OF[source])
    return Hint(kind, source, trust, T0 + round(at_s * 1000), **more)


def lesson(*hints: Hint, **fields: Any) -> Session:
    """A session that began at T0, with these hints folded in order."""
    session = Session(key=KEY, started_ms=T0)
    for one in hints:
        fold(session, Fact(next(_ids), one, KEY))
    for name, value in fields.items():
        setattr(session, name, value)
    return session


def beating(until_s: float, every_s: float = 10, source: Source = Source.WEBHOOK) -> list[Hint]:
    """Authenticated heartbeats from T0 on, the last one at `until_s`."""
    count = int(until_s // every_s)
    times = [until_s - every_s * n for n in range(count, -1, -1)]
    return [hint(Kind.HEARTBEAT, at, source) for at in times]


def nudged(at_s: float, mark: str, *, delivered: bool = True, ask: bool = False, dropped: bool = False) -> Hint:
    """The outcome of a nudge."""
    outcome = "dropped" if dropped else "delivered" if delivered else "undelivered"
    payload = {"mark": mark, "delivered": delivered, "ask": ask, "dropped": dropped, "outcome": outcome}
    return hint(Kind.NUDGE, at_s, Source.KEEPER, payload=payload)


__all__ = [
    "KEY",
    "OTHER_STUDENT",
    "OTHER_TUTOR",
    "STUDENT",
    "T0",
    "TUTOR",
    "Role",
    "Trust",
    "address",
    "beating",
    "hint",
    "lesson",
    "nudged",
]
