"""What `make chaos` draws from its seed, and what it makes of runs that break off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from eth_utils import keccak

from scripts.chaos import patience
from scripts.chaos.__main__ import FAULTS, judged, progress, summary
from scripts.chaos.lane import Died, Result
from scripts.chaos.patience import PatientNode
from scripts.chaos.plan import Plan, Restart, Window, plan
from scripts.world.chain import Node, RpcError
from scripts.world.processes import Failed


def test_plan__same_seed_and_number__is_the_same() -> None:
    """ "the same seed and number give the same plan"."""
    assert [plan(7, number, 4) for number in range(50)] == [plan(7, number, 4) for number in range(50)]
    assert [plan(7, number, 4) for number in range(50)] != [plan(8, number, 4) for number in range(50)]


def test_plan__fifty_runs__meet_every_window_with_every_restart_in_both_modes() -> None:
    drawn = [plan(1, number, 4) for number in range(50)]
    met = {(one.guarded, one.kill.window, one.restart) for one in drawn}
    assert met == {(mode, window, restart) for mode in (False, True) for window in Window for restart in Restart}
    assert {one.lessons for one in drawn} == {1, 2, 3, 4}
    assert any(one.again for one in drawn)


def test_summary__has_its_keys__and_counts_faults() -> None:
    good, bad = Result(plan(1, 0, 4), decided=2, ended=2), Result(plan(1, 1, 4), decided=3, ended=2)
    bad.lost.append("session 5 hasn't ended")
    counted = summary([good, bad])
    assert counted == {
        "runs": 2,
        "decided": 5,
        "ended": 4,
        "lost": 1,
        "double": 0,
        "wrong_session": 0,
        "unexplained": 0,
    }
    assert set(FAULTS) < set(counted)
    assert bad.faults == ["lost: session 5 hasn't ended"]


class FakeLane:
    """Its runs end as they are told to."""

    name = "lane"

    def __init__(self, *ends: Exception | None, recovers: bool = True) -> None:
        self.ends = list(ends)
        self.recovers = recovers
        self.recovered = 0

    async def run(self, drawn: Plan) -> Result:
        end = self.ends.pop(0)
        if end is not None:
            raise end
        return Result(drawn)

    async def recover(self) -> None:
        self.recovered += 1
        if not self.recovers:
            raise Failed("no start")


async def test_judged__run_breaks_off__is_played_again_and_no_verdict() -> None:
    """A run that broke off … is no verdict: it is played again"""
    lane = FakeLane(TimeoutError(), Failed("it doesn't listen"), None)
    result = await judged(lane, plan(1, 0, 4))  # type: ignore[arg-type]
    assert result is not None
    assert (result.faults, lane.recovered) == ([], 2)


async def test_judged__breaks_off_each_time__the_lane_gives_up_without_a_verdict() -> None:
    assert await judged(FakeLane(*[TimeoutError()] * 3), plan(1, 0, 4)) is None  # type: ignore[arg-type]
    assert await judged(FakeLane(TimeoutError(), recovers=False), plan(1, 0, 4)) is None  # type: ignore[arg-type]


async def test_judged__keeper_ended_by_itself__is_a_fault() -> None:
    """A keeper that ended by itself is one."""
    result = await judged(FakeLane(Died("the keeper ended by itself")), plan(1, 0, 4))  # type: ignore[arg-type]
    assert result is not None
    assert result.faults == ["unexplained: the keeper ended by itself"]


def test_progress__says_how_far_and_how_long() -> None:
    assert progress([Result(plan(1, 0, 4))] * 25, 100, 300) == "25 of 100 runs, 0 faults, 5 min, about 15 to go"


def answers(*said: Any) -> Callable[..., Any]:
    queue = list(said)

    async def call(self: Node, method: str, *params: Any) -> Any:
        one = queue.pop(0)
        if isinstance(one, Exception):
            raise one
        return one

    return call


async def test_patience__node_is_late__asked_again_and_a_transaction_said_twice_is_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """what it didn't answer in time is no verdict on a keeper … a transaction that was said twice is one"""
    monkeypatch.setattr(patience, "AGAIN_S", 0.0)
    node = PatientNode("http://127.0.0.1:1")
    monkeypatch.setattr(Node, "call", answers(TimeoutError(), OSError(), "0x5"))
    assert await node.call("eth_blockNumber") == "0x5"
    monkeypatch.setattr(Node, "call", answers(TimeoutError(), RpcError("transaction already known")))
    assert await node.call("eth_sendRawTransaction", "0x02c0") == "0x" + keccak(hexstr="0x02c0").hex()
    monkeypatch.setattr(Node, "call", answers(RpcError("nonce too low")))
    with pytest.raises(RpcError):
        await node.call("eth_sendRawTransaction", "0x02c0")
