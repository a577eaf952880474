"""`langdao-keeper run` with the guard's keeper's key, as a real process: the mode it takes, and what it does there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_cli_daemon import running, settings, until
from tests.integration.test_run import POLICY, STRANGER, STRANGER_KEY, hook_line, one_line, post
from tests.support.anvil import OWNER_KEY, World, langdao
from tests.support.guarded import KEEPER, KEEPER_KEY, delegate, deploy_guard
from tests.support.record import inside, keeper


@pytest.fixture(scope="module")
def shared() -> Iterator[World]:
    """A chain that these tests only look at, or delegate on."""
    with langdao(students=1, tutors=1) as one:
        delegate(one, deploy_guard(one))
        yield one


@pytest.fixture
def world() -> Iterator[World]:
    with langdao(students=3, tutors=3) as one:
        delegate(one, deploy_guard(one))
        one.node.rpc("evm_setIntervalMining", 1)
        yield one


def checks(world: World, home: Path, key: str) -> dict[str, dict[str, str]]:
    done = inside(home, "doctor", "--json", **settings(world, home, BACKEND_PRIVATE_KEY=key))
    return {check["name"]: check for check in done.json()["checks"]}


def signing(home: Path, given: dict[str, Any]) -> str | None:
    """How the daemon says that it signs, once it has said so."""
    return inside(home, "status", "--json", **given).json().get("daemon", {}).get("signing")


def test_run__key_of_the_guards_keeper__hang_ups_are_ended_through_it_without_a_head_start(
    world: World, tmp_path: Path
) -> None:
    """BACKEND_HEAD_START_S applies to `direct` only"""
    waits = POLICY | {"BACKEND_HEAD_START_S": 600}
    given = settings(world, tmp_path, BACKEND_PRIVATE_KEY=KEEPER_KEY, **waits)
    with running(tmp_path, "run", **given):
        url = hook_line(tmp_path, given)
        for number in range(3):
            world.start(number, number)
        for number in range(1, 4):
            ended = {"type": "session-ended", "sessionId": number, "endedBy": "student", "timestamp": 0}
            until(lambda ended=ended: post(url, ended) == 200)
        until(lambda: not any(world.is_active(number) for number in range(3)))
        rows = until(
            lambda: (
                len(f := [r for r in inside(tmp_path, "settlements", "--json", **given).json() if r["reason"]]) == 3
                and f
            )
        )
        assert {(row["ended_by"], row["by_keeper"]) for row in rows} == {("keeper", True)}
        assert inside(tmp_path, "status", "--json", **given).json()["daemon"]["signing"] == "guarded"
        sent = inside(tmp_path, "txs", "--json", **given).json()
        assert sorted(number for tx in sent for number in tx["sessions"]) == [1, 2, 3]
    for tx in sent:
        on_chain = world.node.rpc("eth_getTransactionByHash", tx["hash"])
        assert (on_chain["from"], on_chain["to"]) == (KEEPER.lower(), world.owner.lower())


def test_run__guard_is_another_keepers__exits_2_in_one_line(shared: World, tmp_path: Path) -> None:
    """a key that can end nothing is refused in one line that says why and what to do"""
    done = keeper(tmp_path, "run", **settings(shared, tmp_path, BACKEND_PRIVATE_KEY=STRANGER_KEY))
    assert done.code == 2
    one_line(
        done.err,
        f"BACKEND_PRIVATE_KEY is for {STRANGER}, but the owner of {shared.contract}, {shared.owner}, delegates to a "
        f"guard for the keeper {KEEPER}, not {STRANGER}. Use that key: docs/guard.md",
    )


def test_doctor__guards_keepers_key__says_guarded_and_what_the_delegation_does(shared: World, tmp_path: Path) -> None:
    """`doctor` and `docs/guard.md` repeat the effects."""
    found = checks(shared, tmp_path, KEEPER_KEY)
    assert (found["key"]["result"], found["guard"]["result"]) == ("ok", "ok")
    assert "guarded mode" in found["key"]["value"]
    for words in ("one pending transaction", "21,062 gas", "with data"):
        assert words in found["guard"]["value"]
    guard_md = (Path(__file__).parents[2] / "docs" / "guard.md").read_text()
    for words in ("one pending transaction", "21,062 gas", "with data"):
        assert words in guard_md


def test_doctor__owners_key_and_the_delegation__says_guarded(shared: World, tmp_path: Path) -> None:
    found = checks(shared, tmp_path, OWNER_KEY)
    assert (found["key"]["result"], "guarded mode" in found["key"]["value"]) == ("ok", True)


def test_doctor__another_keys_guard__fails_with_the_way_out(shared: World, tmp_path: Path) -> None:
    found = checks(shared, tmp_path, STRANGER_KEY)
    assert found["key"]["result"] == "failed"
    assert KEEPER in found["key"]["value"]
    assert "docs/guard.md" in found["key"]["remedy"]


def test_doctor__owner_delegates_to_something_else__warns(shared: World, tmp_path: Path) -> None:
    snapshot = shared.node.snapshot()
    delegate(shared, shared.token)
    found = checks(shared, tmp_path, OWNER_KEY)
    shared.node.back_to(snapshot)
    assert found["guard"]["result"] == "warning"
    assert shared.token in found["guard"]["value"]
    assert "direct mode" in found["key"]["value"]


@pytest.mark.provokes("alert.delegation")
def test_run__delegation_taken_back_and_given_again__is_told_at_once_and_ends_what_was_asked_for(
    world: World, tmp_path: Path
) -> None:
    given = settings(world, tmp_path, BACKEND_PRIVATE_KEY=KEEPER_KEY, POLL_INTERVAL_S=0.2)
    guard = "0x" + world.node.rpc("eth_getCode", world.owner, "latest")[8:]
    world.start(0, 0)
    with running(tmp_path, "run", **given):
        until(lambda: inside(tmp_path, "sessions", "--json", **given).json())
        until(lambda: signing(tmp_path, given) == "guarded")
        delegate(world, None)
        until(lambda: "alert.delegation" in (tmp_path / "log").read_text())
        inside(tmp_path, "settle", "1", "--yes", **given)
        assert world.is_active(0)
        assert inside(tmp_path, "txs", "--json", **given).json() == []
        delegate(world, guard)
        until(lambda: not world.is_active(0))


def full_block(world: World) -> None:
    """A block that has no room for what is in the pool."""
    world.node.rpc("evm_setBlockGasLimit", hex(30_000))
    world.node.mine()
    world.node.rpc("evm_setBlockGasLimit", hex(30_000_000))


@pytest.mark.provokes("alert.former-key")
def test_run__killed_and_started_with_the_other_key__what_was_under_way_is_seen_through(
    world: World, tmp_path: Path
) -> None:
    """Switching with transactions in flight is safe. what is chosen is what the chain says now, not what it was at
    the last start. After REPLACE_AFTER_BLOCKS, `alert.former-key` says so."""
    delegated = world.node.rpc("eth_getCode", world.owner, "latest")
    world.node.rpc("anvil_setCode", world.owner, "0x")
    base = settings(world, tmp_path, **POLICY)
    for number in range(2):
        world.start(number, number)
    with running(tmp_path, "run", **base, BACKEND_PRIVATE_KEY=OWNER_KEY) as direct:
        until(lambda: len(inside(tmp_path, "sessions", "--json", **base).json()) == 2)
        world.node.rpc("evm_setIntervalMining", 0)
        world.stop_mining()
        inside(tmp_path, "settle", "1", "--yes", **base)
        until(lambda: [tx for tx in inside(tmp_path, "txs", "--json", **base).json() if tx["state"] == "sent"])
        direct.kill()
        direct.wait()
    world.node.rpc("anvil_setCode", world.owner, delegated)
    with running(tmp_path, "run", **base, BACKEND_PRIVATE_KEY=KEEPER_KEY):
        until(lambda: signing(tmp_path, base) == "guarded")
        until(lambda: (full_block(world), "alert.former-key" in (tmp_path / "log").read_text())[1])
        inside(tmp_path, "settle", "2", "--yes", **base)
        until(lambda: len(inside(tmp_path, "txs", "--json", **base).json()) == 2)
        world.node.rpc("evm_setAutomine", True)
        world.node.rpc("evm_setIntervalMining", 1)
        rows = until(
            lambda: (
                len(f := [r for r in inside(tmp_path, "settlements", "--json", **base).json() if r["reason"]]) == 2
                and f
            )
        )
    assert {(row["session_id"], row["ended_by"]) for row in rows} == {(1, "keeper"), (2, "keeper")}
    sent = {tx["sessions"][0]: tx["sender"] for tx in inside(tmp_path, "txs", "--json", **base).json()}
    assert sent == {1: world.owner, 2: KEEPER}
