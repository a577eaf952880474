"""What logs don't carry, read from a real Anvil: rate, token, who ended; and the contract's reads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bot.chain.details import Details
from bot.chain.errors import RpcError, WrongAnswer
from bot.chain.langdao import LangDAO
from bot.domain.facts import SessionKey
from bot.store.tables import TxRow
from tests.support.anvil import DEPOSIT, RATE, World, langdao
from tests.support.index import Index, index
from tests.support.proxy import Proxy


@pytest.fixture
def world() -> Iterator[World]:
    with langdao() as one:
        yield one


class Reader:
    """Details over an index, with what they told."""

    def __init__(self, one: Index, world: World) -> None:
        self.settled: list[SessionKey] = []
        self.known: list[SessionKey] = []
        self.details = Details(
            one.rpc,
            one.writer,
            LangDAO(one.rpc, world.contract),
            owner=world.owner,
            on_settled=self.on_settled,
            on_session=self.on_session,
        )

    async def on_settled(self, key: SessionKey) -> None:
        self.settled.append(key)

    async def on_session(self, key: SessionKey) -> None:
        self.known.append(key)


@asynccontextmanager
async def reading(world: World, path: Path) -> AsyncIterator[tuple[Index, Reader]]:
    async with index(world, path) as one:
        await one.follower.catch_up()
        yield one, Reader(one, world)


def own(tx: str) -> TxRow:
    return TxRow(
        hash=tx, nonce=0, sender="0x", kind="settle", raw="0x", gas=300_000,
        max_fee="1", tip="1", stored_ms=0, stored_block=0,
    )  # fmt: skip


async def test_fill__a_running_session__learns_rate_and_token(world: World, tmp_path: Path) -> None:
    world.start()
    async with reading(world, tmp_path / "a.db") as (one, reader):
        await reader.details.fill()
        (row,) = one.rows("sessions")
        assert (row["rate"], row["token"]) == (str(RATE), world.token)
        assert reader.known == [SessionKey(1, world.students[0], world.tutors[0])]
        assert reader.settled == []


@pytest.mark.parametrize("who", ["student", "tutor", "owner"])
async def test_fill__ended__says_by_whom(world: World, tmp_path: Path, who: str) -> None:
    world.start()
    sender = {"student": world.students[0], "tutor": world.tutors[0], "owner": world.owner}[who]
    world.end(by=sender)
    async with reading(world, tmp_path / "a.db") as (one, reader):
        await reader.details.fill()
        (row,) = one.rows("settlements")
        assert (row["ended_by"], row["by_keeper"], row["sender"]) == (who, 0, sender)
        assert (row["rate"], row["token"]) == (str(RATE), world.token)
        assert reader.settled == [SessionKey(1, world.students[0], world.tutors[0])]


async def test_fill__ended_by_our_own_transaction__is_the_keeper(world: World, tmp_path: Path) -> None:
    """Quotes: "never judged by the sender's address, which the backend shares"."""
    world.start()
    world.start(1, 1)
    ours, theirs = world.end(0), world.end(1)
    async with reading(world, tmp_path / "a.db") as (one, reader):
        await one.writer(lambda session: session.add(own(ours)))
        await reader.details.fill()
        assert ours != theirs
        rows = [(row["ended_by"], row["by_keeper"]) for row in one.rows("settlements")]
        assert rows == [("keeper", 1), ("owner", 0)]


async def test_fill__sender_nobody_knows__is_named(world: World, tmp_path: Path) -> None:
    world.start()
    world.end()
    async with reading(world, tmp_path / "a.db") as (one, reader):
        reader.details._owner = world.students[2]  # as if the owner were another one
        await reader.details.fill()
        assert one.rows("settlements")[0]["ended_by"] == f"unknown:{world.owner}"


async def test_fill__start_before_the_index__learns_the_student_too(world: World, tmp_path: Path) -> None:
    world.start(1, 2)
    world.node.mine()
    world.deploy_block = world.node.number()
    world.end(2)
    async with reading(world, tmp_path / "a.db") as (one, reader):
        assert one.rows("settlements")[0]["student"] is None
        await reader.details.fill()
        (row,) = one.rows("settlements")
        assert (row["student"], row["ended_by"], row["rate"]) == (world.students[1], "owner", str(RATE))
        assert reader.settled == [SessionKey(1, world.students[1], world.tutors[2])]


async def test_fill__many_sessions__few_requests_pinned_to_where_the_index_is(world: World, tmp_path: Path) -> None:
    """Quotes: "in large batches pinned to a block that the index has reached"."""
    for who in range(3):
        world.start(student=who, tutor=who)
    for who in range(2):
        world.end(tutor=who)
    heard: list[Any] = []
    async with Proxy(world.node.url) as proxy, index(world, tmp_path / "a.db", rpc_url=proxy.url) as one:
        await one.follower.catch_up()
        world.node.mine(3)  # the node is further
        reader = Reader(one, world)
        proxy.before = heard.append
        await reader.details.fill()
        sessions, senders = heard
        assert one.follower.head is not None
        assert (sessions["method"], sessions["params"][1]["blockHash"]) == ("eth_call", one.follower.head.hash)
        assert [call["method"] for call in senders] == ["eth_getTransactionByHash"] * 2
        assert [row["rate"] for row in one.rows("sessions")] == [str(RATE)] * 3
        assert len(reader.settled) == 2


async def test_fill__again__tells_nothing_twice(world: World, tmp_path: Path) -> None:
    world.start()
    world.end()
    async with reading(world, tmp_path / "a.db") as (one, reader):
        await reader.details.fill()
        requests = one.rpc.requests
        await reader.details.fill()
        assert len(reader.settled) == 1
        assert one.rpc.requests == requests


async def test_fill__after_a_restart__finds_what_is_unfinished(world: World, tmp_path: Path) -> None:
    """Quotes: "what couldn't be read stays null ... and is found again after a restart"."""
    for tutor in range(3):
        world.start(tutor, tutor)
    world.end(1)
    async with reading(world, tmp_path / "a.db"):
        pass
    async with reading(world, tmp_path / "a.db") as (one, reader):
        await reader.details.fill()
        assert [row["rate"] for row in one.rows("sessions")] == [str(RATE)] * 3
        assert len(reader.settled) == 1


async def test_fill__contract_cannot_answer__leaves_it_visibly_unfinished(world: World, tmp_path: Path) -> None:
    world.start()
    world.end()
    async with reading(world, tmp_path / "a.db") as (one, reader):
        world.node.rpc("anvil_setCode", world.contract, "0x60006000fd")  # reverts whatever is asked
        await reader.details.fill()
        assert one.rows("sessions")[0]["rate"] is None
        assert one.rows("settlements")[0]["ended_by"] == "owner"
        assert reader.settled == []
        calls = one.rpc.calls["eth_call"]
        await reader.details.fill()
        assert one.rpc.calls["eth_call"] == calls, "asked again at once"


async def test_run__woken__reads(world: World, tmp_path: Path) -> None:
    async with reading(world, tmp_path / "a.db") as (one, reader):
        task = asyncio.create_task(reader.details.run())
        await asyncio.sleep(0.1)
        world.start()
        await one.follower.catch_up()
        reader.details.wake()
        async with asyncio.timeout(5):
            while not reader.known:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_reads__pinned_to_a_block__tell_of_that_block(world: World, tmp_path: Path) -> None:
    """every read says at which block it looks: by number, or by hash"""
    async with index(world, tmp_path / "a.db") as one:
        contract = LangDAO(one.rpc, world.contract)
        before = world.node.header()["hash"]
        number = world.node.number()
        world.start()
        after = world.node.header()["hash"]
        assert await contract.active(world.tutors[0], before) is None
        assert await contract.active(world.tutors[0], number) is None
        session = await contract.active(world.tutors[0], after)
        assert session is not None
        assert (session.id, session.student, session.rate, session.active) == (1, world.students[0], RATE, True)
        assert await contract.session(1, after) == session
        assert await contract.session(1, before) is None
        assert await contract.sessions([1, 2], after) == [session, None]
        assert (await contract.counter(before), await contract.counter(after)) in [(0, 1), (1, 2)]
        assert await contract.owner() == world.owner
        assert await contract.token() == world.token
        assert await contract.decimals(world.token) == 6
        assert await contract.balance(world.students[0], world.token, after) == DEPOSIT
        assert len(await contract.code()) > 1_000


async def test_reads__of_a_block_that_was_reorged_away__are_refused(world: World, tmp_path: Path) -> None:
    """Quotes: "by hash, and then the node answers only while that block is on its canonical chain"."""
    async with index(world, tmp_path / "a.db") as one:
        contract = LangDAO(one.rpc, world.contract)
        world.start()
        gone = world.node.header()["hash"]
        world.node.rpc("anvil_reorg", 1, [])
        with pytest.raises(RpcError):
            await contract.active(world.tutors[0], gone)


async def test_reads__of_what_is_no_langdao__are_errors(world: World, tmp_path: Path) -> None:
    """What the contract can't answer is an `RpcError`, what isn't its layout is a `WrongAnswer`."""
    async with index(world, tmp_path / "a.db") as one:
        with pytest.raises(RpcError, match="revert"):
            await LangDAO(one.rpc, world.token).active(world.tutors[0], "latest")
        nobody = LangDAO(one.rpc, world.tutors[0])
        for read in (nobody.active(world.tutors[0], "latest"), nobody.session(1, "latest"), nobody.owner()):
            with pytest.raises(WrongAnswer):
                await read


async def test_pending_ends__in_the_pool__names_sender_and_tutor(world: World, tmp_path: Path) -> None:
    world.start()
    world.stop_mining()
    async with index(world, tmp_path / "a.db") as one:
        contract = LangDAO(one.rpc, world.contract)
        tutor = world.tutors[0]
        assert await contract.pending_ends() == set()
        world.deposit(0)
        world.end(0, by=world.owner)
        assert await contract.pending_ends() == {(world.owner, tutor)}
        world.end(0, by=tutor)
        assert await contract.pending_ends() == {(world.owner, tutor), (tutor, tutor)}
        world.node.mine()
        assert await contract.pending_ends() == set()
