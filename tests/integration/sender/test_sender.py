"""The sender's promises, on a real node."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bot.chain import codec
from bot.chain.fees import GWEI, Caps
from bot.chain.sender import ended_in
from bot.domain.facts import SessionKey
from tests.support.anvil import ENGLISH
from tests.support.sender import HIGH_FEE, Bench, proxied, unmined

# What it does --------------------------------------------------------------------------------------------------------


async def test_settle__session_active__ended_and_proven(bench: Bench) -> None:
    """It never reports an end that `SessionEnded` with the expected id, in the receipt, doesn't prove."""
    key = bench.lesson()
    action = bench.settle(key)
    assert await bench.outcome() == "settled"
    assert bench.hooks.reports == [(key, action, "settled", None)]
    assert bench.ended() == [key.session_id]
    await bench.until(lambda: bench.txs()[0].state == "confirmed", mine=True)
    assert not bench.sender.busy
    assert int(bench.txs()[0].gas_cost or 0) > 0


async def test_settle__several_sessions_at_once__each_ended_once(bench: Bench) -> None:
    keys = [bench.lesson(n, n) for n in range(3)]
    bench.mining(False)
    for key in keys:
        bench.settle(key)
    await bench.until(lambda: len(bench.txs()) == 3)
    await bench.outcome(3)
    assert sorted(bench.ended()) == [key.session_id for key in keys]
    assert len({row.nonce for row in bench.txs()}) == 3


async def test_settle__broadcast__was_stored_signed_before(bench: Bench) -> None:
    """Every transaction was stored, signed, durably, before its first byte left."""
    key = bench.lesson()
    seen: list[bool] = []

    async def look(method: str, params: list[Any]) -> None:
        if method == "eth_sendRawTransaction":
            stored = {row.raw: bench.sessions(row.hash) for row in bench.txs()}
            seen.append(stored.get(params[0]) == [str(key)])

    async with proxied(bench) as proxy:
        proxy.before = look
        bench.settle(key)
        assert await bench.outcome() == "settled"
    assert seen
    assert all(seen)  # under load it is said again, or replaced


async def test_settle__session_is_over__nothing_is_sent(bench: Bench) -> None:
    key = bench.lesson()
    bench.world.end()
    bench.settle(key)
    assert await bench.outcome() == "over"
    assert bench.txs() == []


async def test_settle__tutor_is_in_the_next_lesson__nothing_is_sent(bench: Bench) -> None:
    """A late `endSession(tutor)` ends the tutor's *next* session and charges another student."""
    key = bench.lesson(0)
    bench.world.end()
    bench.lesson(1)
    bench.settle(key)
    assert await bench.outcome() == "over"
    assert (bench.txs(), bench.ended()) == ([], [key.session_id])


async def test_settle__no_longer_due__withdrawn(bench: Bench) -> None:
    key = bench.lesson()
    bench.hooks.due = False
    bench.settle(key)
    assert await bench.outcome() == "withdrawn"
    assert bench.txs() == []


async def test_settle__token_paused__failed_without_a_transaction(bench: Bench) -> None:
    """A paused or frozen token makes every end revert, with empty data. Retrying hot drains the key."""
    key = bench.lesson()
    bench.world.do(bench.world.owner, "pause()", to=bench.world.token)
    bench.settle(key)
    assert await bench.outcome() == "failed"
    assert "paused or frozen" in str(bench.hooks.reports[0][3])
    assert bench.txs() == []


async def test_settle__one_poisoned_among_others__the_others_are_ended(bench: Bench) -> None:
    keys = [bench.lesson(n, n) for n in range(2)]
    bench.world.do(bench.world.owner, "freeze(address)", bench.world.tutors[0], to=bench.world.token)
    for key in keys:
        bench.settle(key)
    await bench.outcome(2)
    assert {(key, outcome) for key, _, outcome, _ in bench.hooks.reports} == {(keys[0], "failed"), (keys[1], "settled")}


async def test_settle__participants_end_is_in_the_pool__waits(bench: Bench) -> None:
    """a participant is paying: an `endSession` of theirs that the node knows"""
    key = bench.lesson()
    bench.mining(False)
    bench.pay(key.student, "endSession(address)", key.tutor)
    bench.settle(key)
    assert await bench.outcome(mine=False) == "waiting"
    assert bench.hooks.payers == [key.student]
    assert bench.txs() == []


# Caps and budget -----------------------------------------------------------------------------------------------------


async def test_settle__balance_below_the_floor__refused_with_one_alert(bench: Bench) -> None:
    key = bench.lesson()
    bench.world.node.rpc("anvil_setBalance", bench.world.owner, hex(10**16))
    for number in (1, 2):
        bench.settle(key)
        assert await bench.outcome(number) == "refused"
    assert (bench.hooks.alerts.count("alert.balance"), bench.txs()) == (1, [])


@pytest.mark.provokes("alert.gas-budget")
async def test_settle__daily_budget_used_up__refused(bench: Bench) -> None:
    keys = [bench.lesson(n, n) for n in range(2)]
    bench.mine_dear(GWEI, blocks=5)
    bench.settle(keys[0])
    assert await bench.outcome() == "settled"
    first = bench.txs()[0]
    bench.config = {"daily_budget_wei": 300_000 * int(first.max_fee) + int(first.gas_cost or 0) // 2}
    await bench.restart()
    bench.mine_dear(GWEI, blocks=5)
    bench.settle(keys[1])
    assert await bench.outcome(2, mine=False) == "refused"
    assert bench.hooks.alerts == ["alert.gas-budget"]


@pytest.mark.provokes("alert.fee-cap")
async def test_settle__fee_above_every_cap__bids_the_cap_and_waits(bench: Bench) -> None:
    """It never pays more than its caps. At its cap it waits, with an alert, as it does when the balance or the day's
    budget is used up."""
    key = bench.lesson()
    bench.mining(False)
    bench.mine_dear(500 * GWEI)
    bench.settle(key)
    await bench.until(lambda: bench.txs())
    for _ in range(8):
        bench.mine_dear(500 * GWEI)
        bench.look()
        await asyncio.sleep(0.1)
    assert {int(row.max_fee) for row in bench.txs()} == {80 * GWEI}
    assert bench.hooks.alerts == ["alert.fee-cap"]
    assert bench.hooks.reports == []


async def test_settle__not_mined_for_some_blocks__replaced_at_its_nonce_by_an_eighth_more(bench: Bench) -> None:
    key = bench.lesson()
    bench.mining(False)
    bench.settle(key)
    await bench.until(lambda: bench.txs())
    first = bench.txs()[0]
    bench.mine_dear(blocks=3)
    await bench.until(lambda: len(bench.txs()) == 2)
    second = bench.txs()[1]
    assert second.nonce == first.nonce
    assert int(second.max_fee) * 8 >= int(first.max_fee) * 9
    assert await bench.outcome() == "settled"
    await bench.until(lambda: {row.state for row in bench.txs()} == {"replaced", "confirmed"}, mine=True)
    assert (bench.ended(), bench.nonce()) == ([key.session_id], first.nonce + 1)


# The tutor's slot changes --------------------------------------------------------------------------------------------


async def test_unmined__tutor_in_the_next_lesson__retracted_at_its_nonce(bench: Bench) -> None:
    """as soon as its session is no longer the active one it is *retracted* (its nonce used for nothing). … Each head
    is a look."""
    key = await unmined(bench)
    tutor, following = bench.world.tutors[0], bench.world.students[1]
    bench.pay(key.student, "endSession(address)", tutor)
    bench.mine_dear()
    bench.pay(following, "startSession(address,uint8)", tutor, ENGLISH)
    bench.mine_dear()
    await bench.until(lambda: len(bench.txs()) == 2)
    settle, retract = bench.txs()
    assert (retract.kind, retract.nonce) == ("retract", settle.nonce)
    assert await bench.outcome() == "retracted"
    assert bench.ended() == [key.session_id]
    assert bench.world.is_active(0)


async def test_unmined__cap_lowered_below_what_it_bids__still_retracted(bench: Bench) -> None:
    """Where MAX_FEE_GWEI was lowered while dearer settlements were under way, their retraction bids the least that
    replaces them"""
    bench.mine_dear(15 * GWEI)
    key = await unmined(bench)
    settle = bench.txs()[0]
    bench.config = {"caps": Caps.of(int(settle.max_fee) / GWEI / 2, 5)}
    await bench.restart()
    bench.pay(key.student, "endSession(address)", key.tutor, fee=4 * HIGH_FEE)
    bench.mine_dear(2 * HIGH_FEE)
    await bench.until(lambda: len(bench.txs()) == 2)
    _, retract = bench.txs()
    assert (retract.kind, retract.nonce) == ("retract", settle.nonce)
    assert int(retract.max_fee) == -(-int(settle.max_fee) * 9 // 8)
    bench.world.node.rpc("anvil_setNextBlockBaseFeePerGas", hex(GWEI))
    assert await bench.outcome() == "retracted"
    assert bench.ended() == [key.session_id]


async def test_mined__ended_by_the_student_in_the_same_block__failed_not_settled(bench: Bench) -> None:
    """`status == 1` proves nothing"""
    key = await unmined(bench)
    bench.pay(key.student, "endSession(address)", key.tutor)
    bench.world.node.mine()
    assert await bench.outcome() == "failed"
    assert bench.ended() == [key.session_id]


@pytest.mark.provokes("alert.wrong-session")
async def test_mined__next_lesson_began_in_the_same_block__alert_wrong_session(bench: Bench) -> None:
    """In one block in the order [student ends, next student starts, owner ends], all three succeed … what slips through
    is reported as `alert.wrong-session`."""
    key = await unmined(bench)
    bench.pay(key.student, "endSession(address)", key.tutor, fee=3 * HIGH_FEE)
    bench.pay(bench.world.students[1], "startSession(address,uint8)", key.tutor, ENGLISH, fee=2 * HIGH_FEE)
    bench.world.node.mine()
    assert await bench.outcome() == "over"
    assert bench.hooks.alerts == ["alert.wrong-session"]
    assert bench.ended() == [key.session_id, key.session_id + 1]


async def test_mined__taken_back_by_a_reorg_of_the_same_height__same_nonce_again(bench: Bench) -> None:
    """Until a nonce is finally used, its session is signed again only at that same nonce, also after … a reorg."""
    key = bench.lesson()
    before = bench.world.node.snapshot()
    bench.settle(key)
    assert await bench.outcome(mine=False) == "settled"
    bench.world.node.back_to(before)
    bench.world.node.mine()
    bench.settle(key)  # the reconciler sees the session active again
    await bench.until(lambda: bench.ended() == [key.session_id])
    await bench.until(lambda: len(bench.hooks.reports) == 2, mine=True)
    assert {row.nonce for row in bench.txs()} == {bench.txs()[0].nonce}
    assert bench.nonce() == bench.txs()[0].nonce + 1


# Somebody else uses the key ------------------------------------------------------------------------------------------


@pytest.mark.provokes("alert.foreign-nonce")
async def test_unmined__nonce_used_by_a_foreign_transaction__lost_and_named(bench: Bench) -> None:
    """A nonce used by a hash that isn't ours names another user of the key."""
    key = await unmined(bench)
    bench.world.node.rpc("anvil_dropTransaction", bench.txs()[0].hash)
    nonce = bench.txs()[0].nonce
    request = {"from": bench.world.owner, "to": bench.world.owner, "nonce": hex(nonce), "gas": hex(21_000)}
    bench.world.node.rpc("eth_sendTransaction", request | {"maxFeePerGas": hex(HIGH_FEE)})
    assert await bench.outcome() == "lost"
    assert bench.hooks.alerts == ["alert.foreign-nonce"]
    bench.mining(True)
    bench.settle(key)
    assert await bench.outcome(2) == "settled"
    assert bench.ended() == [key.session_id]


async def test_settle__foreign_transaction_pending__signed_above_it(bench: Bench) -> None:
    """Never signs at a nonce where a foreign transaction is known pending"""
    key = bench.lesson()
    bench.mining(False)
    nonce = bench.nonce()
    bench.world.node.rpc(
        "eth_sendTransaction", {"from": bench.world.owner, "to": bench.world.owner, "gas": hex(21_000)}
    )
    bench.settle(key)
    await bench.until(lambda: bench.txs())
    assert bench.txs()[0].nonce == nonce + 1
    assert await bench.outcome() == "settled"


# Crash windows -------------------------------------------------------------------------------------------------------


async def crashed(bench: Bench, window: str) -> SessionKey:
    """Dies in this window; the session is `key`."""
    key = bench.lesson()
    reached = asyncio.Event()

    async def stop(method: str, params: list[Any]) -> None:
        if method == "eth_sendRawTransaction":
            reached.set()
            await asyncio.Event().wait()

    if window == "W1":
        return key  # the action is open in the database; nothing else has happened
    if window in ("W2", "W3"):
        async with proxied(bench) as proxy:
            setattr(proxy, "before" if window == "W2" else "after", stop)
            bench.settle(key)
            await bench.until(reached.is_set)
            await bench.kill()
        return key
    bench.hooks.block_reports = window == "W5"
    bench.mining(window == "W5")
    bench.settle(key)
    state = "mined" if window == "W5" else "sent"
    await bench.until(lambda: [row for row in bench.txs() if row.state == state])
    await bench.kill()
    bench.hooks.block_reports = False
    return key


WINDOWS = ("W1", "W2", "W3", "W4", "W5")


@pytest.mark.parametrize("window", WINDOWS)
async def test_crash__restarted_at_once__ended_exactly_once(bench: Bench, window: str) -> None:
    """After a crash each stored, unmined transaction is accounted for before anything new is signed."""
    key = await crashed(bench, window)
    nonce = bench.nonce()
    bench.config = {"replace_after_blocks": 1_000}  # blocks come quicker here than a busy machine sends
    await bench.restart()
    bench.settle(key)  # the action is still open
    await bench.outcome()
    bench.mining(True)
    await bench.until(lambda: not bench.sender.busy, mine=True)
    assert bench.ended() == [key.session_id]
    assert len(bench.txs()) == 1
    assert bench.nonce() == (nonce if window in ("W3", "W5") else nonce + 1)


@pytest.mark.parametrize("window", WINDOWS)
async def test_crash__restarted_when_the_tutor_is_in_the_next_lesson__that_one_is_untouched(
    bench: Bench, window: str
) -> None:
    """said again only if its session still holds at the newest block; else retracted at its own nonce"""
    key = await crashed(bench, window)
    bench.mining(False)
    tutor, following = bench.world.tutors[0], bench.world.students[1]
    if bench.world.is_active(0):
        bench.pay(key.student, "endSession(address)", tutor)
        bench.mine_dear()
    bench.pay(following, "startSession(address,uint8)", tutor, ENGLISH)
    bench.mine_dear()
    await bench.restart()
    bench.settle(key)
    await bench.outcome()
    bench.mining(True)
    await bench.until(lambda: not bench.sender.busy, mine=True)
    assert bench.ended() == [key.session_id]
    assert bench.world.is_active(0)
    kinds = [row.kind for row in bench.txs()]
    assert kinds == {"W1": [], "W2": ["settle", "retract"], "W4": ["settle", "retract"]}.get(window, ["settle"])


async def test_send__node_answers_with_an_error_though_it_took_it__perhaps_accepted(bench: Bench) -> None:
    """An unknown send error means "perhaps accepted": look it up by hash and nonce."""
    key = bench.lesson()

    async def fail(method: str, params: list[Any]) -> None:
        if method == "eth_sendRawTransaction":
            raise ConnectionError("the answer is lost")

    async with proxied(bench) as proxy:
        proxy.after = fail
        bench.settle(key)
        assert await bench.outcome() == "settled"
    assert len(bench.txs()) == 1


async def test_run__node_away_for_a_while__goes_on_afterwards(bench: Bench) -> None:
    key = bench.lesson()
    away = True

    async def fail(method: str, params: list[Any]) -> None:
        if away:
            raise ConnectionError("away")

    async with proxied(bench) as proxy:
        proxy.before = fail
        bench.settle(key)
        bench.look()
        await asyncio.sleep(0.3)
        away = False
        assert await bench.outcome() == "settled"


# Proof ---------------------------------------------------------------------------------------------------------------


def test_ended_in__status_one_without_the_event__proves_nothing() -> None:
    """Only `SessionEnded` with the expected id proves an end."""
    contract = "0x" + "11" * 20
    topics = [codec.SESSION_ENDED, "0x" + f"{7:064x}", "0x" + "00" * 12 + "22" * 20]
    entry = {"address": contract, "topics": topics, "data": "0x" + f"{5:064x}" * 2}
    assert ended_in({"status": "0x1", "logs": [entry]}, contract) == [7]
    assert ended_in({"status": "0x1", "logs": []}, contract) == []
    assert ended_in({"status": "0x0", "logs": [entry]}, contract) == []
    assert ended_in({"status": "0x1", "logs": [entry | {"address": "0x" + "33" * 20}]}, contract) == []
