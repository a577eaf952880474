"""What the sender's modules promise and no other test shows; each test quotes the promise."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError

from bot.chain import codec
from bot.chain.fees import GWEI
from bot.domain.urgency import Urgency
from bot.store import txs
from tests.support.anvil import CallFailed
from tests.support.sender import HIGH_FEE, Bench, foreign, proxied, unmined
from tests.support.servers import until


async def test_settle__stored__by_a_transaction_that_reached_the_disk(bench: Bench) -> None:
    """Every transaction was stored, signed, durably (`synchronous=FULL`), before its first byte left."""
    said: list[str] = []
    bench.database.engine.dispose()
    event.listen(bench.database.engine, "connect", lambda connection, _: connection.set_trace_callback(said.append))
    bench.settle(bench.lesson())
    assert await bench.outcome() == "settled"
    stored = [number for number, one in enumerate(said) if one.startswith("INSERT INTO txs")]
    assert stored
    for number in stored:
        modes = [one for one in said[:number] if one.startswith("PRAGMA synchronous")]
        assert modes[-1] == "PRAGMA synchronous=FULL"


async def stored_and_not_said(bench: Bench, student: int = 0) -> Any:
    """Dies in W2; the session's key."""
    key = bench.lesson(student, student)
    reached = asyncio.Event()

    async def stop(method: str, params: list[Any]) -> None:
        if method == "eth_sendRawTransaction":
            reached.set()
            await asyncio.Event().wait()

    async with proxied(bench) as proxy:
        proxy.before = stop
        bench.settle(key)
        await bench.until(reached.is_set)
        await bench.kill()
    return key


async def test_crash__another_is_due_at_the_restart__the_stored_one_is_looked_up_and_said_first(bench: Bench) -> None:
    """After a crash each stored, unmined transaction is accounted for before anything new is signed"""
    key = await stored_and_not_said(bench)
    first = bench.txs()[0]
    asked: list[tuple[str, Any]] = []

    async def note(method: str, params: list[Any]) -> None:
        asked.append((method, params[0] if params else None))

    other = bench.lesson(1, 1)
    async with proxied(bench) as proxy:
        proxy.before = note
        bench.settle(other)
        await bench.until(lambda: len(bench.hooks.reports) == 2, mine=True)
    looked_up = asked.index(("eth_getTransactionByHash", first.hash))
    says = [number for number, (method, _) in enumerate(asked) if method == "eth_sendRawTransaction"]
    assert looked_up < says[0]
    assert asked[says[0]][1] == first.raw  # the same bytes
    assert sorted(bench.ended()) == [key.session_id, other.session_id]


async def test_crash__no_longer_due_at_the_restart__retracted_and_never_said(bench: Bench) -> None:
    """said again only if its session still holds at the newest block and its end is due; else retracted at its own
    nonce"""
    key = await stored_and_not_said(bench)
    first = bench.txs()[0]
    bench.hooks.alive.add(key)
    said: set[str] = set()  # on a busy machine the same one more than once

    async def note(method: str, params: list[Any]) -> None:
        if method == "eth_sendRawTransaction":
            said.add(params[0])

    async with proxied(bench) as proxy:
        proxy.before = note
        assert await bench.outcome() == "retracted"
    retracts = bench.txs()[1:]
    assert {(one.kind, one.nonce) for one in retracts} == {("retract", first.nonce)}
    assert said
    assert said <= {one.raw for one in retracts}
    assert bench.world.is_active(0)


async def test_look__what_a_signature_rests_on__is_of_one_block_by_its_hash(bench: Bench) -> None:
    """Slot and outcome of a call, nonce and balance are of one block, pinned by its hash."""
    key = bench.lesson()
    asked: list[tuple[str, list[Any]]] = []

    async def note(method: str, params: list[Any]) -> None:
        if params:
            asked.append((method, params))

    async with proxied(bench) as proxy:
        bench.mining(False)
        proxy.before = note
        bench.settle(key)
        await bench.until(lambda: bench.txs())
    head = bench.world.node.header()["hash"]
    pinned = [(method, params[-1]) for method, params in asked if isinstance(params[-1], dict)]
    assert {method for method, _ in pinned} >= {"eth_call", "eth_getTransactionCount", "eth_getBalance"}
    assert {at["blockHash"] for _, at in pinned} == {head}
    calls = [params for method, params in asked if method in ("eth_call", "eth_getBalance")]
    assert all(isinstance(params[-1], dict) for params in calls)
    assert any(str(params[0]["data"]).startswith(codec.END_SESSION) for params in calls if isinstance(params[0], dict))


async def test_look__another_endpoint_never_says_what_is_pending__isnt_waited_for(bench: Bench) -> None:
    """What is pending is asked anew for each look, of every endpoint that answers soon."""
    key = bench.lesson()

    async def hang(method: str, params: list[Any]) -> None:
        if method == "eth_getTransactionCount" and params[1] == "pending":
            await asyncio.Event().wait()

    async with proxied(bench) as proxy:
        proxy.before = hang
        await bench.kill()
        bench.urls.insert(0, bench.world.node.url)
        bench.boot()
        bench.settle(key)
        await bench.until(lambda: bench.sender.balance_wei is not None)
        await until(lambda: bench.txs(), timeout_s=4)  # the proxy's call ends after 5 s, by its time-out


async def test_settle__room_for_one__the_most_urgent_goes_first(bench: Bench) -> None:
    """The most urgent come first; one that waits doesn't hold up the others."""
    bench.config = {"max_in_flight": 1}
    await bench.restart()
    keys = [bench.lesson(n, n) for n in range(3)]
    bench.hooks.urgent = {keys[1]: Urgency.UNPAID, keys[2]: Urgency.CLAIM}
    bench.mining(False)
    for key in keys:
        bench.settle(key)
    await bench.until(lambda: len(bench.hooks.reports) == 3, mine=True)
    assert bench.ended() == [key.session_id for key in reversed(keys)]


async def kept_blocks(bench: Bench, blocks: int, again: Callable[[], Any]) -> None:
    """Blocks that take nothing of ours. Anvil drops what is too cheap; other nodes don't: `again` says it again."""
    for _ in range(blocks):
        bench.mine_dear(HIGH_FEE)
        bench.world.node.rpc("anvil_setNextBlockBaseFeePerGas", hex(GWEI))
        with contextlib.suppress(CallFailed):
            again()
        bench.look()
        await asyncio.sleep(0.2)


async def test_unmined__somebody_elses_is_pending_below__isnt_replaced(bench: Bench) -> None:
    """Nothing is replaced while a nonce below is missing or somebody else's."""
    key = bench.lesson()
    bench.mining(False)
    nonce = bench.nonce()
    cheap = {"nonce": hex(nonce), "maxFeePerGas": hex(3 * GWEI)}
    foreign(bench, **cheap)
    bench.settle(key)
    await bench.until(lambda: [row for row in bench.txs() if row.state == "sent"])
    assert bench.txs()[0].nonce == nonce + 1
    await kept_blocks(bench, 5, lambda: foreign(bench, **cheap))
    assert len(bench.txs()) == 1
    assert await bench.outcome() == "settled"


async def test_unmined__known_to_the_node__isnt_looked_up_again_until_it_is_old(bench: Bench) -> None:
    """After a crash each transaction is looked up; later those that may have gone: refused, old, taken back by a reorg,
    or above what the node says is pending."""
    await unmined(bench)
    raw = bench.txs()[0].raw
    looked_up = heads = 0

    async def count(method: str, params: list[Any]) -> None:
        nonlocal looked_up, heads
        looked_up += method == "eth_getTransactionByHash"
        heads += method == "eth_getBalance"

    def say() -> None:
        bench.world.node.rpc("eth_sendRawTransaction", raw)

    async with proxied(bench) as proxy:  # another process
        proxy.before = count
        bench.look()
        await bench.until(lambda: looked_up == 1)
        await kept_blocks(bench, 2, say)
        assert (heads, looked_up) == (3, 1)
        await kept_blocks(bench, 1, say)
        assert (heads, looked_up) == (4, 2)


async def test_txs__database_fails_in_a_step__neither_the_state_nor_its_fact_is_stored(bench: Bench) -> None:
    """a change of state and its fact are one transaction; what is read back is what was signed"""
    await unmined(bench)
    signed = bench.txs()[0]
    [tx] = await bench.writer(lambda session: txs.live(session, signed.sender))
    assert (tx.hash, tx.raw, tx.nonce, tx.max_fee) == (signed.hash, signed.raw, signed.nonce, int(signed.max_fee))
    assert bench.world.node.rpc("eth_getTransactionByHash", tx.hash)["nonce"] == hex(tx.nonce)
    broken = "CREATE TRIGGER broken BEFORE INSERT ON facts BEGIN SELECT RAISE(ABORT, 'the disk is gone'); END"
    await bench.writer(lambda session: session.connection().exec_driver_sql(broken))
    with pytest.raises(IntegrityError):
        await bench.writer(lambda session: txs.take(session, [txs.Step(tx, txs.LOST, {"state": txs.LOST})], 1))
    await bench.writer(lambda session: session.connection().exec_driver_sql("DROP TRIGGER broken"))
    assert bench.txs()[0].state == "sent"
    assert "lost" not in bench.steps(tx.hash)
