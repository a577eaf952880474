"""Conditions are told once, when they last, and when they are over."""

from __future__ import annotations

from bot.ops.alerts import message
from bot.ops.catalogue import ALERTS
from bot.ops.readiness import NAMES, Reason
from bot.ops.watch import SILENT, TOLD, Watch


class Told:
    """What would be sent."""

    def __init__(self) -> None:
        self.names: list[str] = []

    async def raise_alert(self, name: str, text: str, key: object = None) -> None:
        self.names.append(name)

    def shout(self, name: str, text: str) -> None:
        self.names.append(f"shout {name}")

    async def over(self, name: str, text: str) -> None:
        self.names.append(f"over {name}")


class Scene:
    def __init__(self) -> None:
        self.now_ms = 1_000_000
        self.reasons: list[Reason] = []
        self.told = Told()
        self.watch = Watch(lambda: self.reasons, self.told, lambda: self.now_ms, 60_000)  # type: ignore[arg-type]

    async def pass_s(self, seconds: int) -> list[str]:
        for _ in range(seconds):
            self.now_ms += 1_000
            await self.watch.look()
        return self.told.names


HEAD = Reason("not-at-head", "no node")


async def test_watch__condition_for_less_than_the_patience__is_not_told() -> None:
    scene = Scene()
    scene.reasons = [HEAD]
    assert await scene.pass_s(59) == []
    scene.reasons = []
    await scene.pass_s(1)
    scene.reasons = [HEAD]
    assert await scene.pass_s(59) == []


async def test_watch__condition_that_lasts__is_told_once() -> None:
    """A condition is told when it has held for `PATIENCE_MS` without a break, not before, and once."""
    scene = Scene()
    scene.reasons = [HEAD]
    assert await scene.pass_s(600) == ["alert.head"]


async def test_watch__condition_over_and_back__is_told_again() -> None:
    """When it was gone for as long, that is told too, and it may be told again."""
    scene = Scene()
    scene.reasons = [HEAD]
    await scene.pass_s(70)
    scene.reasons = []
    assert await scene.pass_s(59) == ["alert.head"]
    assert await scene.pass_s(10) == ["alert.head", "over alert.head"]
    scene.reasons = [HEAD]
    assert (await scene.pass_s(70))[2:] == ["alert.head"]


async def test_watch__condition_that_flickers__is_neither_over_nor_told_twice() -> None:
    scene = Scene()
    scene.reasons = [HEAD]
    await scene.pass_s(70)
    for _ in range(10):
        scene.reasons = []
        await scene.pass_s(20)
        scene.reasons = [HEAD]
        await scene.pass_s(20)
    assert scene.told.names == ["alert.head"]


async def test_watch__two_reasons_of_one_alert__are_one_alert() -> None:
    scene = Scene()
    scene.reasons = [HEAD, Reason("head-old", "old")]
    assert await scene.pass_s(70) == ["alert.head"]


async def test_watch__database_that_takes_nothing__is_told_without_a_row() -> None:
    scene = Scene()
    scene.reasons = [Reason("database", "the disk is full")]
    assert await scene.pass_s(70) == ["shout alert.database"]


def test_reasons__every_one__is_told_by_somebody_and_withholds_the_ping_where_it_must() -> None:
    assert set(NAMES) - set(TOLD) == {"balance", "finality"}  # the sender's alert, and the follower's
    assert set(TOLD.values()) <= set(ALERTS)
    assert set(NAMES) - SILENT == {"key", "balance"}  # the keeper lives and sees; other alerts are for these


def test_message__of_a_condition__says_what_happened_what_it_costs_and_where_to_read_on() -> None:
    text = message("alert.balance", "0x1 has 0 ETH")
    assert text.splitlines() == [
        "0x1 has 0 ETH",
        "Until then: no session is ended: each runs on at its students' cost.",
        "What to do: docs/alerts.md#balance",
    ]
