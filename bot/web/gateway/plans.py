"""What the keeper means to do about each session, as it told us last (`keeper:session`).

Promises: only the keeper's word gets in here; a malformed one is refused and changes nothing. A session is found by its
chain id or by any room that was joined to it. Whoever watches one is woken at each change, and of many changes at once
only once. Bounded: the oldest that are over give way first, then the oldest.
Doesn't promise that a plan still holds while no keeper is connected: `keepers` says whether one is.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from bot.domain.address import Address
from bot.feeds import wire

MAX_PLANS = 20_000
MAX_WATCHERS = 2_000
MAX_ROOMS = 8

Amount = Annotated[str, Field(pattern=r"^[0-9]{1,78}$")]
TxHash = Annotated[str, Field(pattern=r"^0x[0-9a-fA-F]{64}$")]


def _address(value: object) -> Address:
    address = wire.as_address(value)
    if address is None:
        raise ValueError("not an address")
    return address


_Address = Annotated[str, BeforeValidator(_address)]


class _Shape(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


class Bill(_Shape):
    """What the end cost. Times are chain seconds, amounts base units."""

    paid: Amount
    seconds: int
    endedAt: int | None = None
    endedBy: str | None = Field(None, max_length=80)
    txHash: TxHash
    callEndedAt: int | None = None
    overbilledSeconds: int | None = None
    overbilled: Amount | None = None


class Plan(_Shape):
    """The keeper's word on one session. `…Ms` are epoch ms by the keeper's clock when it comes in, by ours in here."""

    sessionId: int = Field(gt=0)
    chainId: int = Field(gt=0)
    contract: _Address
    student: _Address
    tutor: _Address
    rooms: list[Annotated[str, Field(max_length=wire.MAX_ROOM_CHARS)]] = Field([], max_length=1_000)
    state: Literal["running", "due", "ending", "held", "ended", "gone"]
    startedAt: int | None = None
    rate: Amount | None = None
    balance: Amount | None = None
    reason: str = Field("", max_length=80)
    why: str = Field("", max_length=400)
    ask: bool = False
    dueMs: int | None = None
    drainedMs: int | None = None
    hold: str | None = Field(None, max_length=80)
    bill: Bill | None = None
    skewMs: int = 0  # chain time minus the keeper's


class Plans:
    """All plans, by chain id."""

    def __init__(self, *, max_plans: int = MAX_PLANS, max_watchers: int = MAX_WATCHERS) -> None:
        self._live: OrderedDict[int, Plan] = OrderedDict()
        self._over: OrderedDict[int, Plan] = OrderedDict()
        self._by_room: dict[str, int] = {}
        self._watchers: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self.watched = 0
        self._max_plans = max_plans
        self._max_watchers = max_watchers
        self.keepers = 0

    def __len__(self) -> int:
        return len(self._live) + len(self._over)

    def take(self, said: dict[str, Any], now_ms: int) -> Plan:
        """Takes the keeper's word. Raises Refused."""
        theirs_ms = said.get("nowMs")
        offset_ms = now_ms - theirs_ms if isinstance(theirs_ms, int) else 0
        try:
            plan = Plan.model_validate(said)
        except ValidationError as error:
            where = ".".join(str(part) for part in error.errors(include_input=False)[0]["loc"])
            raise wire.Refused("bad-plan", f"{where} can't be read") from None
        moved = {
            name: value + offset_ms for name in ("dueMs", "drainedMs") if (value := getattr(plan, name)) is not None
        }
        plan = plan.model_copy(update=moved | {"skewMs": plan.skewMs - offset_ms, "rooms": plan.rooms[:MAX_ROOMS]})
        self._put(plan)
        return plan

    def find(self, name: str) -> Plan | None:
        """By chain id, else by room."""
        number = wire.room_of(name)[1]
        if number is not None and (plan := self._get(number)) is not None:
            return plan
        by_room = self._by_room.get(name)
        return self._get(by_room) if by_room is not None else None

    def keeper_came(self) -> None:
        self.keepers += 1
        self._wake_all()

    def keeper_left(self) -> None:
        self.keepers -= 1
        self._wake_all()

    @property
    def crowded(self) -> bool:
        """As many are watching as may."""
        return self.watched >= self._max_watchers

    @contextlib.contextmanager
    def watching(self, name: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever something about this session or room has changed."""
        changed = asyncio.Event()
        self.watched += 1
        self._watchers[name].add(changed)
        try:
            yield changed
        finally:
            self.watched -= 1
            self._watchers[name].discard(changed)
            if not self._watchers[name]:
                del self._watchers[name]

    def wake(self, *names: str) -> None:
        """Something about these sessions or rooms has changed."""
        for name in names:
            for changed in self._watchers.get(name, ()):
                changed.set()

    def _get(self, number: int) -> Plan | None:
        return self._live.get(number) or self._over.get(number)

    def _put(self, plan: Plan) -> None:
        number = plan.sessionId
        before = self._live.pop(number, None) or self._over.pop(number, None)
        gone = plan.state == "gone"
        if gone and before is not None and (before.student, before.tutor) != (plan.student, plan.tutor):
            plan, gone = before, False  # others have the id by now
        for room in before.rooms if before is not None else ():
            if self._by_room.get(room) == number:
                del self._by_room[room]
        if not gone:
            (self._over if plan.state == "ended" else self._live)[number] = plan
            self._by_room |= dict.fromkeys(plan.rooms, number)
            while len(self) > self._max_plans:
                _, old = (self._over or self._live).popitem(last=False)
                for room in old.rooms:
                    self._by_room.pop(room, None)
        self.wake(str(number), *plan.rooms, *(before.rooms if before is not None else ()))

    def _wake_all(self) -> None:
        self.wake(*self._watchers)
