"""A chain that takes back what was final, through `run`: nothing is signed on it, somebody is told, the record stays.

Quotes: "A violation of finality stops the follower at what it has and says so, instead of corrupting the record".
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from bot.store.db import Database
from tests.integration.test_cli_daemon import running, settings, until
from tests.support.anvil import OWNER_KEY, World, langdao
from tests.support.index import CHAIN_TABLES, index
from tests.support.proxy import relay
from tests.support.record import inside

DEPTH = 90  # blocks; Anvil calls final what is 64 deep


def rows(home: Path) -> dict[str, list[Any]]:
    """All that the record says of the chain."""
    one = Database(f"sqlite:///{home}/keeper.db")
    with one.engine.connect() as connection:
        found = {
            table: list(connection.exec_driver_sql(f"SELECT * FROM {table} ORDER BY 1, 2")) for table in CHAIN_TABLES
        }
    one.dispose()
    return found


def followed(home: Path, given: dict[str, Any]) -> bool:
    """The daemon knows the session that runs."""
    return '"session_id": 1' in inside(home, "sessions", "--json", **given).out


def detailed(home: Path) -> bool:
    """What logs don't carry was read too: from now on nothing is added to what is there."""
    found = rows(home)
    return all(row.rate for row in found["sessions"]) and all(row.ended_by for row in found["settlements"])


def told(home: Path, name: str) -> bool:
    return name in (home / "log").read_text()


def nothing_left(world: World, home: Path, given: dict[str, Any], nonce: str) -> bool:
    """No settlement was signed, and none is on this chain."""
    assert inside(home, "txs", "--json", **given).json() == []
    assert world.node.rpc("eth_getTransactionCount", world.owner, "pending") == nonce
    return world.is_active(0)


def asked_to_settle(home: Path, given: dict[str, Any]) -> None:
    done = inside(home, "settle", "1", "--yes", "--json", **given)
    assert done.code == 0, done.text


def finality_shows(home: Path, given: dict[str, Any]) -> bool:
    return "finality" in inside(home, "status", "--json", **given).out


def test_two_nodes__made_in_the_same_second__are_two_chains() -> None:
    """What the other tests here rest on: else `other` only goes on where `world` has got to."""
    clock = "--timestamp", "1800000000"
    with langdao(*clock, students=1, tutors=1) as one, langdao(*clock, students=1, tutors=1) as another:
        ours, theirs = ({world.node.header(number)["hash"] for number in range(1, 8)} for world in (one, another))
    assert not ours & theirs


def test_run__reorg_below_the_finalized_block__signs_nothing_alerts_and_goes_on_with_a_new_database(
    tmp_path: Path,
) -> None:
    with langdao(students=2, tutors=2) as world:
        world.start(0, 0)
        world.start(1, 1)
        world.node.mine(100)
        world.end(1)  # 20 blocks below the head, in what the reorg takes away
        world.node.mine(70)
        given = settings(world, tmp_path, BACKEND_PRIVATE_KEY=OWNER_KEY)
        with running(tmp_path, "run", **given):
            until(lambda: followed(tmp_path, given) and detailed(tmp_path))
            recorded = rows(tmp_path)
            assert [row.finality for row in recorded["settlements"]] == ["final"]
            world.node.rpc("anvil_reorg", DEPTH, [])
            until(lambda: told(tmp_path, "alert.finality"))
            until(lambda: finality_shows(tmp_path, given))
            assert world.is_active(1), "the reorg didn't take the end away"
            nonce = world.node.rpc("eth_getTransactionCount", world.owner, "pending")
            asked_to_settle(tmp_path, given)
            for _ in range(5):
                world.node.mine(2)
                time.sleep(0.5)
                assert nothing_left(world, tmp_path, given, nonce)
            assert rows(tmp_path) == recorded
        # "If the chain really did that, start on a new database."
        afresh = given | {"DATABASE_URL": f"sqlite:///{tmp_path}/new.db"}
        with running(tmp_path, "run", **afresh):
            until(lambda: followed(tmp_path, afresh))
            asked_to_settle(tmp_path, afresh)
            until(lambda: not world.is_active(0))


def test_run__node_takes_back_final_blocks_and_comes_to_its_senses__settles_then_and_not_before(
    tmp_path: Path,
) -> None:
    with (
        langdao(students=2, tutors=2) as world,
        langdao(students=2, tutors=2) as other,
        relay(world.node.url) as proxy,
    ):
        for one in (world, other):
            one.start(0, 0)
        world.node.mine(100)
        other.node.mine(200)
        given = settings(world, tmp_path, BACKEND_PRIVATE_KEY=OWNER_KEY, RPC_URL=proxy.url)
        with running(tmp_path, "run", **given):
            until(lambda: followed(tmp_path, given) and detailed(tmp_path))
            recorded = rows(tmp_path)
            nonces = [one.node.rpc("eth_getTransactionCount", one.owner, "pending") for one in (world, other)]
            proxy.node_url = other.node.url
            until(lambda: told(tmp_path, "alert.finality"))
            asked_to_settle(tmp_path, given)
            for _ in range(5):
                other.node.mine()
                time.sleep(0.5)
                assert nothing_left(other, tmp_path, given, nonces[1])
                assert nothing_left(world, tmp_path, given, nonces[0])
            assert rows(tmp_path) == recorded
            proxy.node_url = world.node.url
            world.node.mine()
            until(lambda: not world.is_active(0))  # what was asked for meanwhile
            assert other.is_active(0)
            until(lambda: len(rows(tmp_path)["settlements"]) == 1)

        async def compare() -> None:
            async with index(world, tmp_path / "keeper.db") as again:
                await again.follower.catch_up()
                ours = {table: [_chain_part(row) for row in again.rows(table)] for table in CHAIN_TABLES}
                async with index(world, tmp_path / "fresh.db") as fresh:
                    await fresh.follower.catch_up()
                    assert ours == {table: [_chain_part(row) for row in fresh.rows(table)] for table in CHAIN_TABLES}

        asyncio.run(compare())


def _chain_part(row: dict[str, Any]) -> dict[str, Any]:
    """Without what the daemon adds to it: details and its own words."""
    added = {"rate", "token", "ended_by", "by_keeper", "sender", "reason", "call_ended_at", "room_id", "finality"}
    return {name: value for name, value in row.items() if name not in added | {"overbilled_s", "overbilled_amount"}}
