"""The sender's promises in guarded mode, on a real node whose owner account runs the guard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from bot.chain import guard_codec
from bot.chain.fees import GWEI, Caps
from bot.domain.facts import SessionKey
from bot.domain.urgency import Urgency
from tests.support.anvil import ENGLISH, OWNER_KEY, World, langdao
from tests.support.guarded import KEEPER, KEEPER_KEY, delegate, deploy_guard
from tests.support.sender import HIGH_FEE, Bench, benched, proxied


@pytest.fixture(scope="module")
def chain() -> Iterator[World]:
    with langdao("--order", "fees") as world:
        delegate(world, deploy_guard(world))
        yield world


@pytest.fixture
async def bench(chain: World, tmp_path: Path) -> AsyncIterator[Bench]:
    async with benched(chain, f"sqlite:///{tmp_path}/keeper.db", KEEPER_KEY) as bench:
        assert (bench.sender.mode, bench.sender.address) == ("guarded", KEEPER)
        yield bench


def lessons(bench: Bench, count: int = 3) -> list[SessionKey]:
    return [bench.lesson(number, number) for number in range(count)]


async def in_flight(bench: Bench, count: int = 3) -> list[SessionKey]:
    """A batch that is broadcast and not mined, as its fee became too low."""
    keys = lessons(bench, count)
    bench.mining(False)
    for key in keys:
        bench.settle(key)
    await bench.until(lambda: [row for row in bench.txs() if row.state == "sent"])
    assert bench.sessions(bench.txs()[0].hash) == [str(key) for key in keys]
    return keys


def came(bench: Bench) -> dict[int, str]:
    """The last outcome of each session."""
    return {key.session_id: outcome for key, _, outcome, _ in bench.hooks.reports}


def of(keys: list[SessionKey], *outcomes: str) -> dict[int, str]:
    return {key.session_id: outcome for key, outcome in zip(keys, outcomes, strict=True)}


# What it does --------------------------------------------------------------------------------------------------------


async def test_settle__one_session__one_call_of_the_owners_account(bench: Bench) -> None:
    """one alone too"""
    key = bench.lesson()
    action = bench.settle(key)
    assert await bench.outcome() == "settled"
    assert bench.hooks.reports == [(key, action, "settled", None)]
    assert bench.ended() == [key.session_id]
    (row,) = bench.txs()
    sent = bench.world.node.rpc("eth_getTransactionByHash", row.hash)
    assert (sent["from"], sent["to"]) == (KEEPER.lower(), bench.world.owner.lower())


async def test_settle__sessions_due_together__one_transaction(bench: Bench) -> None:
    """sessions due together go into one transaction"""
    keys = await in_flight(bench)
    await bench.outcome(3)
    assert came(bench) == of(keys, "settled", "settled", "settled")
    assert sorted(bench.ended()) == [key.session_id for key in keys]
    assert len(bench.txs()) == 1
    await bench.until(lambda: bench.txs()[0].state == "confirmed", mine=True)
    assert bench.hooks.alerts == []


async def test_settle__broadcast__was_stored_signed_before(bench: Bench) -> None:
    """Every transaction was stored, signed, durably, before its first byte left."""
    keys = lessons(bench)
    seen: list[Any] = []

    async def look(method: str, params: list[Any]) -> None:
        if method == "eth_sendRawTransaction":
            seen.append([(row.raw, bench.sessions(row.hash)) for row in bench.txs() if row.raw == params[0]])

    async with proxied(bench) as proxy:
        proxy.before = look
        for key in keys:
            bench.settle(key)
        await bench.outcome(3)
    assert all(len(rows) == 1 for rows in seen)
    assert sorted(one for rows in seen for _, sessions in rows for one in sessions) == [str(key) for key in keys]


async def test_settle__more_than_a_transaction_may_hold__several(bench: Bench) -> None:
    """chunked by gas under the block and per-transaction limits"""
    await bench.kill()
    bench.config = {"gas_limit": 5_000_000, "daily_budget_wei": 10**20}  # two of these fit into a quarter of a block
    bench.boot()
    keys = lessons(bench)
    bench.mining(False)
    for key in keys:
        bench.settle(key)
    await bench.until(lambda: len(bench.txs()) == 2)
    assert [len(bench.sessions(row.hash)) for row in bench.txs()] == [2, 1]
    assert all(row.gas <= 7_500_000 for row in bench.txs())
    await bench.outcome(3)
    assert came(bench) == of(keys, "settled", "settled", "settled")


async def test_settle__one_is_more_urgent_and_tips_differ__goes_first_and_alone(bench: Bench) -> None:
    """chunked … by urgency: what waits for the least doesn't pay the most urgent one's tip"""
    keys = lessons(bench)
    bench.hooks.urgent[keys[2]] = Urgency.CLAIM
    bench.mining(False)

    def tips(method: str, params: list[Any]) -> dict[str, Any] | None:
        busy = {"baseFeePerGas": [hex(GWEI)] * 6, "reward": [[hex(GWEI), hex(2 * GWEI), hex(3 * GWEI)]] * 5}
        return {"result": busy} if method == "eth_feeHistory" else None

    async with proxied(bench) as proxy:
        proxy.instead = tips
        for key in keys:
            bench.settle(key)
        await bench.until(lambda: len(bench.txs()) == 2)
        by_nonce = sorted(bench.txs(), key=lambda row: row.nonce)
        assert [bench.sessions(row.hash) for row in by_nonce] == [[str(keys[2])], [str(keys[0]), str(keys[1])]]
        assert [int(row.tip) for row in by_nonce] == [3 * GWEI, GWEI]
        await bench.outcome(3)


async def test_settle__budget_for_two_of_three__the_third_waits_for_what_they_cost(bench: Bench) -> None:
    """what is under way counts as spent, each nonce at the most that it can cost"""
    await bench.kill()
    two = guard_codec.gas_limit(2, 300_000)
    bench.config = {"caps": Caps.of(1.25, 5), "daily_budget_wei": (two + 250_000) * GWEI}  # it bids 1 gwei
    bench.boot()
    keys = lessons(bench)
    bench.mining(False)
    for key in keys:
        bench.settle(key)
    await bench.until(lambda: bench.txs())
    assert bench.sessions(bench.txs()[0].hash) == [str(keys[0]), str(keys[1])]
    await bench.outcome(3)
    assert came(bench) == of(keys, "settled", "settled", "settled")
    assert [bench.sessions(row.hash) for row in bench.txs()[1:]] == [[str(keys[2])]]


async def test_settle__owners_own_key__goes_through_the_guard_too(chain: World, tmp_path: Path) -> None:
    async with benched(chain, f"sqlite:///{tmp_path}/keeper.db", OWNER_KEY) as bench:
        assert (bench.sender.mode, bench.sender.address) == ("guarded", chain.owner)
        keys = await in_flight(bench)
        await bench.outcome(3)
        assert came(bench) == of(keys, "settled", "settled", "settled")


# One that can't be ended, among others ------------------------------------------------------------------------------


async def test_batch__one_was_poisoned_before__the_others_are_ended(bench: Bench) -> None:
    keys = lessons(bench)
    bench.world.do(bench.world.owner, "freeze(address)", bench.world.tutors[1], to=bench.world.token)
    bench.mining(False)
    for key in keys:
        bench.settle(key)
    await bench.outcome(3)
    assert came(bench) == of(keys, "settled", "failed", "settled")
    assert [bench.sessions(row.hash) for row in bench.txs()] == [[str(keys[0]), str(keys[2])]]


async def test_batch__one_is_poisoned_after_the_look__failed_alone(bench: Bench) -> None:
    """Skipped/Failed items are decided anew"""
    keys = await in_flight(bench)
    freeze = {"from": bench.world.owner, "to": bench.world.token, "gas": hex(200_000), "maxFeePerGas": hex(HIGH_FEE)}
    data = "0x8d1fdf2f" + "0" * 24 + bench.world.tutors[1][2:]
    bench.world.node.rpc("eth_sendTransaction", freeze | {"data": data, "maxPriorityFeePerGas": hex(HIGH_FEE // 2)})
    await bench.outcome(3)
    assert came(bench) == of(keys, "settled", "failed", "settled")
    reason = next(why for key, _, _, why in bench.hooks.reports if key == keys[1])
    assert reason
    assert "mined without SessionEnded" in reason
    assert "paused or frozen" in reason
    assert sorted(bench.ended()) == [keys[0].session_id, keys[2].session_id]


# The tutor's slot changes --------------------------------------------------------------------------------------------


async def test_batch__next_lesson_began_in_the_same_block__not_ended_and_reported(bench: Bench) -> None:
    """In one block in the order [student ends, next student starts, owner ends]: what does not match is skipped."""
    keys = await in_flight(bench, 2)
    bench.pay(keys[0].student, "endSession(address)", keys[0].tutor, fee=3 * HIGH_FEE)
    bench.pay(bench.world.students[2], "startSession(address,uint8)", keys[0].tutor, ENGLISH, fee=2 * HIGH_FEE)
    bench.world.node.mine()
    await bench.outcome(2)
    assert came(bench) == of(keys, "over", "settled")
    assert "another session is in the slot" in str(bench.hooks.reports[0][3])
    assert sorted(bench.ended()) == [key.session_id for key in keys]
    assert bench.world.is_active(0)
    assert bench.hooks.alerts == []


async def test_batch__slot_changed_while_unmined__nothing_is_retracted(bench: Bench) -> None:
    """no retraction is needed: the guard compares the session itself"""
    keys = await in_flight(bench, 2)
    bench.pay(keys[0].student, "endSession(address)", keys[0].tutor)
    bench.mine_dear()
    bench.look()
    await asyncio.sleep(0.2)
    bench.world.node.rpc("anvil_setNextBlockBaseFeePerGas", hex(GWEI))
    await bench.outcome(2)
    assert came(bench) == of(keys, "over", "settled")
    assert len(bench.txs()) == 1


async def test_batch__one_no_longer_due__the_rest_is_signed_anew_at_the_same_nonce(bench: Bench) -> None:
    """only what isn't due any more is taken out: the rest is signed anew at the same nonce"""
    keys = await in_flight(bench)
    bench.hooks.alive.add(keys[1])
    bench.mine_dear()
    await bench.until(lambda: len(bench.txs()) == 2)
    first, second = bench.txs()
    assert (second.nonce, second.kind) == (first.nonce, "settle")
    assert bench.sessions(second.hash) == [str(keys[0]), str(keys[2])]
    await bench.outcome(3)
    assert came(bench) == of(keys, "settled", "retracted", "settled")
    assert bench.world.is_active(1)


async def test_batch__one_no_longer_due_and_the_days_budget_under_way__all_of_it_retracted(bench: Bench) -> None:
    """where that can't be priced or mustn't be signed now, all of it is retracted"""
    keys = await in_flight(bench)
    row = bench.txs()[0]
    bench.config = {"daily_budget_wei": row.gas * int(row.max_fee) * 2 // 3}
    bench.hooks.alive.add(keys[1])
    await bench.restart()
    bench.mine_dear()
    await bench.until(lambda: len(bench.txs()) == 2)
    assert bench.txs()[1].kind == "retract"
    assert bench.hooks.alerts == ["alert.gas-budget"]


async def test_batch__one_no_longer_due_while_paused__nothing_is_signed_for_the_rest(bench: Bench) -> None:
    """where that can't be priced or mustn't be signed now, all of it is retracted"""
    keys = await in_flight(bench)
    bench.hooks.alive.add(keys[1])
    bench.hooks.paused = True
    bench.mine_dear()
    await bench.until(lambda: len(bench.txs()) == 2)
    assert bench.txs()[1].kind == "retract"
    await bench.outcome(3)
    assert came(bench) == of(keys, "retracted", "retracted", "retracted")
    assert bench.ended() == []


async def test_batch__none_due_any_more__its_nonce_is_used_for_nothing(bench: Bench) -> None:
    keys = await in_flight(bench)
    bench.hooks.due = False
    bench.mine_dear()
    await bench.outcome(3)
    assert came(bench) == of(keys, "retracted", "retracted", "retracted")
    assert [row.kind for row in bench.txs()] == ["settle", "retract"]
    assert bench.ended() == []


# The delegation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["nobody", "token", "another keeper's guard", "another LangDAO's guard"])
async def test_delegation__isnt_the_guards_before_signing__nothing_is_signed(bench: Bench, to: str) -> None:
    """where the code isn't the guard's for this key and this LangDAO, nothing is signed"""
    world = bench.world
    owners = bench.code(world.owner)
    key = bench.lesson()
    targets = {
        "nobody": lambda: None,
        "token": lambda: world.token,
        "another keeper's guard": lambda: deploy_guard(world, keeper=world.students[0]),
        "another LangDAO's guard": lambda: deploy_guard(world, langdao=world.token),
    }
    delegate(world, targets[to]())
    bench.settle(key)
    await bench.until(lambda: bench.hooks.alerts)
    for _ in range(3):
        world.node.mine()
        bench.look()
        await asyncio.sleep(0.1)
    assert bench.hooks.alerts == ["alert.delegation"]
    assert world.owner in bench.hooks.texts[0]
    assert (bench.txs(), bench.hooks.reports) == ([], [])
    delegate(world, "0x" + owners[3:].hex())
    assert await bench.outcome() == "settled"  # what was asked for wasn't forgotten


@pytest.mark.provokes("alert.delegation")
async def test_delegation__revoked_while_nothing_is_due__told_at_the_next_head(bench: Bench) -> None:
    owners = bench.code(bench.world.owner)
    await bench.until(lambda: bench.sender.balance_wei is not None)
    delegate(bench.world, None)
    await bench.until(lambda: bench.hooks.alerts == ["alert.delegation"])
    delegate(bench.world, "0x" + owners[3:].hex())
    bench.look()
    await asyncio.sleep(0.3)
    delegate(bench.world, None)
    await bench.until(lambda: bench.hooks.alerts == ["alert.delegation"] * 2)  # its cause was gone meanwhile


async def test_delegation__to_another_guard_of_the_same_code__goes_on(bench: Bench) -> None:
    key = bench.lesson()
    delegate(bench.world, deploy_guard(bench.world))
    bench.settle(key)
    assert await bench.outcome() == "settled"


async def test_delegation__revoked_while_unmined__counts_for_nothing(bench: Bench) -> None:
    """a call to a plain account succeeds with status 1 and does nothing"""
    keys = await in_flight(bench, 2)
    guard = "0x" + bench.code(bench.world.owner)[3:].hex()
    bench.world.node.rpc("anvil_setCode", bench.world.owner, "0x")
    await bench.outcome(2)
    assert came(bench) == of(keys, "refused", "refused")
    assert bench.world.node.rpc("eth_getTransactionReceipt", bench.txs()[0].hash)["status"] == "0x1"
    assert bench.ended() == []
    bench.world.node.rpc("anvil_setCode", bench.world.owner, "0xef0100" + guard[2:])
    for key in keys:
        bench.settle(key)
    await bench.outcome(4)
    assert came(bench) == of(keys, "settled", "settled")


async def test_delegation__revoked_while_unmined_and_too_cheap__not_replaced(bench: Bench) -> None:
    """Before anything is signed, the account's delegation and the guard's code are read"""
    await in_flight(bench, 2)
    bench.world.node.rpc("anvil_setCode", bench.world.owner, "0x")
    for _ in range(5):
        bench.mine_dear()
        bench.look()
        await asyncio.sleep(0.1)
    assert len(bench.txs()) == 1


# Replacing, reorgs, other users of the nonce -------------------------------------------------------------------------


async def test_batch__not_mined_for_some_blocks__replaced_at_its_nonce(bench: Bench) -> None:
    keys = await in_flight(bench)
    first = bench.txs()[0]
    bench.mine_dear(blocks=3)
    await bench.until(lambda: len(bench.txs()) == 2)
    second = bench.txs()[1]
    assert (second.nonce, bench.sessions(second.hash)) == (first.nonce, [str(key) for key in keys])
    assert int(second.max_fee) * 8 >= int(first.max_fee) * 9
    await bench.outcome(3)
    await bench.until(lambda: {row.state for row in bench.txs()} == {"replaced", "confirmed"}, mine=True)
    assert sorted(bench.ended()) == [key.session_id for key in keys]


async def test_batch__one_is_over_when_it_is_replaced__left_out(bench: Bench) -> None:
    keys = await in_flight(bench)
    bench.pay(keys[0].student, "endSession(address)", keys[0].tutor)
    bench.mine_dear(blocks=3)
    await bench.until(lambda: len(bench.txs()) == 2)
    assert bench.sessions(bench.txs()[1].hash) == [str(keys[1]), str(keys[2])]
    await bench.outcome(3)
    assert came(bench) == of(keys, "retracted", "settled", "settled")


async def test_batch__taken_back_by_a_reorg__same_nonce_again(bench: Bench) -> None:
    """Until a nonce is finally used, its session is signed again only at that same nonce, also after … a reorg."""
    keys = lessons(bench)
    before = bench.world.node.snapshot()
    for key in keys:
        bench.settle(key)
    await bench.outcome(3, mine=False)
    bench.world.node.back_to(before)
    bench.world.node.mine()
    for key in keys:
        bench.settle(key)
    await bench.until(lambda: sorted(bench.ended()) == [key.session_id for key in keys])
    await bench.until(lambda: len(bench.hooks.reports) == 6, mine=True)
    hashes = {row.hash for row in bench.txs()}
    assert len({row.nonce for row in bench.txs()}) == len(hashes)


async def test_batch__nonce_used_by_a_foreign_transaction__all_lost_then_ended(bench: Bench) -> None:
    keys = await in_flight(bench)
    row = bench.txs()[0]
    bench.world.node.rpc("anvil_dropTransaction", row.hash)
    request = {"from": KEEPER, "to": KEEPER, "nonce": hex(row.nonce), "gas": hex(21_000)}
    bench.world.node.rpc("eth_sendTransaction", request | {"maxFeePerGas": hex(HIGH_FEE)})
    await bench.outcome(3)
    assert came(bench) == of(keys, "lost", "lost", "lost")
    assert bench.hooks.alerts == ["alert.foreign-nonce"]
    for key in keys:
        bench.settle(key)
    await bench.outcome(6)
    assert came(bench) == of(keys, "settled", "settled", "settled")


# Crash windows -------------------------------------------------------------------------------------------------------


async def crashed(bench: Bench, window: str) -> list[SessionKey]:
    """Dies in this window; a batch is under way."""
    keys = lessons(bench)
    reached = asyncio.Event()

    async def stop(method: str, params: list[Any]) -> None:
        if method == "eth_sendRawTransaction":
            reached.set()
            await asyncio.Event().wait()

    if window == "W1":
        return keys
    if window in ("W2", "W3"):
        async with proxied(bench) as proxy:
            setattr(proxy, "before" if window == "W2" else "after", stop)
            for key in keys:
                bench.settle(key)
            await bench.until(reached.is_set)
            await bench.kill()
        return keys
    bench.hooks.block_reports = window == "W5"
    bench.mining(window == "W5")
    for key in keys:
        bench.settle(key)
    state = "mined" if window == "W5" else "sent"
    await bench.until(lambda: [row for row in bench.txs() if row.state == state])
    await bench.kill()
    bench.hooks.block_reports = False
    return keys


WINDOWS = ("W1", "W2", "W3", "W4", "W5")


@pytest.mark.parametrize("window", WINDOWS)
async def test_crash__restarted__each_ended_exactly_once(bench: Bench, window: str) -> None:
    """After a crash each stored, unmined transaction is accounted for before anything new is signed."""
    keys = await crashed(bench, window)
    await bench.restart()
    for key in keys:
        bench.settle(key)  # the actions are still open
    bench.mining(True)
    await bench.until(lambda: not bench.sender.busy, mine=True)
    assert sorted(bench.ended()) == [key.session_id for key in keys]
    nonces = [row.nonce for row in bench.txs()]
    assert len(nonces) == len(set(nonces)) == bench.nonce()


@pytest.mark.parametrize("window", WINDOWS)
async def test_crash__restarted_when_a_tutor_is_in_the_next_lesson__that_one_is_untouched(
    bench: Bench, window: str
) -> None:
    keys = await crashed(bench, window)
    bench.mining(False)
    if bench.world.is_active(0):
        bench.pay(keys[0].student, "endSession(address)", keys[0].tutor)
        bench.mine_dear()
    bench.pay(keys[0].student, "startSession(address,uint8)", keys[0].tutor, ENGLISH)
    bench.mine_dear()
    assert bench.world.is_active(0)
    await bench.restart()
    for key in keys:
        bench.settle(key)
    bench.mining(True)
    await bench.until(lambda: not bench.sender.busy, mine=True)
    assert sorted(bench.ended()) == [key.session_id for key in keys]
    assert bench.world.is_active(0)
