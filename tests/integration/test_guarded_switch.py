"""The key is changed, and with it the mode, while transactions of the earlier one are under way."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from bot.chain import guard_codec
from bot.chain.envelope import called
from bot.chain.errors import Unreachable
from bot.chain.fees import GWEI, Caps
from bot.chain.guard import delegation
from bot.chain.rpc import Rpc
from bot.chain.sender.former import Former
from bot.chain.sender.look import Standing
from bot.domain.facts import SessionKey
from tests.support.anvil import ENGLISH, OWNER_KEY, World, langdao
from tests.support.guarded import KEEPER, KEEPER_KEY, delegate, deploy_guard
from tests.support.sender import HIGH_FEE, Bench, Proxy, benched, error, foreign, proxied, quiet_blocks
from tests.support.servers import free_port, serving


@pytest.fixture(scope="module")
def chain() -> Iterator[World]:
    """Its owner's account isn't delegated yet."""
    with langdao("--order", "fees") as world:
        yield world


NONCES = itertools.count(1_000, 1_000)


@pytest.fixture
async def bench(chain: World, tmp_path: Path) -> AsyncIterator[Bench]:
    # What is signed in one test is signed in no other: Anvil knows by its hash also what it has taken back.
    chain.node.rpc("anvil_setNonce", chain.owner, hex(next(NONCES)))
    async with benched(chain, f"sqlite:///{tmp_path}/keeper.db", OWNER_KEY) as bench:
        assert bench.sender.mode == "direct"
        yield bench


async def direct_in_flight(bench: Bench) -> SessionKey:
    """A settlement of direct mode that is broadcast and not mined."""
    key = bench.lesson()
    bench.mining(False)
    bench.settle(key)
    await bench.until(lambda: [row for row in bench.txs() if row.state == "sent"])
    return key


async def dear_blocks(bench: Bench, blocks: int) -> None:
    """Blocks that take nothing of ours. Anvil drops what is too cheap; other nodes don't."""
    raw = bench.txs()[0].raw
    for _ in range(blocks):
        bench.mine_dear(HIGH_FEE)
        bench.world.node.rpc("anvil_setNextBlockBaseFeePerGas", hex(GWEI))
        bench.world.node.rpc("eth_sendRawTransaction", raw)
        bench.look()
        await asyncio.sleep(0.15)


async def switch(bench: Bench, key: str, mode: str) -> None:
    """Another process, with another key."""
    await bench.kill()
    bench.key, bench.urls = key, [bench.world.node.url]
    bench.boot()
    assert bench.sender.mode == mode


async def to_guarded(bench: Bench) -> None:
    """Whoever delegates waits until none of the owner's transactions is pending; Anvil's cheat stands for chance."""
    guard = bench.guards.pop() if bench.guards else None
    assert guard is not None
    bench.world.node.rpc("anvil_setCode", bench.world.owner, "0xef0100" + guard[2:])
    await switch(bench, KEEPER_KEY, "guarded")


@pytest.fixture
def guard(bench: Bench) -> Bench:
    bench.guards.append(deploy_guard(bench.world))
    return bench


async def test_to_guarded__direct_one_in_flight__waited_for_reported_and_not_signed_again(guard: Bench) -> None:
    """While any endpoint knows an unmined one, its sessions are signed for by no other key"""
    bench = guard
    key = await direct_in_flight(bench)
    await to_guarded(bench)
    action = bench.settle(key)  # still open
    await dear_blocks(bench, 2)
    assert len(bench.txs()) == 1
    bench.world.node.rpc("anvil_setNextBlockBaseFeePerGas", hex(GWEI))
    assert await bench.outcome() == "settled"
    assert bench.hooks.reports == [(key, action, "settled", None)]
    bench.mining(True)
    other = bench.lesson(1, 1)
    bench.settle(other)
    assert await bench.outcome(2) == "settled"
    assert bench.ended() == [key.session_id, other.session_id]
    assert {row.sender for row in bench.txs()} == {bench.world.owner, KEEPER}
    await bench.until(lambda: all(row.closed for row in bench.txs()), mine=True)
    assert bench.hooks.alerts == []


async def test_to_guarded__node_fails_at_first__reported_once(guard: Bench) -> None:
    bench = guard
    key = await direct_in_flight(bench)
    await to_guarded(bench)
    bench.mining(True)
    bench.world.node.mine()
    fails = iter([True, True])
    async with proxied(bench) as proxy:
        proxy.instead = lambda method, _: error("busy") if method == "eth_getBalance" and next(fails, False) else None
        assert await bench.outcome() == "settled"
        await bench.until(lambda: all(row.state == "confirmed" for row in bench.txs()), mine=True)
    assert [(told, outcome) for told, _, outcome, _ in bench.hooks.reports] == [(key, "settled")]
    assert bench.steps(bench.txs()[0].hash) == ["stored", "sent", "mined", "confirmed"]


async def test_delegation__revoked_a_block_later__said_of_the_block_that_was_asked_for(guard: Bench) -> None:
    """what is said of a delegation is said of one block"""
    bench, node, [at] = guard, guard.world.node, guard.guards
    heads = []
    for code in ("0xef0100" + at[2:], "0x"):
        node.rpc("anvil_setCode", bench.world.owner, code)
        node.mine()
        heads.append(node.header())
        node.mine()  # with this one Anvil keeps what the block before it left
    rpc = Rpc([node.url])
    for name in ("number", "hash"):
        blocks = [int(head["number"], 16) if name == "number" else head["hash"] for head in heads]
        said = [await delegation(rpc, bench.world.owner, block) for block in blocks]
        assert [one.admits(KEEPER, bench.world.contract) for one in said] == [True, False]
    await rpc.close()


async def test_to_guarded__the_days_budget_is_under_way_by_the_former_key__another_waits(guard: Bench) -> None:
    """So long it counts for the day's budget too, at the most that it can cost."""
    bench = guard
    other = bench.lesson(1, 1)
    key = await direct_in_flight(bench)
    most, need = 300_000 * int(bench.txs()[0].max_fee), guard_codec.gas_limit(1, 300_000) * GWEI
    bench.config = {"caps": Caps.of(1.25, 5), "daily_budget_wei": most + need - 1}  # the other bids 1 gwei
    await to_guarded(bench)
    bench.settle(other)
    await dear_blocks(bench, 2)
    assert (len(bench.txs()), bench.hooks.reports, bench.hooks.alerts) == (1, [], [])
    bench.world.node.rpc("anvil_setNextBlockBaseFeePerGas", hex(GWEI))
    await bench.outcome(2)
    assert [(told, outcome) for told, _, outcome, _ in bench.hooks.reports] == [(key, "settled"), (other, "settled")]


@pytest.mark.provokes("alert.former-key")
@pytest.mark.provokes("alert.gas-budget")
async def test_to_guarded__the_budget_is_under_way_at_the_very_first_head__nothing_is_replaced(guard: Bench) -> None:
    """So long it counts for the day's budget too, at the most that it can cost: from the start on, before it was looked
    at."""
    bench = guard
    other = bench.lesson(1, 1)
    await direct_in_flight(bench)
    await to_guarded(bench)
    bench.settle(other)
    await bench.until(lambda: len(bench.txs()) == 2 and bench.txs()[1].state == "sent")
    await bench.kill()
    former, ours = bench.txs()
    for _ in range(4):  # older than REPLACE_AFTER_BLOCKS
        bench.mine_dear(HIGH_FEE)
    bench.world.node.rpc("anvil_setNextBlockBaseFeePerGas", hex(GWEI))
    for row in (former, ours):
        bench.world.node.rpc("eth_sendRawTransaction", row.raw)
    bench.config = {"daily_budget_wei": sum(row.gas * int(row.max_fee) for row in (former, ours)) + 1}
    bench.boot()
    bench.look()
    await bench.until(lambda: bench.hooks.alerts)
    assert bench.hooks.alerts == ["alert.gas-budget"]
    assert len(bench.txs()) == 2


async def test_to_guarded__a_look_at_it_fails__holds_and_counts_what_was_known(
    guard: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An endpoint that doesn't answer counts by what it said last"""
    bench, watch = guard, Former.watch
    heads: list[Standing] = []

    async def noted(former: Former, standing: Standing, requested: dict[SessionKey, int]) -> None:
        await watch(former, standing, requested)
        heads.append(standing)

    async def fails(*_: object) -> None:
        raise Unreachable("everywhere", "no answer")

    monkeypatch.setattr(Former, "watch", noted)
    key = await direct_in_flight(bench)
    await to_guarded(bench)
    await dear_blocks(bench, 1)
    await bench.until(lambda: heads)
    former = bench.sender._former
    known = former.held, former.under_way_wei
    assert (known[0], known[1] > 0) == ({key}, True)
    monkeypatch.setattr(Rpc, "each_as", fails)
    with pytest.raises(Unreachable):
        await watch(former, heads[-1], {})
    assert (former.held, former.under_way_wei) == known


async def test_to_guarded__direct_one_is_stuck__alert_names_the_way_out(guard: Bench) -> None:
    """After REPLACE_AFTER_BLOCKS, `alert.former-key` says so."""
    bench = guard
    key = await direct_in_flight(bench)
    await to_guarded(bench)
    bench.settle(key)
    await dear_blocks(bench, 5)
    assert bench.hooks.alerts == ["alert.former-key"]
    assert bench.txs()[0].hash in bench.hooks.texts[0]
    assert len(bench.txs()) == 1
    foreign(bench, nonce=hex(bench.txs()[0].nonce), gas=hex(30_000))  # somebody with the owner's key uses its nonce
    assert await bench.outcome() == "lost"
    bench.settle(key)  # decided anew
    assert await bench.outcome(2) == "settled"
    assert bench.ended() == [key.session_id]


async def test_to_guarded__only_the_second_endpoint_knows_the_direct_one__waited_for(guard: Bench) -> None:
    """While any endpoint knows an unmined one, its sessions are signed for by no other key"""
    bench = guard
    key = await direct_in_flight(bench)
    await to_guarded(bench)
    async with proxied(bench) as proxy:
        proxy.instead = lambda method, _: {"result": None} if method == "eth_getTransactionByHash" else None
        await bench.kill()
        bench.urls.append(bench.world.node.url)
        bench.boot()
        bench.settle(key)
        await dear_blocks(bench, 5)
        assert len(bench.txs()) == 1
        assert bench.hooks.alerts == ["alert.former-key"]
        bench.world.node.rpc("anvil_setNextBlockBaseFeePerGas", hex(GWEI))
        assert await bench.outcome() == "settled"


async def test_to_guarded__the_endpoint_that_knew_it_is_silent__counts_by_what_it_said_last(guard: Bench) -> None:
    """An endpoint that doesn't answer counts by what it said last"""
    bench = guard
    key = await direct_in_flight(bench)
    await to_guarded(bench)
    silent = False

    async def fall_silent(method: str, params: list[object]) -> None:
        if silent:
            raise ConnectionError("gone")

    async with proxied(bench) as knows:
        knows.before = fall_silent
        blind = Proxy(bench.world.node.url)
        blind.instead = lambda method, _: {"result": None} if method == "eth_getTransactionByHash" else None
        async with serving(blind) as url:
            await bench.kill()
            bench.urls.insert(0, url)
            bench.boot()
            await dear_blocks(bench, 1)
            silent = True
            bench.settle(key)
            await dear_blocks(bench, 5)
            assert len(bench.txs()) == 1


async def test_to_guarded__one_endpoint_has_never_answered__waited_for_some_blocks_then_ended(guard: Bench) -> None:
    """one that has said nothing yet is waited for, REPLACE_AFTER_BLOCKS long"""
    bench = guard
    key = await direct_in_flight(bench)
    await to_guarded(bench)
    bench.world.node.rpc("anvil_dropTransaction", bench.txs()[0].hash)
    await bench.kill()
    bench.urls.append(f"http://127.0.0.1:{free_port()}")
    bench.boot()
    bench.settle(key)
    for _ in range(3):
        bench.world.node.mine()
        bench.look()
        await asyncio.sleep(0.15)
        assert len(bench.txs()) == 1
    assert await bench.outcome() == "settled"
    assert bench.ended() == [key.session_id]


async def test_to_guarded__direct_one_was_never_sent__ended_by_the_guard_and_never_said(guard: Bench) -> None:
    """Nothing of it is said to a node again"""
    bench = guard
    key = bench.lesson()
    reached = asyncio.Event()

    async def stop(method: str, params: list[object]) -> None:
        if method == "eth_sendRawTransaction":
            reached.set()
            await asyncio.Event().wait()

    async with proxied(bench) as proxy:
        proxy.before = stop
        bench.settle(key)
        await bench.until(reached.is_set)
        await bench.kill()
    await to_guarded(bench)
    bench.settle(key)
    assert await bench.outcome() == "settled"
    assert bench.ended() == [key.session_id]
    assert bench.world.node.rpc("eth_getTransactionByHash", bench.txs()[0].hash) is None


async def test_to_guarded__direct_one_hits_the_next_lesson__reported_as_wrong_session(guard: Bench) -> None:
    """It is watched, reported and stored as if its key were here"""
    bench = guard
    key = await direct_in_flight(bench)
    await to_guarded(bench)
    bench.settle(key)
    bench.pay(key.student, "endSession(address)", key.tutor, fee=3 * HIGH_FEE)
    bench.pay(bench.world.students[1], "startSession(address,uint8)", key.tutor, ENGLISH, fee=2 * HIGH_FEE)
    assert await bench.outcome() == "over"
    assert bench.hooks.alerts == ["alert.wrong-session"]


async def test_to_direct__guarded_batch_in_flight__waited_for_and_each_ended_once(guard: Bench) -> None:
    bench = guard
    delegate(bench.world, bench.guards[0])
    await switch(bench, KEEPER_KEY, "guarded")
    keys = [bench.lesson(number, number) for number in range(2)]
    bench.mining(False)
    for key in keys:
        bench.settle(key)
    await bench.until(lambda: [row for row in bench.txs() if row.state == "sent"])
    await bench.kill()
    bench.world.node.rpc("anvil_setCode", bench.world.owner, "0x")
    await switch(bench, OWNER_KEY, "direct")
    for key in keys:
        bench.settle(key)
    await dear_blocks(bench, 2)
    assert len(bench.txs()) == 1  # nothing new while it may be mined
    bench.world.node.rpc("anvil_setNextBlockBaseFeePerGas", hex(GWEI))
    await bench.until(lambda: len(bench.hooks.reports) >= 2, mine=True)
    assert bench.hooks.outcomes[:2] == ["refused", "refused"]  # by then it was a call to a plain account
    for key in keys:
        bench.settle(key)
    await bench.until(lambda: bench.hooks.outcomes[2:] == ["settled", "settled"], mine=True)
    assert sorted(bench.ended()) == [key.session_id for key in keys]


# The owner's key goes on, and only the account's code changes --------------------------------------------------------


async def test_to_guarded__with_the_owners_key_a_direct_one_in_flight__still_retracted_when_the_slot_changes(
    guard: Bench,
) -> None:
    """Which of the two it is, the transaction says, and not the mode"""
    bench = guard
    key = await direct_in_flight(bench)
    await bench.kill()
    bench.world.node.rpc("anvil_setCode", bench.world.owner, "0xef0100" + bench.guards[0][2:])
    await switch(bench, OWNER_KEY, "guarded")
    bench.pay(key.student, "endSession(address)", key.tutor)
    bench.mine_dear()
    bench.pay(bench.world.students[1], "startSession(address,uint8)", key.tutor, ENGLISH)
    bench.mine_dear()
    await bench.until(lambda: len(bench.txs()) == 2)
    assert [row.kind for row in bench.txs()] == ["settle", "retract"]
    bench.world.node.rpc("anvil_setNextBlockBaseFeePerGas", hex(GWEI))
    assert await bench.outcome() == "retracted"
    assert bench.ended() == [key.session_id]
    assert bench.world.is_active(0)


async def test_to_guarded__with_the_owners_key_a_direct_one_too_cheap__replaced_by_a_guarded_one(guard: Bench) -> None:
    bench = guard
    key = await direct_in_flight(bench)
    await bench.kill()
    bench.world.node.rpc("anvil_setCode", bench.world.owner, "0xef0100" + bench.guards[0][2:])
    await switch(bench, OWNER_KEY, "guarded")
    await dear_blocks(bench, 4)
    await bench.until(lambda: len(bench.txs()) == 2)
    first, second = bench.txs()
    assert (called(first.raw), called(second.raw)) == (bench.world.contract.lower(), bench.world.owner.lower())
    assert await bench.outcome() == "settled"
    assert bench.ended() == [key.session_id]


async def test_to_direct__with_the_owners_key_a_guarded_batch_too_cheap__replaced_by_one_end_and_the_rest_follows(
    guard: Bench,
) -> None:
    bench = guard
    bench.world.node.rpc("anvil_setCode", bench.world.owner, "0xef0100" + bench.guards[0][2:])
    await switch(bench, OWNER_KEY, "guarded")
    keys = [bench.lesson(number, number) for number in range(2)]
    bench.mining(False)
    for key in keys:
        bench.settle(key)
    await bench.until(lambda: [row for row in bench.txs() if row.state == "sent"])
    await bench.kill()
    bench.world.node.rpc("anvil_setCode", bench.world.owner, "0x")
    await switch(bench, OWNER_KEY, "direct")
    await quiet_blocks(bench, 4)
    await bench.until(lambda: len(bench.txs()) == 2)
    assert bench.sessions(bench.txs()[1].hash) == [str(keys[0])]
    bench.world.node.rpc("anvil_setNextBlockBaseFeePerGas", hex(GWEI))
    await bench.until(lambda: len(bench.hooks.reports) >= 2, mine=True)
    assert bench.hooks.outcomes == ["settled", "retracted"]
    bench.settle(keys[1])
    assert await bench.outcome(3) == "settled"
    assert bench.ended() == [key.session_id for key in keys]
