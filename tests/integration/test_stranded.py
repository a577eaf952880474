"""`stranded` against a real node."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.chain.rpc import Rpc
from bot.ops import stranded
from tests.support.anvil import RATE, World, langdao
from tests.support.doctor import settings
from tests.support.record import inside


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """Four sessions: 1 has ended, 2 and 3 are of one student, 4 of another."""
    with langdao() as one:
        one.start(0, 0)
        one.end(0)
        one.start(0, 0)
        one.start(0, 1)
        one.start(1, 2)
        yield one


# stranded ------------------------------------------------------------------------------------------------------------


def test_stranded__active_and_ended__lists_the_active_with_costs_and_a_total(world: World, tmp_path: Path) -> None:
    found = inside(tmp_path, "stranded", "--json", **settings(world)).json()
    assert [line["session_id"] for line in found["sessions"]] == [2, 3, 4]
    assert found["sessions_ever"] == 4
    at = found["head"]["at"]
    for line in found["sessions"]:
        assert line["cost"] == str(RATE * (at - line["started_at"]))
        assert line["cost_per_hour"] == str(3600 * RATE)
        assert line["settle"] == f"langdao-keeper settle {line['session_id']}"
    assert found["total"]["cost"] == str(sum(int(line["cost"]) for line in found["sessions"]))
    assert found["total"]["cost_per_hour"] == str(3 * 3600 * RATE)


def test_stranded__people__first_line_says_what_the_chain_cant_tell(world: World, tmp_path: Path) -> None:
    done = inside(tmp_path, "stranded", **settings(world))
    assert done.code == 0
    assert done.out.splitlines()[0].startswith("The chain alone can't tell a running lesson from a stranded one")
    assert "langdao-keeper settle 2" in done.out
    assert done.out.splitlines()[-1].startswith("Total: ")


def test_stranded__needs__neither_database_nor_key(world: World, tmp_path: Path) -> None:
    inside(tmp_path, "stranded", **settings(world))
    assert list(tmp_path.rglob("*.db")) == []


def test_stranded__shared_balance_used_up__says_since_when_and_counts_it_once(tmp_path: Path) -> None:
    with langdao() as world:
        world.start(0, 0)
        world.start(0, 1)
        world.node.rpc("evm_increaseTime", 600_000)  # both together have used up 1000 PYUSD after 500,000 s
        world.node.mine()
        found = inside(tmp_path, "stranded", "--json", **settings(world)).json()
    assert [line["drained"] for line in found["sessions"]] == [True, True]
    assert found["total"]["cost"] == "1000000000"
    assert found["total"]["cost_per_hour"] == "0"
    drained_at = found["sessions"][0]["drained_at"]
    assert 499_990 <= drained_at - found["sessions"][0]["started_at"] <= 500_010


def test_stranded__no_sessions__says_so(tmp_path: Path) -> None:
    with langdao(students=0, tutors=0) as world:
        done = inside(tmp_path, "stranded", **settings(world))
    assert done.code == 0
    assert "0 of 0 sessions are active" in done.out


def test_stranded__no_contract_there__exits_2_in_the_agreed_words(world: World, tmp_path: Path) -> None:
    nobody = "0x" + "11" * 20
    done = inside(tmp_path, "stranded", **settings(world, CONTRACT_ADDRESS=nobody))
    assert done.code == 2
    assert "CONTRACT_ADDRESS: no code at 0x1111111111111111111111111111111111111111 on chain 31337" in done.err
    assert "Check RPC_URL." in done.err


def test_stranded__another_contract_there__exits_2_without_a_traceback(world: World, tmp_path: Path) -> None:
    done = inside(tmp_path, "stranded", **settings(world, CONTRACT_ADDRESS=world.token))
    assert done.code == 2
    assert len(done.err.splitlines()) == 1


async def test_read__small_pages__find_the_same_and_report_progress(world: World) -> None:
    rpc = Rpc([world.node.url])
    told: list[tuple[int, int]] = []
    whole = await stranded.read(rpc, world.contract, first_answer_s=10)
    paged = await stranded.read(
        rpc, world.contract, first_answer_s=10, page=2, progress=lambda done, of: told.append((done, of))
    )
    await rpc.close()
    assert paged.sessions == whole.sessions
    assert told == [(2, 4), (4, 4)]
