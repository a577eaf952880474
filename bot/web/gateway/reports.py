"""A page's report that its session was ended on chain: `POST /api/webrtc-session-ended`.

Promises: only a participant's report is taken; its transaction must contain `SessionEnded` of that very session.
Mined: the end is told as `session:ended`, and the mapping is gone. Not mined yet: accepted, told as a hint that the
call is over, and watched until it is mined or WATCH_MS have passed, over restarts too. Where the chain can't be asked
the report is told as the hint that it is, and the mapping stays. Either way the word stays anonymous: anybody can say
a participant's address, and told late it must not end the same two people's next lesson. What the keeper reports with
the shared token it has seen on chain itself.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import structlog

from bot.chain.codec import SessionEnded
from bot.domain.facts import Hint, Kind, Source, Trust
from bot.domain.session import EARLY_MS
from bot.errors import TryAgain, Untrue
from bot.feeds import wire
from bot.web.gateway.checks import Checks, Taken
from bot.web.gateway.events import Hub
from bot.web.gateway.lessons import Lessons

log = structlog.get_logger(__name__)

WATCH_MS = 15 * 60_000
WATCH_EVERY_S = 2.0
MAX_WATCHED = 500
PENDING = "the transaction isn't mined yet: it is watched"


class Report(NamedTuple):
    """A page's report; `session_id` as it wrote it, number or text."""

    room: str
    session_id: int | None
    by: str
    tx_hash: str
    said_id: Any

    def hint(self, now_ms: int) -> Hint:
        return Hint(
            kind=Kind.ENDED,
            source=Source.OPEN_WEBHOOK,
            trust=Trust.ANONYMOUS,
            received_ms=now_ms,
            room=self.room,
            session_id=self.session_id,
            payload={"sessionId": self.said_id, "userAddress": self.by},
        )


class Watched:
    """Reports whose transaction isn't mined yet, by its hash. Kept over restarts."""

    kind = "watch"

    def __init__(self) -> None:
        self.changed: set[str] = set()
        self._reports: OrderedDict[str, tuple[Report, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._reports)

    def add(self, report: Report, until_ms: int) -> None:
        """The oldest gives way when there are too many."""
        self._reports.setdefault(report.tx_hash, (report, until_ms))
        self.changed.add(report.tx_hash)
        if len(self._reports) > MAX_WATCHED:
            self.changed.add(self._reports.popitem(last=False)[0])

    def drop(self, report: Report) -> None:
        self._reports.pop(report.tx_hash, None)
        self.changed.add(report.tx_hash)

    def all(self) -> list[tuple[Report, int]]:
        return list(self._reports.values())

    def names(self) -> Iterable[str]:
        return self._reports.keys()

    def dump(self, name: str) -> tuple[str, int] | None:
        watched = self._reports.get(name)
        return None if watched is None else (json.dumps([*watched[0], watched[1]]), watched[1])

    def restore(self, name: str, text: str) -> None:
        *fields, until_ms = json.loads(text)
        self._reports.setdefault(name, (Report(*fields), int(until_ms)))


class Reports:
    def __init__(self, hub: Hub, checks: Checks, lessons: Lessons, watched: Watched) -> None:
        self._hub = hub
        self._checks = checks
        self._lessons = lessons
        self._watched = watched

    async def take(self, report: Report, *, by_keeper: bool) -> Taken:
        """Raises Untrue for one who is no participant, and for another transaction."""
        now_ms = self._hub.now_ms()
        self._hub.counters["ended_by_page"] += 1
        if by_keeper:
            await self._hub.ended_on_chain(report.hint(now_ms), report.by, report.tx_hash, clean=True)
            return Taken(None)
        checked = await self._checks.of(report.hint(now_ms), report.by)
        try:
            ends = await self._lessons.looked().ends_in(report.tx_hash)
            if ends is not None:
                await self._verify(report, checked.hint, ends)
        except TryAgain as error:
            if self._lessons.witness is not None:
                self._watched.add(report, now_ms + WATCH_MS)
            await self._hub.ended_on_chain(checked.hint, report.by, report.tx_hash, clean=False)
            return Taken(str(error))
        if ends is None:
            self._watched.add(report, now_ms + WATCH_MS)
            await self._hub.take(replace(checked.hint, payload={"endedBy": report.by, "reason": "paying"}))
            return Taken(PENDING)
        await self._hub.ended_on_chain(checked.hint, report.by, report.tx_hash, clean=True)
        return Taken(None)

    async def run(self) -> None:
        """Watches what isn't mined yet, until cancelled."""
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            for report, until_ms in self._watched.all():
                try:
                    await self._look(report, until_ms)
                except TryAgain as error:
                    log.info("gateway.watch_later", watched=len(self._watched), reason=str(error))
                    break
                except Exception:
                    # One bad report must not end the watch over all others.
                    self._watched.drop(report)
                    log.exception("gateway.watch_failed", room=report.room)
            await self._hub.kept.flush()

    async def _look(self, report: Report, until_ms: int) -> None:
        now_ms = self._hub.now_ms()
        ends = await self._lessons.asked().ends_in(report.tx_hash)
        if ends is None:
            if now_ms >= until_ms:
                self._watched.drop(report)
                log.warning("gateway.report_expired", room=report.room, tx=report.tx_hash)
            return
        hint = report.hint(now_ms)
        try:
            checked = await self._checks.of(hint, report.by)
            await self._verify(report, checked.hint, ends)
        except Untrue as untrue:
            self._watched.drop(report)
            log.warning("gateway.refused", said="report", room=report.room, reason=untrue.reason, detail=untrue.detail)
            return
        self._watched.drop(report)
        await self._hub.ended_on_chain(checked.hint, report.by, report.tx_hash, clean=True)

    async def _verify(self, report: Report, hint: Hint, ends: list[SessionEnded]) -> None:
        """Raises Untrue unless one of these ends is that of the report's session."""
        for end in ends:
            if await self._is_of(report, hint, end):
                return
        raise Untrue("wrong-transaction", "the transaction holds no SessionEnded of this session")

    async def _is_of(self, report: Report, hint: Hint, end: SessionEnded) -> bool:
        if report.session_id is not None:
            return end.session_id == report.session_id
        session = await self._lessons.session(end.session_id)
        if session is None:
            raise TryAgain("the node doesn't know yet which session this transaction ended")
        student, tutor = await self._hub.people(report.room)
        if student is None or tutor is None:
            return report.by in (session.student, session.tutor)
        room = self._hub.rooms.get(report.room)
        since_ms = room.start_ms if room is not None and room.start_ms is not None else 0
        # The same two may have had a lesson before this room was made.
        return (session.student, session.tutor) == (student, tutor) and session.end_s * 1000 >= since_ms - EARLY_MS


def report_of(body: object) -> Report:
    """`{sessionId, userAddress, transactionHash}`. Raises Refused."""
    fields = wire.measured(body)
    room, session_id = wire.room_of(fields.get("sessionId"))
    by = wire.as_address(fields.get("userAddress"))
    if by is None:
        raise wire.Refused("bad-address", "userAddress is not an address")
    given = fields.get("transactionHash")
    digits = given[2:] if isinstance(given, str) and given[:2] == "0x" else ""
    if len(digits) != 64 or not all(digit in "0123456789abcdefABCDEF" for digit in digits):
        raise wire.Refused("bad-hash", "transactionHash is not 0x and 64 hex digits")
    said_id = session_id if isinstance(fields.get("sessionId"), int | float) and session_id is not None else room
    return Report(room, session_id, by, f"0x{digits.lower()}", said_id)
