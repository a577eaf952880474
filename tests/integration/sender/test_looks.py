"""What the sender asks of its node, how often, and what it rests a signature on."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from typing import Any

from bot.chain import codec
from bot.chain.fees import GWEI
from bot.chain.sender.outbox import FREE_GAS, SAY_S
from tests.support.sender import Bench, error, proxied, quiet_blocks, unmined
from tests.support.servers import until


class Asked:
    """Counts what passes a proxy; simulations are the calls of `endSession`."""

    def __init__(self) -> None:
        self.methods: Counter[str] = Counter()
        self.simulations = 0

    async def __call__(self, method: str, params: list[Any]) -> None:
        self.methods[method] += 1
        self.simulations += method == "eth_call" and str(params[0]["data"]).startswith(codec.END_SESSION)


# Looking ahead -------------------------------------------------------------------------------------------------------


async def test_expect__then_asked_for_at_the_same_head__one_look_serves(bench: Bench) -> None:
    """A look may be taken ahead, while what asks for it is still being stored"""
    key = bench.lesson()
    asked = Asked()
    async with proxied(bench) as proxy:
        proxy.before = asked
        bench.look()
        await bench.until(lambda: bench.sender.balance_wei is not None)
        await asyncio.sleep(0.1)
        bench.mining(False)
        await bench.sender.expect([key])
        await bench.until(lambda: asked.simulations == 1)
        assert bench.txs() == []
        bench.settle(key)
        await bench.until(lambda: bench.txs())
        assert asked.simulations == 1
    bench.mining(True)


async def test_expect__over_at_the_next_head__looked_at_anew_and_nothing_is_sent(bench: Bench) -> None:
    """it serves for the same block only, and not for long. … A signature rests on one look at the head (`look`), and
    on nothing older."""
    key = bench.lesson()
    asked = Asked()
    async with proxied(bench) as proxy:
        proxy.before = asked
        bench.look()
        await bench.until(lambda: bench.sender.balance_wei is not None)
        await asyncio.sleep(0.1)
        await bench.sender.expect([key])
        await bench.until(lambda: asked.simulations == 1)
        bench.world.end()
        bench.settle(key)
        bench.look()
        assert await bench.outcome(mine=False) == "over"
    assert (asked.simulations, bench.txs()) == (2, [])


async def test_expect__nothing_is_asked_for__nothing_is_signed(bench: Bench) -> None:
    key = bench.lesson()
    bench.look()
    await bench.until(lambda: bench.sender.balance_wei is not None)
    await bench.sender.expect([key])
    await quiet_blocks(bench, 2, GWEI)
    assert (bench.txs(), bench.hooks.reports, bench.ended()) == ([], [], [])


# How often -----------------------------------------------------------------------------------------------------------


async def test_watch__several_mined_in_one_block__told_at_once_and_each_receipt_asked_for_once(bench: Bench) -> None:
    """What one head says of all of them is stored together, and told together. Doesn't ask again what can't have
    changed: a receipt is asked for once its nonce is used"""
    keys = [bench.lesson(n, n) for n in range(3)]
    asked = Asked()
    async with proxied(bench) as proxy:
        proxy.before = asked
        bench.mining(False)
        for key in keys:
            bench.settle(key)
        await bench.until(lambda: [row.state for row in bench.txs()] == ["sent"] * 3)
        bench.look()
        await asyncio.sleep(0.2)
        assert asked.methods["eth_getTransactionReceipt"] == 0
        await bench.outcome(3)
        await bench.until(lambda: {row.state for row in bench.txs()} == {"confirmed"}, mine=True)
    assert bench.hooks.told_at_once == [3]
    assert asked.methods["eth_getTransactionReceipt"] == 3
    assert sorted(bench.ended()) == [key.session_id for key in keys]


# Nodes ---------------------------------------------------------------------------------------------------------------


async def test_settle__websocket_endpoint_and_a_dead_one__ended(bench: Bench) -> None:
    """`RPC_URL` takes a comma-separated list (http(s), ws(s)), with failover"""
    key = bench.lesson()
    await bench.kill()
    bench.urls = ["http://127.0.0.1:9", bench.world.node.url.replace("http://", "ws://")]
    bench.boot()
    bench.settle(key)
    assert await bench.outcome() == "settled"
    assert bench.ended() == [key.session_id]


async def test_send__every_node_answers_with_an_unknown_error__counts_as_broadcast(bench: Bench) -> None:
    """A stored transaction counts as broadcast. While a nonce signed for a session may still be used, nothing is
    signed for that session at another nonce."""
    key = bench.lesson()
    bench.mining(False)
    refuses = True

    def answer(method: str, params: list[Any]) -> dict[str, Any] | None:
        return error("internal error") if refuses and method == "eth_sendRawTransaction" else None

    async def drop(method: str, params: list[Any]) -> None:
        if refuses and method == "eth_sendRawTransaction":
            for row in bench.txs():
                bench.world.node.rpc("anvil_dropTransaction", row.hash)

    async with proxied(bench) as proxy:
        proxy.instead, proxy.after = answer, drop
        bench.settle(key)
        await bench.until(lambda: bench.txs())
        await quiet_blocks(bench, 2, GWEI)
        await bench.kill()
        bench.boot()
        bench.settle(key)
        await quiet_blocks(bench, 2, GWEI)
        assert {row.nonce for row in bench.txs()} == {bench.nonce()}
        assert {row.state for row in bench.txs()} == {"stored"}
        assert bench.hooks.reports == []
        refuses = False
        assert await bench.outcome() == "settled"
    assert bench.ended() == [key.session_id]


# A delegated account -------------------------------------------------------------------------------------------------


async def test_retract__owner_is_a_delegated_account__the_self_transfer_has_gas_for_its_code(bench: Bench) -> None:
    """The self-transfer's gas limit allows for a delegated account (> 21,000)."""
    node, owner = bench.world.node, bench.world.owner
    code = "0x" + "d1" * 20
    node.rpc("anvil_setCode", code, "0x60006000a000")  # takes anything, and says so in a log
    node.rpc("anvil_setCode", owner, "0xef0100" + code[2:])
    key = await unmined(bench)
    bench.hooks.due = False
    bench.mine_dear()
    await bench.until(lambda: len(bench.txs()) == 2)
    assert await bench.outcome() == "retracted"
    receipt = node.rpc("eth_getTransactionReceipt", bench.txs()[1].hash)
    assert receipt["status"] == "0x1"
    assert 21_000 < int(receipt["gasUsed"], 16) <= FREE_GAS
    assert (bench.ended(), bench.world.is_active(0)) == ([], True)
    assert key.session_id


async def test_send__answer_comes_while_its_receipt_is_being_stored__stays_mined_and_is_told_once(bench: Bench) -> None:
    key = bench.lesson()
    answer, hold, busy = asyncio.Event(), threading.Event(), threading.Event()

    async def late(method: str, params: list[Any]) -> None:
        if method == "eth_sendRawTransaction":
            await answer.wait()

    def occupied(_: Any) -> None:
        busy.set()
        hold.wait(10)

    async with proxied(bench) as proxy:
        proxy.after = late
        bench.look()
        bench.settle(key)
        await until(lambda: key.session_id in bench.ended())
        await asyncio.sleep(SAY_S + 0.5)
        store = asyncio.ensure_future(bench.writer(occupied))
        await asyncio.to_thread(busy.wait, 10)
        bench.look()
        await asyncio.sleep(0.5)  # what its block says of it waits to be stored
        answer.set()
        await asyncio.sleep(0.5)
        hold.set()
        await store
        await bench.until(lambda: bench.txs()[0].state == "confirmed", mine=True)
    assert bench.hooks.outcomes == ["settled"]
    assert bench.steps(bench.txs()[0].hash) == ["stored", "mined", "confirmed"]
