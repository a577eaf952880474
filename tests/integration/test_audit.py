"""`langdao-keeper audit` against a real node: it agrees when all is well, and each difference is found by its cause."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from bot.chain import codec
from bot.chain.details import Details
from bot.chain.errors import WrongAnswer
from bot.chain.langdao import LangDAO
from bot.domain.facts import SessionKey
from bot.ops.audit import audit
from bot.store import identity as identities
from tests.support.anvil import World, calldata, langdao
from tests.support.index import Index, index
from tests.support.proxy import Proxy, each_call
from tests.support.record import inside


@pytest.fixture
def world() -> Iterator[World]:
    """A session over, one running, and a deposit besides the first ones."""
    with langdao() as one:
        one.start(0, 0)
        one.node.rpc("evm_increaseTime", 60)
        one.end(0)
        one.deposit(1)
        one.start(1, 1)
        yield one


def rob(world: World) -> None:
    """Takes 5 base units of the students' tokens out of the contract."""
    world.node.rpc("anvil_impersonateAccount", world.contract)
    world.node.rpc("anvil_setBalance", world.contract, hex(10**18))
    world.send(world.contract, world.token, calldata("transfer(address,uint256)", world.owner, 5))


@asynccontextmanager
async def indexed(world: World, path: Path) -> AsyncIterator[Index]:
    """An index with its identity and all details."""
    async with index(world, path) as one:
        await claim(one)
        await one.follower.catch_up()

        async def ignore(_: SessionKey) -> None: ...

        await Details(
            one.rpc, one.writer, LangDAO(one.rpc, world.contract), owner=world.owner, on_settled=ignore
        ).fill()
        yield one


async def claim(one: Index) -> None:
    await one.writer(lambda session: identities.claim(session, one.identity))


async def found(one: Index, sample: int | None = None) -> dict[str, list[str]]:
    """The examples of each check that has differences."""
    with one.database.read() as session:
        document = await audit(one.rpc, session, one.identity, sample=sample)
    assert document["agrees"] == (document["differences"] == 0)
    return {check["name"]: check["examples"] for check in document["checks"] if check["differences"]}


async def test_audit__all_is_well__agrees(world: World, tmp_path: Path) -> None:
    async with indexed(world, tmp_path / "a.db") as one:
        assert await found(one) == {}


def test_audit__command__exits_0_and_says_what_it_compared(world: World, tmp_path: Path) -> None:
    where = {
        "RPC_URL": world.node.url,
        "CONTRACT_ADDRESS": world.contract,
        "DATABASE_URL": f"sqlite:///{tmp_path / 'a.db'}",
    }
    assert inside(tmp_path, "index", "--details", **where).code == 0
    done = inside(tmp_path, "audit", "--all", "--json", **where)
    assert done.code == 0
    document = done.json()
    assert document["block_hash"] == world.node.header()["hash"]
    compared = {check["name"]: check["compared"] for check in document["checks"]}
    assert compared == {
        "branch": 1, "logs": 13, "rows": 3, "paid": 1, "counter": 1, "sessions": 2, "balances": 3, "cover": 1,
    }  # fmt: skip
    text_for_people = inside(tmp_path, "audit", **where)
    assert "every log, by its content: agrees (13 compared)" in text_for_people.out


def test_audit__command__differences__exit_1_and_are_named(world: World, tmp_path: Path) -> None:
    where = {
        "RPC_URL": world.node.url,
        "CONTRACT_ADDRESS": world.contract,
        "DATABASE_URL": f"sqlite:///{tmp_path / 'a.db'}",
    }
    inside(tmp_path, "index", **where)
    world.node.rpc("anvil_reorg", 1, [])
    done = inside(tmp_path, "audit", **where)
    assert done.code == 1
    assert "the newest block is on the node's chain: 1 differ" in done.out


def test_audit__command__tokens_gone_from_the_contract__exits_1_and_names_the_shortfall(
    world: World, tmp_path: Path
) -> None:
    """exits non-zero with the differences"""
    where = {
        "RPC_URL": world.node.url,
        "CONTRACT_ADDRESS": world.contract,
        "DATABASE_URL": f"sqlite:///{tmp_path / 'a.db'}",
    }
    rob(world)
    inside(tmp_path, "index", "--details", **where)
    done = inside(tmp_path, "audit", "--all", "--json", **where)
    assert done.code == 1
    document = done.json()
    assert (document["agrees"], document["differences"]) == (False, 1)
    (cover,) = [check for check in document["checks"] if check["differences"]]
    assert "5 too few" in cover["examples"][0]
    assert "5 too few" in inside(tmp_path, "audit", **where).out


def test_audit__command__nothing_indexed__says_how(world: World, tmp_path: Path) -> None:
    where = {
        "RPC_URL": world.node.url,
        "CONTRACT_ADDRESS": world.contract,
        "DATABASE_URL": f"sqlite:///{tmp_path / 'a.db'}",
    }
    done = inside(tmp_path, "audit", **where)
    assert done.code == 2
    assert "No database at" in done.err


@asynccontextmanager
async def left_out(world: World, path: Path, topic_of: str) -> AsyncIterator[Index]:
    """An index to which the node never told of one kind of event."""
    async with Proxy(world.node.url) as proxy:

        def after(call: Any, reply: Any) -> Any:
            return reply | {"result": [log for log in reply["result"] if log["topics"][0] != topic_of]}

        proxy.after = each_call("eth_getLogs", after)
        async with index(world, path, rpc_url=proxy.url) as one:
            await claim(one)
            await one.follower.catch_up()
            proxy.after = lambda body, reply: reply
            yield one


async def test_audit__node_left_out_an_end__names_log_payment_session_and_balance(world: World, tmp_path: Path) -> None:
    async with left_out(world, tmp_path / "a.db", codec.SESSION_ENDED) as one:
        differing = await found(one)
        assert set(differing) == {"logs", "paid", "sessions", "balances"}
        assert "SessionEnded isn't in the index" in differing["logs"][0]
        assert differing["sessions"] == ["session 1: active is True in the index, False in the contract"]
        assert world.students[0] in differing["balances"][0]


async def test_audit__node_left_out_a_start__names_the_session_that_is_missing(world: World, tmp_path: Path) -> None:
    async with left_out(world, tmp_path / "a.db", codec.SESSION_STARTED) as one:
        differing = await found(one)
        assert {"logs", "counter"} <= set(differing)
        assert "session 1 isn't in the index" in differing["counter"][0]
        assert "session 2 isn't in the index" in differing["counter"][1]


async def test_audit__node_left_out_a_deposit__names_the_student(world: World, tmp_path: Path) -> None:
    async with left_out(world, tmp_path / "a.db", codec.FUNDS_DEPOSITED) as one:
        differing = await found(one)
        assert set(differing) == {"logs", "balances"}


async def test_audit__rows_lost__are_counted_against_the_logs(world: World, tmp_path: Path) -> None:
    async with indexed(world, tmp_path / "a.db") as one:
        with one.database.write() as session:
            session.execute(text("DELETE FROM settlements"))  # as an operator's hand might
        differing = await found(one)
        assert differing["rows"] == ["0 rows in settlements, and 1 logs that make one"]
        assert set(differing) == {"rows", "paid", "balances"}


async def test_audit__log_changed_on_disk__is_named_by_its_field(world: World, tmp_path: Path) -> None:
    async with indexed(world, tmp_path / "a.db") as one:
        with one.database.write() as session:
            session.execute(text("UPDATE logs SET data = '0x' WHERE name = 'SessionEnded'"))
        (example,) = (await found(one))["logs"]
        assert example.endswith("SessionEnded has another data")


async def test_audit__details_of_another_rate__are_named(world: World, tmp_path: Path) -> None:
    async with indexed(world, tmp_path / "a.db") as one:
        with one.database.write() as session:
            session.execute(text("UPDATE sessions SET rate = '7' WHERE session_id = 2"))
        assert await found(one) == {"sessions": ["session 2: rate is 7 in the index, 1000 in the contract"]}


async def test_audit__chain_reorged_since__has_nothing_else_to_compare(world: World, tmp_path: Path) -> None:
    async with indexed(world, tmp_path / "a.db") as one:
        world.node.rpc("anvil_reorg", 2, [])
        assert list(await found(one)) == ["branch"]


async def test_audit__node_lags__says_so(world: World, tmp_path: Path) -> None:
    mark = world.node.snapshot()
    world.node.mine(3)
    async with indexed(world, tmp_path / "a.db") as one:
        world.node.rpc("evm_revert", mark)
        with pytest.raises(WrongAnswer, match="has no block"):
            await found(one)


async def test_audit__tokens_sent_to_the_contract__an_excess_is_reported_and_no_difference(
    world: World, tmp_path: Path
) -> None:
    """Quotes: "an excess is reported, a shortfall is a difference"."""
    world.do(world.owner, "mint(address,uint256)", world.contract, 77, to=world.token)
    async with indexed(world, tmp_path / "a.db") as one:
        assert await found(one) == {}
        with one.database.read() as session:
            document = await audit(one.rpc, session, one.identity, sample=None)
        assert "holds 77 of" in document["checks"][-1]["note"]


async def test_audit__tokens_gone_from_the_contract__a_shortfall_is_a_difference(world: World, tmp_path: Path) -> None:
    """Quotes: "an excess is reported, a shortfall is a difference"."""
    rob(world)
    async with indexed(world, tmp_path / "a.db") as one:
        differing = await found(one)
        assert list(differing) == ["cover"]
        assert "5 too few" in differing["cover"][0]


async def test_audit__sample__asks_for_so_many(world: World, tmp_path: Path) -> None:
    async with indexed(world, tmp_path / "a.db") as one:
        with one.database.read() as session:
            document = await audit(one.rpc, session, one.identity, sample=1)
        (sessions,) = [check for check in document["checks"] if check["name"] == "sessions"]
        assert sessions["compared"] == 1
