"""What the follower's parts promise in their headers, each before a node double that does what is to be survived."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bot.chain import endpoint, pages
from bot.chain import rows as chainrows
from bot.chain.errors import TooHeavy
from bot.chain.follower import follower as module
from bot.chain.follower.backfill import PAGES_AHEAD, Backfill
from bot.chain.follower.branch import Branch
from bot.chain.follower.finality import FinalityWatch
from bot.chain.follower.news import Moved
from bot.chain.follower.pushes import KEPT, Pushes
from bot.chain.rpc import Rpc
from bot.chain.wire import RawHeader
from bot.domain.identity import Identity
from bot.store.chain_rows import Rows
from tests.support.index import Index, assert_equals_a_fresh_index, index
from tests.support.node_double import CONTRACT, STUDENTS, TUTORS, NodeDouble
from tests.support.proxy import Proxy, each_call


@asynccontextmanager
async def node(blocks: int) -> AsyncIterator[tuple[NodeDouble, Proxy, Rpc]]:
    """A chain with a log in each of its first blocks, behind a proxy."""
    async with NodeDouble() as double, Proxy(double.url) as proxy:
        for number in range(blocks):
            double.start(STUDENTS[number % 4], TUTORS[number % 4])
            double.end(TUTORS[number % 4])
        rpc = Rpc([proxy.url])
        try:
            yield double, proxy, rpc
        finally:
            await rpc.close()


def is_page(body: Any) -> bool:
    return isinstance(body, dict) and body["method"] == "eth_getLogs" and "fromBlock" in body["params"][0]


def size(body: Any) -> int:
    where = body["params"][0]
    return int(where["toBlock"], 16) - int(where["fromBlock"], 16) + 1


async def test_pages__while_one_is_worked_on__the_next_ones_are_under_way_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Quotes: "while one is worked on, the next ones are under way, and no more than `PAGES_AHEAD` of them"."""
    monkeypatch.setattr(pages, "FIRST_BLOCKS", 5)
    monkeypatch.setattr(pages, "MOST_BLOCKS", 5)
    async with node(40) as (double, proxy, rpc):
        asked: list[int] = []
        proxy.before = lambda body: asked.append(int(body["params"][0]["fromBlock"], 16)) if is_page(body) else None
        given: list[tuple[int, int]] = []
        worked_on = 0
        async for page in Backfill(rpc, CONTRACT).pages(1, 60):
            given += [(row.block_number, row.log_index) for row in page.rows.logs]
            worked_on += 1
            await asyncio.sleep(0.1)  # long enough for any request that is going to be made
            assert len(asked) == min(12, worked_on + PAGES_AHEAD)
        expected = double.eth_getLogs({"fromBlock": "0x1", "toBlock": hex(60)})
        assert given == [(int(one["blockNumber"], 16), int(one["logIndex"], 16)) for one in expected]


async def test_pages__a_thread_writes_them__each_is_made_there_when_it_is_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Quotes: "An answer stays the node's bytes until its page is the next to be written; then the thread that writes
    it decodes it."."""
    monkeypatch.setattr(pages, "FIRST_BLOCKS", 5)
    monkeypatch.setattr(pages, "MOST_BLOCKS", 5)
    threads: list[str] = []
    make = chainrows.rows_of

    def rows_of(*given: Any) -> Rows:
        threads.append(threading.current_thread().name)
        return make(*given)

    monkeypatch.setattr(chainrows, "rows_of", rows_of)
    async with node(40) as (_, _, rpc):
        with ThreadPoolExecutor(1, thread_name_prefix="writes") as thread:
            given = 0
            async for _ in Backfill(rpc, CONTRACT, thread=thread).pages(1, 60):
                given += 1
                await asyncio.sleep(0.05)  # for those that may be made already
                assert len(threads) <= given + 1
        assert threads == ["writes_0"] * 12


async def test_pages__one_is_too_slow__is_asked_for_again_in_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quotes: "A page that is refused, too slow or too large is asked for again in halves."."""
    monkeypatch.setattr(pages, "FIRST_BLOCKS", 32)
    async with node(40) as (double, proxy, rpc):
        rpc._endpoints[0].timeout_s = 0.3
        asked: list[int] = []

        async def slow(body: Any) -> None:
            if is_page(body):
                asked.append(size(body))
                await asyncio.sleep(1.0 if size(body) > 10 else 0)

        proxy.before = slow
        found = [row async for page in Backfill(rpc, CONTRACT).pages(1, 60) for row in page.rows.logs]
        assert len(found) == len(double.eth_getLogs({"fromBlock": "0x1", "toBlock": hex(60)}))
        assert asked[0] == 32
        assert 16 in asked
        assert sum(one > 10 for one in asked) <= 6, "the refused size was tried again and again"


async def test_pages__one_is_too_large__is_asked_for_again_in_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quotes of the endpoint: "replies are bounded in size"."""
    monkeypatch.setattr(endpoint, "MAX_REPLY_BYTES", 8_000)
    monkeypatch.setattr(pages, "FIRST_BLOCKS", 32)
    async with node(40) as (double, _, rpc):
        with pytest.raises(TooHeavy, match="an answer of more than"):
            await rpc.get_logs(1, 60, CONTRACT)
        found = [row async for page in Backfill(rpc, CONTRACT).pages(1, 60) for row in page.rows.logs]
        assert len(found) == len(double.eth_getLogs({"fromBlock": "0x1", "toBlock": hex(60)}))


@pytest.mark.parametrize(
    ("at", "lie"),
    [
        (9, lambda header: header | {"parentHash": "0x" + "99" * 32}),
        (9, lambda header: header | {"hash": "0x" + "99" * 32}),
        (9, lambda header: header | {"number": "0x7"}),
        (9, lambda header: None),
        (20, lambda header: None),  # the last one that is asked for
    ],
)
async def test_headers__one_does_not_hang_together__has_moved(at: int, lie: Any) -> None:
    """Quotes: "`headers` gives consecutive blocks, each the child of the one before, or raises Moved"."""
    async with node(10) as (double, proxy, rpc):
        deployed = double.head.at(1)
        assert deployed is not None
        branch = Branch(rpc, Identity(31337, "", CONTRACT, 1, deployed.hash))
        latest = await rpc.header("latest")
        assert latest is not None
        good = await branch.headers(2, 20, latest, deployed.hash)
        assert [int(one.number, 16) for one in good] == list(range(2, 21))

        def twist(call: Any, reply: Any) -> Any:
            return reply | {"result": lie(reply["result"])} if call["params"][0] == hex(at) else reply

        proxy.after = each_call("eth_getBlockByNumber", twist)
        with pytest.raises(Moved):
            await branch.headers(2, 20, latest, deployed.hash)


async def test_finality__tag_goes_back__stays_where_it_was() -> None:
    """Quotes: "the finalized block goes forwards, never back"."""
    async with node(40) as (double, _, rpc):
        watch, seen = FinalityWatch(rpc), []
        for finalized in (10, 30, 5, 31):
            double.finalized = finalized
            double.mine()
            latest, tagged = await watch.with_head(double.head.number)
            await watch.look(latest, tagged)
            seen.append(watch.to)
        assert seen == [10, 30, 30, 31]


async def test_pushed__more_than_are_kept__the_newest_wake_and_are_taken_once() -> None:
    """Quotes: "each one wakes whoever waits; the newest few are kept for him"."""

    class Announcing:
        async def subscribe_heads(self) -> AsyncIterator[RawHeader | None]:
            yield None
            for number in range(KEPT + 10):
                yield RawHeader(hex(number), f"0x{number}", f"0x{number - 1}", "0x0")

    pushes = Pushes(Announcing())  # type: ignore[arg-type]
    assert not await pushes.wait(0.01)
    await pushes.listen()
    assert await pushes.wait(0.01)
    assert [int(one.number, 16) for one in pushes.take()] == list(range(10, KEPT + 10))
    assert pushes.take() == []
    assert not await pushes.wait(0.01)


async def test_reorg__transaction_fails_in_the_middle__the_branch_that_was_left_is_still_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Quotes: "retracts exactly what it took away, in one transaction with what the new branch brings"."""
    async with NodeDouble() as double:
        for number in range(3):
            double.start(STUDENTS[number], TUTORS[number])
        async with index(double, tmp_path / "a.db") as one:  # type: ignore[arg-type]
            await one.follower.catch_up()
            before = one.chain(), one.rows("blocks", "1")
            double.fork(2)
            double.start(STUDENTS[3], TUTORS[1])
            double.mine()
            double.mine()
            with monkeypatch.context() as patch:
                patch.setattr(module.store, "append", lambda *_: 1 / 0)  # what was taken away is gone by then
                with pytest.raises(ZeroDivisionError):
                    await one.follower.catch_up()
            assert (one.chain(), one.rows("blocks", "1")) == before
            await one.follower.catch_up()
            await assert_equals_a_fresh_index(one, double, tmp_path / "fresh.db")  # type: ignore[arg-type]


async def asks_of(one: Index, proxy: Proxy) -> int:
    """How many requests of a pass this node gets."""
    heard = 0

    def count(_: Any) -> None:
        nonlocal heard
        heard += 1

    proxy.before = count
    await one.follower.catch_up()
    proxy.before = lambda body: None
    return heard


async def test_strayed__back_on_the_chain__is_asked_first_again(tmp_path: Path) -> None:
    """Quotes: "it is asked last until it is back"."""
    async with NodeDouble() as double, Proxy(double.url) as proxy:
        for _ in range(5):
            double.mine()
        async with index(double, tmp_path / "a.db", rpc_url=(proxy.url, double.url)) as one:  # type: ignore[arg-type]
            await one.follower.catch_up()
            stands = double.header()
            proxy.after = each_call(
                "eth_getBlockByNumber",
                lambda call, reply: reply | {"result": stands} if call["params"][0] == "latest" else reply,
            )
            for _ in range(10):
                double.mine()
            await one.follower.second_look()  # it lags by ten blocks
            assert await asks_of(one, proxy) == 0
            proxy.after = lambda body, reply: reply
            double.mine()
            await one.follower.second_look()
            double.mine()
            assert await asks_of(one, proxy) > 0
