"""Looking, signing and storing ahead: what is done while the decision is stored and the chain works on its answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from bot.chain import codec
from bot.chain.fees import GWEI
from bot.domain.facts import SessionKey
from bot.store.tables import TxRow
from tests.integration.test_store import postgres, url
from tests.support.anvil import World
from tests.support.sender import Bench, benched, foreign, proxied
from tests.support.servers import until

__all__ = ["postgres", "url"]

AHEAD = """While the chain works on its answer to a look that was taken ahead, what it is expected to allow is signed
and stored already. If it allows just that, the bytes leave; else they are dropped before anything else is signed."""


@pytest.fixture
async def on_either(chain: World, url: str) -> AsyncIterator[Bench]:
    """A bench on SQLite and on a real PostgreSQL."""
    async with benched(chain, url) as bench:
        yield bench


class Held:
    """A node that takes its time with the first look: it goes on when something is stored, after `meanwhile`."""

    def __init__(self, bench: Bench, meanwhile: Callable[[], Any]) -> None:
        self._bench = bench
        self._meanwhile = meanwhile
        self.early: list[TxRow] = []
        self.said: list[str] = []
        self.said_before_the_answer = 0
        self.reached = asyncio.Event()

    async def __call__(self, method: str, params: list[Any]) -> None:
        if method == "eth_sendRawTransaction":
            self.said.append(params[0])
        simulates = method == "eth_call" and str(params[0]["data"]).startswith(codec.END_SESSION)
        if simulates and not self.reached.is_set():
            self.early = await until(self._bench.txs, timeout_s=4)  # less than the sender waits
            self.said_before_the_answer = len(self.said)
            self.reached.set()
            if asyncio.iscoroutine(waits := self._meanwhile()):
                await waits


@contextlib.asynccontextmanager
async def asked_for(bench: Bench, key: SessionKey, meanwhile: Callable[[], Any] = lambda: None) -> AsyncIterator[Held]:
    """Asks for the end of `key`, announced as the reconciler does; `meanwhile` happens before the chain answers."""
    async with proxied(bench) as proxy:
        bench.look()
        await bench.until(lambda: bench.sender.balance_wei is not None)
        await until(lambda: bench.sender._seen == bench.sender._head)  # only then it looks ahead
        held = Held(bench, meanwhile)
        proxy.before = held
        await bench.sender.expect([key])
        bench.settle(key)
        await until(held.reached.is_set)
        yield held


def steps(bench: Bench, held: Held) -> list[str]:
    [tx] = held.early
    return bench.steps(tx.hash)


async def test_settle__chain_allows_what_was_signed_ahead__its_bytes_leave_after_the_answer(bench: Bench) -> None:
    key = bench.lesson()
    async with asked_for(bench, key) as held:
        assert await bench.outcome() == "settled"
    assert held.said_before_the_answer == 0, AHEAD
    assert [row.raw for row in held.early] == held.said, AHEAD
    assert "dropped" not in steps(bench, held)
    assert bench.ended() == [key.session_id]


async def test_settle__session_is_over_by_the_answer__dropped_unsaid_and_the_nonce_is_free(on_either: Bench) -> None:
    """A stored transaction counts as broadcast, unless it was dropped before a byte of it left."""
    bench = on_either
    key = bench.lesson()
    bench.world.end(by=key.student)
    bench.look()
    async with asked_for(bench, key) as held:
        assert await bench.outcome(mine=False) == "over"
        assert (bench.txs(), held.said, bench.sender.in_flight) == ([], [], 0), AHEAD
        assert bench.sessions(held.early[0].hash) == []
        assert steps(bench, held) == ["stored", "dropped"]
        other = bench.lesson(1, 1)
        bench.settle(other)
        assert await bench.outcome(2) == "settled"
    assert [row.nonce for row in bench.txs()] == [held.early[0].nonce]
    assert bench.ended()[-1] == other.session_id


async def test_settle__somebody_else_took_the_nonce__dropped_and_signed_above_it(bench: Bench) -> None:
    """Never signs at a nonce where a foreign transaction is known pending"""
    key = bench.lesson()
    bench.mining(False)
    async with asked_for(bench, key, lambda: foreign(bench)) as held:
        await bench.until(lambda: [row for row in bench.txs() if row.state == "sent"])
        [row] = bench.txs()
        assert row.nonce == held.early[0].nonce + 1
        assert held.said == [row.raw], AHEAD
        assert steps(bench, held) == ["stored", "dropped"]
        assert await bench.outcome() == "settled"
    assert bench.ended() == [key.session_id]


async def test_settle__fewer_are_pending_than_the_head_was_told__dropped_and_no_nonce_is_skipped(bench: Bench) -> None:
    """A foreign one was dropped, or the endpoint that counted it had lied and another answers now."""
    key = bench.lesson()
    bench.mining(False)
    foreign(bench)
    theirs = bench.nonce()

    def gone() -> None:
        for tx in bench.world.node.rpc("eth_getBlockByNumber", "pending", True)["transactions"]:
            bench.world.node.rpc("anvil_dropTransaction", tx["hash"])

    async with asked_for(bench, key, gone) as held:
        await bench.until(lambda: [row for row in bench.txs() if row.state == "sent"])
        [row] = bench.txs()
        assert (held.early[0].nonce, row.nonce) == (theirs + 1, theirs)
        assert held.said == [row.raw], AHEAD
        assert steps(bench, held) == ["stored", "dropped"]
        assert await bench.outcome() == "settled"
    assert bench.ended() == [key.session_id]


async def test_settle__student_is_paying_by_the_answer__dropped_and_waited_for(bench: Bench) -> None:
    key = bench.lesson()
    bench.mining(False)
    bench.pay(key.student, "endSession(address)", key.tutor)
    async with asked_for(bench, key) as held:
        assert await bench.outcome(mine=False) == "waiting"
    assert (bench.txs(), held.said, bench.hooks.payers) == ([], [], [key.student]), AHEAD


async def test_settle__no_longer_due_before_the_answer__dropped_and_nothing_leaves(bench: Bench) -> None:
    key = bench.lesson()
    async with asked_for(bench, key, lambda: bench.hooks.alive.add(key)) as held:
        assert await bench.outcome(mine=False) == "withdrawn"
    assert (bench.txs(), held.said) == ([], []), AHEAD
    assert bench.world.is_active(0)


async def test_settle__chain_gives_no_answer__dropped_and_the_same_is_signed_later(on_either: Bench) -> None:
    """Signed again it may be the same, by its hash."""
    bench = on_either
    key = bench.lesson()

    def fails() -> None:
        raise ConnectionError

    bench.mining(False)
    async with asked_for(bench, key, fails) as held:
        await bench.until(lambda: [row for row in bench.txs() if row.state == "sent"])
        assert await bench.outcome() == "settled"
    assert [(row.hash, row.nonce) for row in bench.txs()] == [(held.early[0].hash, held.early[0].nonce)]
    assert steps(bench, held)[:3] == ["stored", "dropped", "stored"], AHEAD
    assert bench.ended() == [key.session_id]


async def test_crash__signed_ahead_and_no_answer_yet__the_same_bytes_end_it_after_the_restart(bench: Bench) -> None:
    """W2 … So is what was signed ahead of the chain's answer and not dropped yet"""
    key = bench.lesson()
    async with asked_for(bench, key, asyncio.Event().wait) as held:
        await bench.kill()
    bench.urls = [bench.world.node.url]
    bench.boot()
    bench.settle(key)
    assert await bench.outcome() == "settled"
    assert [row.hash for row in bench.txs()] == [held.early[0].hash]
    assert bench.ended() == [key.session_id]


async def test_crash__signed_ahead_and_over_by_then__its_nonce_is_used_for_nothing(bench: Bench) -> None:
    """W2 … looked up, unknown; said again or retracted"""
    key = bench.lesson()
    async with asked_for(bench, key, asyncio.Event().wait) as held:
        await bench.kill()
    bench.world.end(by=key.student)
    bench.urls = [bench.world.node.url]
    bench.boot()
    bench.settle(key)
    await bench.until(lambda: [row for row in bench.txs() if row.kind == "retract" and row.mined_block], mine=True)
    assert {row.nonce for row in bench.txs()} == {held.early[0].nonce}
    assert bench.ended() == [key.session_id]


@pytest.mark.parametrize("replaced_after", [0, 3])
async def test_crash__signed_ahead_at_a_nonce_that_somebody_else_took__theirs_is_left_alone(
    bench: Bench, replaced_after: int
) -> None:
    """A settlement that no node has taken isn't said where the node has somebody else's at its nonce: it would take
    that one's place. It waits for what becomes of it."""
    key = bench.lesson()
    bench.mining(False)
    theirs = ""

    def taken() -> Awaitable[Any]:
        nonlocal theirs
        theirs = foreign(bench, maxFeePerGas=hex(3 * GWEI // 2), maxPriorityFeePerGas=hex(GWEI // 10))  # less than ours
        return asyncio.Event().wait()

    async with asked_for(bench, key, taken) as held:
        await bench.kill()
    bench.urls = [bench.world.node.url]
    bench.config = {"replace_after_blocks": replaced_after}
    bench.boot()
    bench.settle(key)
    bench.look()
    await until(lambda: bench.sender._seen == bench.sender._head)
    await bench.until(lambda: bench.node_knows(theirs))
    assert not bench.node_knows(held.early[0].hash)
    assert await bench.outcome() == "lost"
    bench.settle(key)
    assert await bench.outcome(2) == "settled"
    assert (bench.ended(), bench.node_knows(theirs)) == ([key.session_id], True)
