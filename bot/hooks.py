"""How the wired parts reach each other: each class here is one part's way to the rest, and nothing more.

    EffectHooks    decisions → sender, nudger, alerts
    SenderHooks    sender → reconciler, alerts
    ChainHooks     follower → reconciler, details, balances, sender; the skew between the chain's clock and ours
    FeedHooks      feeds → reconciler, in the order in which things were told
    SocketLine     nudger, plans → the socket that the keeper listens on

Promises: nothing is decided here. What a part that doesn't exist would do is left undone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import structlog

from bot.domain.facts import Hint, Kind, SessionKey
from bot.domain.urgency import Urgency
from bot.errors import TryAgain
from bot.feeds import wire
from bot.ops.alerts import Alerts
from bot.reconciler import Reconciler

if TYPE_CHECKING:
    from bot.chain.balances import Balances
    from bot.chain.details import Details
    from bot.chain.follower import Change, Follower, Head
    from bot.chain.sender import Outcome, Sender
    from bot.feeds.socket import SocketFeed
    from bot.nudges.nudger import Nudger

log = structlog.get_logger("keeper")

RECORD_AGAIN_S = 1.0
RECORD_AGAIN_MAX_S = 30.0
FAR_BEHIND_MS = 600_000  # a head that came so late says nothing about the clocks


class EffectHooks:
    """Carries decisions out (`bot.reconciler.Effects`). Sender and nudger are given later, or never."""

    def __init__(self, alerts: Alerts) -> None:
        self._alerts = alerts
        self.sender: Sender | None = None
        self.nudger: Nudger | None = None

    async def expect(self, keys: Sequence[SessionKey]) -> None:
        if self.sender is not None:
            await self.sender.expect(keys)

    def nudge(self, action_id: int, key: SessionKey, payload: dict[str, Any], created_ms: int) -> None:
        if self.nudger is not None:
            self.nudger.nudge(action_id, key, payload, created_ms)

    def settle(self, action_id: int, key: SessionKey) -> None:
        if self.sender is not None:
            self.sender.settle(action_id, key)

    def alert(self, name: str, text: str, key: SessionKey | None, alert_id: int) -> None:
        self._alerts.send(name, text, key, alert_id)


class SenderHooks:
    """What the sender asks and tells (`bot.chain.sender.Hooks`). `outcomes` is for who waits for one settlement."""

    def __init__(self, reconciler: Reconciler, alerts: Alerts) -> None:
        self._reconciler = reconciler
        self._alerts = alerts
        self.outcomes: asyncio.Queue[tuple[SessionKey, dict[str, Any]]] = asyncio.Queue()

    def still_due(self, key: SessionKey) -> bool:
        return self._reconciler.still_due(key)

    def withdrawn(self, key: SessionKey) -> bool:
        return self._reconciler.withdrawn(key)

    def urgency(self, key: SessionKey) -> Urgency:
        return self._reconciler.urgency(key)

    def set_aside(self) -> list[tuple[SessionKey, str]]:
        return self._reconciler.set_aside()

    async def cured(self, key: SessionKey, reason: str | None = None) -> None:
        await self._reconciler.cured(key, reason)

    def may_pay_wait(self, key: SessionKey) -> bool:
        return self._reconciler.may_pay_wait(key)

    async def paying(self, key: SessionKey, payer: str) -> None:
        await self._reconciler.paying(key, payer)

    async def report(self, outcomes: Sequence[Outcome]) -> None:
        said = [{"outcome": one.outcome, "reason": one.reason, "tx_hash": one.tx_hash} for one in outcomes]
        told = [(one.key, dict(what), one.action_id) for one, what in zip(outcomes, said, strict=True)]
        await self._reconciler.outcomes(Kind.SETTLEMENT, told)
        for one, what in zip(outcomes, said, strict=True):
            if one.outcome == "failed":
                await self._tell_if_set_aside(one.key)
            self.outcomes.put_nowait((one.key, what))

    async def _tell_if_set_aside(self, key: SessionKey) -> None:
        live = self._reconciler.about(key)
        if live is not None and live.session.set_aside:
            text = (
                f"Session {key.session_id} can't be ended and is set aside: {live.session.set_aside}. It is looked at "
                f"now and then; to try it again: langdao-keeper settle {key.session_id}"
            )
            await self.alert("alert.set-aside", text, key)

    async def alert(self, name: str, text: str, key: SessionKey | None) -> None:
        await self._alerts.raise_alert(name, text, key)


class ChainHooks:
    """What the follower committed, for all who need to know. The readers and the sender are given later."""

    def __init__(self, follower: Follower, reconciler: Reconciler, alerts: Alerts) -> None:
        self._follower = follower
        self._reconciler = reconciler
        self._alerts = alerts
        self._skews: deque[int] = deque(maxlen=32)
        self.details: Details | None = None
        self.balances: Balances | None = None
        self.sender: Sender | None = None

    async def changed(self, change: Change) -> None:
        """The follower committed something."""
        if change.live:
            self._measure_skew(change.head)
        if self.details is not None and (change.started or change.ended or change.retracted):
            self.details.wake()
        await self._reconciler.chain_changed(started=change.started, ended=change.ended, retracted=change.retracted)
        if self.balances is not None:
            students = {key.student for key in (*change.started, *change.ended, *change.retracted)} | set(change.funds)
            self.balances.ask({student for student in students if self._reconciler.watches(student)})
        self.tell_sender()

    def tell_sender(self) -> None:
        """The newest head, once the follower has reached it."""
        head = self._follower.head
        if self.sender is not None and head is not None and self._follower.at_head.is_set():
            self.sender.head(head.number, head.hash)

    async def violation(self, violated: bool) -> None:
        """A chain that takes back what was final is no ground to sign on; somebody has to look."""
        await self._reconciler.set_unsound(violated)
        if violated:
            text = (
                "The node took back blocks that it had called final: nothing is indexed or signed until it follows the "
                "recorded chain again. Compare it with another node; RPC_URL may name several"
            )
            await self._alerts.raise_alert("alert.finality", text)
        else:
            await self._alerts.over("alert.finality", "The node follows the recorded chain again")

    def _measure_skew(self, head: Head) -> None:
        """Chain time minus ours, by the head that came with the least delay of the last few."""
        if head.received_ms - head.timestamp_s * 1000 < FAR_BEHIND_MS:
            self._skews.append(head.timestamp_s * 1000 - head.received_ms)
            self._reconciler.conditions.skew_ms = max(self._skews)


class FeedHooks:
    """What the feeds tell by plain calls, worked off in order. A failure stops the daemon, as any part's."""

    def __init__(
        self, reconciler: Reconciler, record: Callable[[], Awaitable[Iterable[Hint]]], take: Callable[[Hint], None]
    ) -> None:
        self._reconciler = reconciler
        self._record = record
        self._take = take
        self._events: asyncio.Queue[Coroutine[Any, Any, None]] = asyncio.Queue()
        self._connection = 0
        self.when_socket_up: list[Callable[[], None]] = []

    def socket_state(self, up: bool) -> None:
        self._events.put_nowait(self._socket_changed(up))

    def posted(self) -> None:
        self._events.put_nowait(self._reconciler.posted())

    def canary_heard(self) -> None:
        self._events.put_nowait(self._reconciler.canary_heard())

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await (await self._events.get())

    async def _socket_changed(self, up: bool) -> None:
        self._connection += 1
        await self._reconciler.socket_feed(up)
        if up:
            for call in self.when_socket_up:
                call()
            await self._read_record(self._connection, RECORD_AGAIN_S)

    async def _read_record(self, connection: int, again_s: float) -> None:
        """What was said while nobody listened; read again until it could be read, or the connection is another."""
        if connection != self._connection:
            return
        try:
            for hint in await self._record():
                self._take(hint)
        except TryAgain as error:
            wait_s = max(again_s, error.after_s)
            log.warning("record.unread", reason=str(error), again_in_s=wait_s)
            longer_s = min(again_s * 2, RECORD_AGAIN_MAX_S)
            asyncio.get_running_loop().call_later(
                wait_s, lambda: self._events.put_nowait(self._read_record(connection, longer_s))
            )


class SocketLine:
    """What is said over the socket that the keeper listens on; it is made after those who say it."""

    def __init__(self, socket: Callable[[], SocketFeed | None]) -> None:
        self._socket = socket

    async def call(self, event: str, message: dict[str, Any], timeout_s: float) -> Any:
        return await self._made().call(event, message, timeout_s)

    async def emit(self, event: str, message: dict[str, Any]) -> None:
        await self._made().emit(event, message)

    async def plan(self, message: dict[str, Any]) -> None:
        """What is planned for a session, for its participants' pages. Raises TryAgain."""
        await self.emit(wire.PLAN, message)

    def _made(self) -> SocketFeed:
        socket = self._socket()
        if socket is None:
            raise TryAgain("the backend's socket isn't connected yet")
        return socket
