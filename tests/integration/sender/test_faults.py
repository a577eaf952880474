"""The sender when ends stop being due, fees rise and nodes give trouble."""

from __future__ import annotations

import asyncio
from typing import Any

from bot.chain.fees import GWEI
from bot.domain.urgency import Urgency
from tests.support.sender import Bench, error, foreign, proxied, quiet_blocks, unmined

# No longer due -------------------------------------------------------------------------------------------------------


async def test_unmined__hint_withdrawn__retracted_at_its_nonce(bench: Bench) -> None:
    """As soon as … its end isn't due any more, it is retracted: its nonce is used for nothing"""
    key = await unmined(bench)
    bench.hooks.due = False
    bench.mine_dear()
    await bench.until(lambda: len(bench.txs()) == 2)
    settle, retract = bench.txs()
    assert (retract.kind, retract.nonce) == ("retract", settle.nonce)
    assert await bench.outcome() == "retracted"
    assert (bench.ended(), bench.world.is_active(0)) == ([], True)
    bench.hooks.due = True
    bench.mining(True)
    bench.settle(key)
    assert await bench.outcome(2) == "settled"


async def test_unmined__paused__neither_replaced_nor_retracted(bench: Bench) -> None:
    """A pause withdraws nothing."""
    await unmined(bench)
    bench.hooks.paused = True
    await quiet_blocks(bench, 5)
    assert [row.kind for row in bench.txs()] == ["settle"]
    bench.hooks.paused = False
    assert await bench.outcome() == "settled"


# Fees ----------------------------------------------------------------------------------------------------------------


async def test_unmined__base_fee_spike__follows_it_within_its_caps(bench: Bench) -> None:
    """It never pays more than its caps."""
    key = await unmined(bench)
    for _ in range(12):
        if bench.hooks.reports:
            break
        await quiet_blocks(bench, 1, 20 * GWEI)
    assert await bench.outcome() == "settled"
    bids = [int(row.max_fee) for row in bench.txs()]
    assert bids == sorted(bids)
    assert bids[-1] <= 80 * GWEI
    assert bench.ended() == [key.session_id]


async def test_unmined__urgent_one_behind__the_lowest_nonce_leads(bench: Bench) -> None:
    """The lowest unmined nonce is the first to be replaced, and bids at least as high as any behind it."""
    keys = [bench.lesson(n, n) for n in range(2)]
    bench.mining(False)

    def prices(method: str, params: list[Any]) -> dict[str, Any] | None:
        tips = [[hex(GWEI), hex(2 * GWEI), hex(9 * GWEI)]]
        return {"result": {"baseFeePerGas": [hex(GWEI)], "reward": tips}} if method == "eth_feeHistory" else None

    async with proxied(bench) as proxy:
        proxy.instead = prices
        bench.settle(keys[0])
        await bench.until(lambda: len(bench.txs()) == 1)
        bench.hooks.urgent[keys[1]] = Urgency.CLAIM
        bench.settle(keys[1])
        await bench.until(lambda: len(bench.txs()) == 2)
        bench.mine_dear(15 * GWEI)
        await bench.until(lambda: len(bench.txs()) == 3)
        first, urgent, leader = bench.txs()
        assert int(urgent.tip) == 9 * GWEI
        assert leader.nonce == first.nonce
        assert int(leader.tip) >= int(urgent.tip)
        assert int(leader.max_fee) >= int(urgent.max_fee)
        await bench.outcome(2)
    assert sorted(bench.ended()) == [key.session_id for key in keys]


async def test_settle__node_without_base_fees__legacy_transaction(bench: Bench) -> None:
    """Where there is no base fee, both fields are the gas price of old."""
    key = bench.lesson()
    async with proxied(bench) as proxy:
        proxy.instead = lambda method, _: error("the method is not available") if method == "eth_feeHistory" else None
        bench.settle(key)
        assert await bench.outcome() == "settled"
    [row] = bench.txs()
    assert bench.world.node.rpc("eth_getTransactionByHash", row.hash)["type"] == "0x0"
    assert row.tip == row.max_fee


# Nodes ---------------------------------------------------------------------------------------------------------------


async def test_send__pool_is_full__fewer_at_a_time_then_all(bench: Bench) -> None:
    """`Limit` halves when a node has enough of us and grows again by one for each transaction mined."""
    keys = [bench.lesson(n, n) for n in range(3)]
    full = True
    bench.mining(False)
    async with proxied(bench) as proxy:

        def answer(method: str, params: list[Any]) -> dict[str, Any] | None:
            return error("txpool is full") if full and method == "eth_sendRawTransaction" else None

        async def drop(method: str, params: list[Any]) -> None:
            if full and method == "eth_sendRawTransaction":
                for row in bench.txs():
                    bench.world.node.rpc("anvil_dropTransaction", row.hash)

        proxy.instead, proxy.after = answer, drop
        for key in keys:
            bench.settle(key)
        await bench.until(lambda: len(bench.txs()) == 3)
        await bench.until(lambda: bench.sender._outbox.limit.now < 64)
        full = False
        await bench.outcome(3)
    assert sorted(bench.ended()) == [key.session_id for key in keys]
    assert len(bench.txs()) == 3
    assert bench.sender.in_flight == 0


async def test_unmined__dropped_by_the_node__said_again(bench: Bench) -> None:
    """looked up by hash and nonce: what no node knows any more is said again, the same bytes"""
    key = await unmined(bench)
    bench.world.node.rpc("anvil_dropTransaction", bench.txs()[0].hash)
    assert await bench.outcome() == "settled"
    assert len(bench.txs()) == 1
    assert bench.ended() == [key.session_id]


async def test_send__node_says_already_known__as_good_as_accepted(bench: Bench) -> None:
    key = bench.lesson()
    async with proxied(bench) as proxy:
        proxy.instead = lambda method, _: error("already known") if method == "eth_sendRawTransaction" else None
        bench.settle(key)
        assert await bench.outcome() == "settled"
    assert bench.steps(bench.txs()[0].hash)[:2] == ["stored", "sent"]


async def test_send__first_endpoint_dies_in_the_middle__the_second_takes_it(bench: Bench) -> None:
    """broadcast to all endpoints; failing over in the middle"""
    key = bench.lesson()
    dead = False

    async def die(method: str, params: list[Any]) -> None:
        nonlocal dead
        dead = dead or method == "eth_sendRawTransaction"
        if dead:
            raise ConnectionError("gone")

    async with proxied(bench) as proxy:
        await bench.kill()
        bench.urls.append(bench.world.node.url)
        bench.boot()
        proxy.before = die
        bench.settle(key)
        assert await bench.outcome() == "settled"
    assert len(bench.txs()) == 1


async def test_settle__first_endpoint_lags__the_one_that_has_the_block_is_asked(bench: Bench) -> None:
    """An endpoint that lacks that block isn't used."""
    key = bench.lesson()

    def lags(method: str, params: list[Any]) -> dict[str, Any] | None:
        behind = method in ("eth_call", "eth_getTransactionCount") and isinstance(params[-1], dict)
        return error("header for hash not found") if behind else None

    async with proxied(bench) as proxy:
        proxy.instead = lags
        bench.settle(key)
        for _ in range(4):
            bench.look()
            await asyncio.sleep(0.1)
        assert bench.txs() == []
        await bench.kill()
        bench.urls.append(bench.world.node.url)
        bench.boot()
        bench.settle(key)
        await bench.until(lambda: bench.ended() == [key.session_id])


async def test_send__one_endpoint_never_answers__the_other_isnt_waited_for(bench: Bench) -> None:
    """One slow endpoint delays nothing: who hasn't answered within SAY_S is heard in the background."""
    key = bench.lesson()

    async def hang(method: str, params: list[Any]) -> None:
        if method == "eth_sendRawTransaction":
            await asyncio.Event().wait()

    async with proxied(bench) as proxy:
        proxy.before = hang
        await bench.kill()
        bench.urls.insert(0, bench.world.node.url)
        bench.boot()
        bench.settle(key)
        assert await bench.outcome() == "settled"
        assert "sent" not in bench.steps(bench.txs()[0].hash)  # the other still hasn't answered


async def test_send__node_takes_it_and_never_answers__found_by_its_hash_and_not_signed_again(bench: Bench) -> None:
    """RPC accepting but answering with a time-out: "perhaps accepted", looked up by hash and nonce."""
    key = bench.lesson()

    async def hang(method: str, params: list[Any]) -> None:
        if method == "eth_sendRawTransaction":
            await asyncio.Event().wait()

    async with proxied(bench) as proxy:
        proxy.after = hang
        bench.settle(key)
        assert await bench.outcome() == "settled"
    assert [row.kind for row in bench.txs()] == ["settle"]
    assert bench.ended() == [key.session_id]


async def test_settle__only_another_endpoint_knows_a_foreign_transaction__signed_above_it(bench: Bench) -> None:
    """The next nonce is above what any endpoint knows to be pending and above every live row of ours."""
    key = bench.lesson()
    bench.mining(False)
    nonce = bench.nonce()
    foreign(bench)

    def blind(method: str, params: list[Any]) -> dict[str, Any] | None:
        pending = method == "eth_getTransactionCount" and params[1] == "pending"
        return {"result": hex(nonce)} if pending else None

    async with proxied(bench) as proxy:
        proxy.instead = blind
        await bench.kill()
        bench.urls.append(bench.world.node.url)
        bench.boot()
        bench.settle(key)
        await bench.until(lambda: bench.txs())
        assert bench.txs()[0].nonce == nonce + 1
        assert await bench.outcome() == "settled"


async def test_settle__many_at_once__one_question_about_the_pool(bench: Bench) -> None:
    """One eth_getBlockByNumber(pending) a round, not one a settlement."""
    keys = [bench.lesson(n, n) for n in range(3)]
    asked = 0

    async def count(method: str, params: list[Any]) -> None:
        nonlocal asked
        asked += method == "eth_getBlockByNumber" and params[0] == "pending"

    async with proxied(bench) as proxy:
        proxy.before = count
        for key in keys:
            bench.settle(key)
        await bench.outcome(3)
    assert asked == 1
