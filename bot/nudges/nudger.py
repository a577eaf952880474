"""Says nudges and bills that were decided and stored, by every channel there is.

Promises
 - Each (nudge, channel, participant) is stored before its first byte leaves, and said once: again only while nobody
   took it, under the same id, and after a crash not again by a channel whose reader would see it twice.
 - The channels don't know of each other: one that hangs or is dead delays no other, nor the record of what another
   delivered.
 - It counts as delivered only when something at the participant's end acknowledged it. What came of it is reported
   channel by channel, and with the last one what came of all.
 - Dropped when it can't be sent within half the window, and when the session has ended meanwhile. A bill has until
   EFFECT_MAX_AGE_S after the end.
 - Never raises, delays nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from bot.domain.address import Address
from bot.domain.facts import Kind, Role, SessionKey
from bot.errors import TryAgain
from bot.nudges.channel import Channel, How, Receipt
from bot.nudges.message import Message, Note

log = structlog.get_logger("nudges")

TRY_TIMEOUT_S = 15.0
FIRST_DELAY_S = 1.0
MAX_DELAY_S = 15.0


class Deliveries(Protocol):
    """What was said to whom by which channel, kept over restarts."""

    async def begin(self, action_id: int, channel: str, to: Sequence[Address], at_ms: int) -> Mapping[Address, str]:
        """Stores that it will be said; of those for whom it was stored before, how far it had come ("" or a How)."""
        ...

    async def done(self, action_id: int, channel: str, to: Address, how: str, at_ms: int) -> None: ...


class Words(Protocol):
    """What there is to say, and in which way."""

    def compose(self, key: SessionKey, action_id: int, payload: dict[str, Any]) -> Message | None:
        """What to say now, None when there is nothing to say any more."""
        ...

    def locale(self, to: Address) -> str | None:
        """The language that this reader chose, None if that isn't known."""
        ...

    async def answer_link(self, message: Message, to: Address) -> str | None:
        """A participant's own link to say "still in the lesson", None where there is none."""
        ...


Report = Callable[[SessionKey, Kind, dict[str, Any], int | None], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Job:
    """One action: what is to be said about a session, and until when."""

    action_id: int
    key: SessionKey
    payload: dict[str, Any]
    created_ms: int
    until_ms: int
    kind: Kind = Kind.NUDGE


class Nudger:
    """One task a nudge, in it one for each channel, in it one for each participant."""

    def __init__(
        self,
        channels: Sequence[Channel],
        words: Words,
        deliveries: Deliveries,
        report: Report,
        *,
        window_ms: int,
        clock_ms: Callable[[], int],
        try_timeout_s: float = TRY_TIMEOUT_S,
        first_delay_s: float = FIRST_DELAY_S,
    ) -> None:
        self._channels = tuple(channels)
        self._words = words
        self._deliveries = deliveries
        self._report = report
        self._half_window_ms = window_ms // 2
        self._clock = clock_ms
        self._try_timeout_s = try_timeout_s
        self._first_delay_s = first_delay_s
        self._tasks: set[asyncio.Task[None]] = set()

    def nudge(self, action_id: int, key: SessionKey, payload: dict[str, Any], created_ms: int) -> None:
        """Says the nudge of this action, in the background."""
        self._start(Job(action_id, key, payload, created_ms, created_ms + self._half_window_ms))

    def bill(self, action_id: int, key: SessionKey, payload: dict[str, Any], created_ms: int, until_ms: int) -> None:
        """Says the bill of this action, in the background."""
        self._start(Job(action_id, key, payload, created_ms, until_ms, Kind.BILL))

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, job: Job) -> None:
        task = asyncio.create_task(self._say(job), name=f"{job.kind} {job.action_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # One nudge -------------------------------------------------------------------------------------------------------

    async def _say(self, job: Job) -> None:
        message = self._words.compose(job.key, job.action_id, job.payload)
        if message is None:
            await self._finish(job, None, {}, How.DROPPED, why="the session has ended")
            return
        people = message.recipients()
        ways = [(channel, [one for one in people if channel.reaches(one[0])]) for channel in self._channels]
        ways = [(channel, reached) for channel, reached in ways if reached]
        if not ways:
            await self._finish(job, None, {}, How.MISSED, why="no channel reaches participants")
            return
        calls = [asyncio.ensure_future(self._by(job, channel, reached)) for channel, reached in ways]
        found: list[Receipt] = []
        try:
            for number, call in enumerate(asyncio.as_completed(calls), 1):
                channel, receipts, asked = await call
                found.extend(receipts.values())
                total = _of_all(found) if number == len(calls) else None
                await self._finish(job, channel, receipts, total, asked=asked)
        finally:
            for each in calls:
                each.cancel()

    async def _by(
        self, job: Job, channel: Channel, people: Sequence[tuple[Address, Role]]
    ) -> tuple[Channel, dict[Address, Receipt], bool]:
        """What one channel made of it, and whether it reached somebody who can answer that the lesson goes on."""
        addresses = [address for address, _ in people]
        before = await self._deliveries.begin(job.action_id, channel.name, addresses, self._clock())
        said = await asyncio.gather(*(self._to(job, channel, *one, before.get(one[0])) for one in people))
        receipts = {address: receipt for address, (receipt, _) in zip(addresses, said, strict=True)}
        return channel, receipts, any(asked and receipt.how is How.DELIVERED for receipt, asked in said)

    async def _to(
        self, job: Job, channel: Channel, to: Address, role: Role, before: str | None
    ) -> tuple[Receipt, bool]:
        if before:
            return Receipt(How(before)), False
        if before is not None and not channel.repeatable:
            receipt, asked = Receipt(How.SENT), False  # perhaps: the keeper ended while it was being said
        else:
            receipt, asked = await self._until_taken(job, channel, to, role)
        await self._deliveries.done(job.action_id, channel.name, to, receipt.how, self._clock())
        return receipt, asked

    async def _until_taken(self, job: Job, channel: Channel, to: Address, role: Role) -> tuple[Receipt, bool]:
        why, delay_s = "too late", self._first_delay_s
        link: str | None = None
        while self._clock() <= job.until_ms:
            message = self._words.compose(job.key, job.action_id, job.payload)
            if message is None:
                return Receipt(How.DROPPED, "the session has ended"), False
            pause_s = delay_s
            try:
                async with asyncio.timeout(self._try_timeout_s):
                    if message.answerable and channel.private and link is None:
                        link = await self._words.answer_link(message, to)
                    return await channel.send(self._note(message, to, role, link)), link is not None
            except TimeoutError:
                why = "no answer in time"
            except TryAgain as error:
                why = str(error)
                pause_s = max(delay_s, error.after_s)
            except Exception as error:
                # A channel's own fault: the others, and the next nudge, don't suffer from it.
                log.error("nudge.channel-failed", session=job.key.session_id, channel=channel.name, error=repr(error))
                return Receipt(How.MISSED, f"failed ({type(error).__name__})"), False
            left_s = (job.until_ms - self._clock()) / 1000
            if pause_s > left_s:
                break
            await asyncio.sleep(pause_s)
            delay_s = min(delay_s * 2, MAX_DELAY_S)
        return Receipt(How.DROPPED, why), False

    def _note(self, message: Message, to: Address, role: Role, link: str | None) -> Note:
        id = f"{message.id}-{role}"
        return Note(id, message, to, role, self._words.locale(to), link, self._clock())

    async def _finish(
        self,
        job: Job,
        channel: Channel | None,
        receipts: Mapping[Address, Receipt],
        total: How | None,
        *,
        asked: bool = False,
        why: str | None = None,
    ) -> None:
        """Reports one channel's part. `total` is what came of all, and ends the action; None while others are at it."""
        how = _of_all(receipts.values()) if receipts else total
        assert how is not None
        result: dict[str, Any] = {
            "action": job.action_id,
            "mark": job.payload.get("mark"),
            "reason": job.payload.get("reason"),
            "created_ms": job.created_ms,
            "channel": channel.name if channel is not None else None,
            # A question without a link to answer it by can't be answered, so its silence says nothing.
            "ask": asked and bool(job.payload.get("ask")),
            "answerable": asked,
            "outcome": how.value,
            "delivered": _learnt(how, total),
            "dropped": how is How.DROPPED,
            "reached": [to for to, receipt in receipts.items() if receipt.how is How.DELIVERED],
            "sent": [to for to, receipt in receipts.items() if receipt.how is How.SENT],
            "missed": {to: receipt.why for to, receipt in receipts.items() if receipt.why is not None},
        }
        if why is not None:
            result["why"] = why
        if total is not None:
            result["total"] = total.value
        log.info(
            f"{job.kind}.{how}",
            session=job.key.session_id,
            reason=job.payload.get("reason"),
            channel=result["channel"],
            reached=result["reached"],
            missed=result["missed"],
        )
        await self._report(job.key, job.kind, result, job.action_id if total is not None else None)


def _of_all(receipts: Iterable[Receipt]) -> How:
    """The best that came of it; dropped only when nothing else did."""
    found = {receipt.how for receipt in receipts}
    return next(how for how in (How.DELIVERED, How.SENT, How.MISSED, How.DROPPED) if how in found)


def _learnt(how: How, total: How | None) -> bool | None:
    """Whether the participants can be reached, as far as this says: True, False, or None for nothing."""
    if How.DELIVERED in (how, total):
        return True
    return False if total is How.MISSED else None
