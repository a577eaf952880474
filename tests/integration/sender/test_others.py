"""The sender beside others with its key, through reorgs, without money, and after crashes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bot.chain.errors import RpcError
from bot.chain.fees import GWEI
from bot.chain.sender.proof import why_refused
from bot.chain.sender.terms import UNPROVEN
from bot.store import txs
from tests.support.anvil import ENGLISH
from tests.support.sender import Bench, foreign, proxied, quiet_blocks, unmined

# Others with the key -------------------------------------------------------------------------------------------------


async def test_unmined__the_backend_ends_the_same_session__named_and_not_signed_again(bench: Bench) -> None:
    """A nonce used by a foreign hash is named in an alert, also when both end the same session."""
    key = await unmined(bench)
    row = bench.txs()[0]
    bench.world.node.rpc("anvil_dropTransaction", row.hash)
    theirs = bench.pay(bench.world.owner, "endSession(address)", key.tutor)
    assert await bench.outcome() == "lost"
    assert bench.hooks.alerts == ["alert.foreign-nonce"]
    assert theirs in bench.hooks.texts[0]
    bench.settle(key)
    assert await bench.outcome(2) == "over"
    assert (bench.ended(), len(bench.txs())) == ([key.session_id], 1)
    assert bench.txs()[0].note == f"nonce used by {theirs}"


async def test_settle__foreign_transaction_at_our_nonce_unknown_to_the_look__left_alone(bench: Bench) -> None:
    """Never signs at a nonce where a foreign transaction is known pending."""
    key = bench.lesson()
    bench.mining(False)
    nonce = bench.nonce()
    foreign(bench, maxPriorityFeePerGas=hex(2 * GWEI))
    said: int | None = nonce

    def count(method: str, params: list[Any]) -> dict[str, Any] | None:
        if said is not None and method == "eth_getTransactionCount" and params[1] == "pending":
            return {"result": hex(said)}
        return None

    async with proxied(bench) as proxy:
        proxy.instead = count
        bench.settle(key)
        await bench.until(lambda: bench.txs())
        said = nonce + 1  # as nodes say of a transaction that waits for a lower base fee; Anvil counts what it can mine
        await quiet_blocks(bench, 5, 50 * GWEI)
        assert [row.nonce for row in bench.txs()] == [nonce]
        said = None
        foreign(bench, nonce=hex(nonce), maxFeePerGas=hex(100 * GWEI))  # Anvil drops what it can't mine
        bench.mine_dear(GWEI, blocks=5)
        assert await bench.outcome() == "lost"
        bench.settle(key)
        assert await bench.outcome(2) == "settled"
    assert bench.ended() == [key.session_id]


async def test_unmined__foreign_transaction_below_is_dropped__gap_filled_after_some_blocks(bench: Bench) -> None:
    """A gap is named only below an own unmined row, when nobody has known a transaction there for k blocks."""
    key = bench.lesson()
    bench.mining(False)
    nonce = bench.nonce()
    theirs = foreign(bench)
    bench.settle(key)
    await bench.until(lambda: bench.txs())
    bench.world.node.rpc("anvil_dropTransaction", theirs)
    bench.look()
    await bench.until(lambda: len(bench.txs()) == 2, mine=True)
    ours, fill = bench.txs()
    assert (ours.nonce, fill.nonce, fill.kind) == (nonce + 1, nonce, "fill")
    assert await bench.outcome() == "settled"
    assert (bench.ended(), len(bench.hooks.reports)) == ([key.session_id], 1)


# Reorgs --------------------------------------------------------------------------------------------------------------


async def test_reorg__the_other_branch_has_the_students_own_end__retracted(bench: Bench) -> None:
    key = bench.lesson()
    before = bench.world.node.snapshot()
    bench.settle(key)
    assert await bench.outcome(mine=False) == "settled"
    bench.world.node.back_to(before)
    bench.world.end(0, by=key.student)
    following = bench.lesson(1)
    await bench.outcome(2)
    assert bench.hooks.outcomes == ["settled", "retracted"]
    assert bench.ended() == [key.session_id]
    assert bench.world.is_active(0)
    assert following.session_id == key.session_id + 1


async def test_reorg__starts_swapped_so_that_the_id_belongs_to_others__retracted(bench: Bench) -> None:
    """only chain state makes it sign: the id with its student and its tutor"""
    before = bench.world.node.snapshot()
    key = bench.lesson(0)
    bench.settle(key)
    assert await bench.outcome(mine=False) == "settled"
    bench.world.node.back_to(before)
    other = bench.lesson(1)
    assert other.session_id == key.session_id
    await bench.outcome(2)
    assert bench.hooks.outcomes == ["settled", "retracted"]
    assert (bench.ended(), bench.world.is_active(0)) == ([], True)


@pytest.mark.parametrize("restarted", [False, True])
async def test_reorg__deeper_than_confirmations__one_settlement_at_the_same_nonce(
    bench: Bench, restarted: bool
) -> None:
    """A transaction is watched until its nonce is used in a final block. (W7)"""
    key = bench.lesson()
    before = bench.world.node.snapshot()
    bench.settle(key)
    await bench.until(lambda: [row for row in bench.txs() if row.state == "confirmed"], mine=True)
    row = bench.txs()[0]
    bench.world.node.back_to(before)
    bench.world.node.mine(4)
    if restarted:
        await bench.restart()
    bench.settle(key)  # the reconciler sees the session active again
    await bench.outcome(2)
    assert bench.ended() == [key.session_id]
    assert {one.nonce for one in bench.txs()} == {row.nonce}
    assert "reorged-out" in bench.steps(row.hash)


async def test_reorg__brings_a_lost_one_back_beside_its_successor__only_one_goes_on(bench: Bench) -> None:
    """of two unmined settlements of one session only the first goes on. … If a reorg deeper than CONFIRMATIONS
    brings one back, one of the two is retracted: if one brings it back, the second is retracted."""
    key = bench.lesson()
    bench.mining(False)
    before = bench.world.node.snapshot()
    bench.settle(key)
    await bench.until(lambda: [row for row in bench.txs() if row.state == "sent"])
    bench.world.node.rpc("anvil_dropTransaction", bench.txs()[0].hash)
    foreign(bench)
    assert await bench.outcome() == "lost"
    bench.settle(key)
    assert await bench.outcome(2) == "settled"
    bench.world.node.back_to(before)
    bench.mining(False)
    await quiet_blocks(bench, 2)
    await bench.until(lambda: bench.ended() and not bench.sender.busy, mine=True)
    assert bench.ended() == [key.session_id]
    kinds = {(row.nonce, row.kind) for row in bench.txs() if row.state in ("mined", "confirmed")}
    assert sorted(kind for _, kind in kinds) == ["retract", "settle"]


async def test_confirmed__its_block_is_final__closed(bench: Bench) -> None:
    key = bench.lesson()
    bench.settle(key)
    await bench.until(lambda: [row for row in bench.txs() if row.state == "confirmed"], mine=True)
    bench.world.node.mine(80)
    await bench.until(lambda: bench.txs()[0].closed, mine=True)
    assert bench.steps(bench.txs()[0].hash) == ["stored", "sent", "mined", "confirmed", "final"]


# Money ---------------------------------------------------------------------------------------------------------------


async def test_settle__funds_run_out_and_come_back__goes_on(bench: Bench) -> None:
    key = bench.lesson()
    bench.world.node.rpc("anvil_setBalance", bench.world.owner, hex(10**15))
    bench.settle(key)
    assert await bench.outcome() == "refused"
    bench.world.node.rpc("anvil_setBalance", bench.world.owner, hex(10**20))
    bench.settle(key)
    assert await bench.outcome(2) == "settled"


@pytest.mark.provokes("alert.balance")
async def test_unmined__funds_taken_by_another_user_of_the_key__alert_and_said_again(bench: Bench) -> None:
    key = await unmined(bench)
    bench.world.node.rpc("anvil_dropTransaction", bench.txs()[0].hash)
    bench.world.node.rpc("anvil_setBalance", bench.world.owner, hex(10**12))
    await quiet_blocks(bench, 2, GWEI)
    assert "alert.balance" in bench.hooks.alerts
    bench.world.node.rpc("anvil_setBalance", bench.world.owner, hex(10**20))
    assert await bench.outcome() == "settled"
    assert bench.ended() == [key.session_id]


async def test_settle__what_is_under_way_would_use_the_balance_up__waits_for_it(bench: Bench) -> None:
    """What is under way counts as spent, each nonce at the most that it can cost"""
    keys = [bench.lesson(n, n) for n in range(2)]
    bench.mining(False)
    bench.settle(keys[0])
    await bench.until(lambda: bench.txs())
    most = 300_000 * int(bench.txs()[0].max_fee)
    bench.world.node.rpc("anvil_setBalance", bench.world.owner, hex(10**16 + most * 9 // 5))
    bench.world.node.rpc("anvil_dropTransaction", bench.txs()[0].hash)  # or the next block would take it
    await quiet_blocks(bench, 1, GWEI)
    bench.settle(keys[1])
    await asyncio.sleep(0.3)
    assert len(bench.txs()) == 1
    assert bench.hooks.reports == []
    await bench.outcome(2)
    assert sorted(bench.ended()) == [key.session_id for key in keys]


async def test_unmined__the_days_budget_is_under_way__not_replaced_and_alert(bench: Bench) -> None:
    """beyond the day's budget, no settlement is signed, be it new or in another's place. … Retractions are never
    refused"""
    key = bench.lesson()
    bench.mining(False)
    bench.settle(key)
    await bench.until(lambda: [row for row in bench.txs() if row.state == "sent"])
    bench.config = {"daily_budget_wei": 300_000 * int(bench.txs()[0].max_fee) + 1}
    await bench.restart()
    await quiet_blocks(bench, 5)
    assert len(bench.txs()) == 1
    assert bench.hooks.alerts == ["alert.gas-budget"]
    bench.hooks.due = False  # a retraction is never refused
    bench.mine_dear()
    await bench.until(lambda: len(bench.txs()) == 2)
    assert bench.txs()[1].kind == "retract"


DAY_MS = 86_400_000
REFUSED = why_refused(RpcError(3, "execution reverted", "0x"))[1]  # what a paused token makes of it


async def test_settle__signed_a_day_ago_and_mined_now__counts_now(bench: Bench) -> None:
    """what was mined counts by its receipt, for a day from its block's time, whenever it was signed or replaced"""
    keys = [bench.lesson(n, n) for n in range(3)]
    bench.mining(False)
    bench.later_ms = -DAY_MS - 60_000
    bench.mine_dear(GWEI, blocks=5)
    bench.settle(keys[0])
    await bench.until(lambda: [row for row in bench.txs() if row.state == "sent"])
    bench.later_ms = 0
    bench.mining(True)
    assert await bench.outcome() == "settled"
    first = bench.txs()[0]
    bench.config = {"daily_budget_wei": 300_000 * int(first.max_fee) + int(first.gas_cost or 0) // 2}
    for number, (later_ms, expected) in enumerate([(0, "refused"), (DAY_MS + 60_000, "settled")], start=1):
        bench.later_ms = later_ms
        await bench.restart()
        bench.mine_dear(GWEI, blocks=5)  # each is to cost what the first did
        bench.settle(keys[number])
        assert await bench.outcome(number + 1, mine=False) == expected


@pytest.mark.parametrize(("apart_ms", "counts"), [(-1, False), (0, True), (1, True)])
async def test_spent__at_the_edge_of_a_day__by_the_time_of_the_block(bench: Bench, apart_ms: int, counts: bool) -> None:
    """for a day from its block's time"""
    bench.later_ms = -10 * DAY_MS
    bench.settle(bench.lesson())
    assert await bench.outcome() == "settled"
    [row] = bench.txs()
    assert row.mined_block is not None
    block_ms = int(bench.world.node.header(row.mined_block)["timestamp"], 16) * 1000
    with bench.database.read() as session:
        spent = txs.spent_since(session, block_ms - apart_ms)
    assert spent == (int(row.gas_cost or 0) if counts else 0)


@pytest.mark.provokes("alert.balance-low")
async def test_head__balance_good_for_few_settlements__warned_once(bench: Bench) -> None:
    """a warning comes while there is still enough for many"""
    bench.world.node.rpc("anvil_setBalance", bench.world.owner, hex(2 * 10**16))
    await bench.until(lambda: bench.hooks.alerts)
    bench.look()
    await asyncio.sleep(0.1)
    assert bench.hooks.alerts == ["alert.balance-low"]
    assert "more settlements" in bench.hooks.texts[0]


# Set aside -----------------------------------------------------------------------------------------------------------


async def test_probe__token_works_again__cured(bench: Bench) -> None:
    """an `eth_call` probe now and then; settled at once when the cause is gone"""
    key = bench.lesson()
    bench.config = {"probe_every_ms": 1}
    await bench.restart()
    bench.world.do(bench.world.owner, "pause()", to=bench.world.token)
    bench.hooks.aside = [(key, REFUSED)]
    await quiet_blocks(bench, 3, GWEI)
    assert (bench.hooks.cures, bench.hooks.changes) == ([], [])
    bench.world.do(bench.world.owner, "unpause()", to=bench.world.token)
    await bench.until(lambda: bench.hooks.cures == [key], mine=True)
    assert bench.txs() == []


async def test_probe__another_reason_than_before__told_once_with_it(bench: Bench) -> None:
    """quarantine with reason, re-tried only when the reason changes"""
    key = bench.lesson()
    bench.config = {"probe_every_ms": 1}
    await bench.restart()
    bench.world.do(bench.world.owner, "pause()", to=bench.world.token)
    bench.hooks.aside = [(key, "the student's account is frozen")]
    await bench.until(lambda: bench.hooks.changes, mine=True)
    await quiet_blocks(bench, 3, GWEI)
    assert (bench.hooks.changes, bench.hooks.cures, bench.txs()) == ([(key, REFUSED)], [], [])


async def test_probe__it_had_failed_though_simulated__a_simulation_is_no_cure(bench: Bench) -> None:
    """Retrying hot drains the key."""
    key = bench.lesson()
    bench.config = {"probe_every_ms": 1}
    await bench.restart()
    bench.hooks.aside = [(key, UNPROVEN)]
    await quiet_blocks(bench, 3, GWEI)
    assert bench.hooks.cures == []


# Crashes at a nonce that has more than one ----------------------------------------------------------------------------


@pytest.mark.parametrize("why", ["slow", "next lesson"])
async def test_crash__replaced_or_retracted_and_not_said__seen_through_at_the_same_nonce(
    bench: Bench, why: str
) -> None:
    """W6: of all that is stored there one is mined"""
    key = await unmined(bench)
    reached = asyncio.Event()

    async def stop(method: str, params: list[Any]) -> None:
        if method == "eth_sendRawTransaction":
            reached.set()
            await asyncio.Event().wait()

    async with proxied(bench) as proxy:
        proxy.before = stop
        if why == "next lesson":
            bench.pay(key.student, "endSession(address)", key.tutor)
            bench.mine_dear()
            bench.pay(bench.world.students[1], "startSession(address,uint8)", key.tutor, ENGLISH)
        bench.mine_dear(blocks=3)
        await bench.until(reached.is_set)
        await bench.kill()
    assert len(bench.txs()) == 2
    await bench.restart()
    bench.settle(key)
    await bench.outcome()
    await bench.until(lambda: not bench.sender.busy, mine=True)
    assert bench.ended() == [key.session_id]
    assert len({row.nonce for row in bench.txs()}) == 1
    assert bench.world.is_active(0) == (why == "next lesson")
