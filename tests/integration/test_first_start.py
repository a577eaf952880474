"""A first start, on a chain with a past: what was before is recorded and moves nothing."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from bench.chain import emitter
from bot.domain.facts import Hint, Kind, SessionKey, Source
from bot.reconciler.start import FIRST
from bot.store.db import Database
from bot.store.tables import ActionRow, AlertRow, DecisionRow, FactRow, Settlement
from tests.integration.test_cli_daemon import running, until
from tests.support.anvil import OWNER_KEY, Anvil, anvil, calldata
from tests.support.keeper import KEY, OTHER, Keeper
from tests.support.servers import free_port, taking_all
from tests.support.sessions import OTHER_STUDENT, STUDENT, TUTOR

AGE_S = 10_800  # of the sessions that are open at the first start


@pytest.fixture
async def keeper(tmp_path: Path) -> AsyncIterator[Keeper]:
    """Two sessions have run for three hours, a third has ended, and no keeper was ever there."""
    keeper = Keeper(tmp_path / "keeper.db")
    await keeper.start(KEY, tell=False)
    await keeper.start(OTHER, tell=False)
    over = SessionKey(3, OTHER_STUDENT, TUTOR)
    await keeper.start(over, tell=False)
    await keeper.end(over, 5, tell=False)
    keeper.now += AGE_S * 1_000
    keeper.boot()
    yield keeper
    keeper.writer.close()
    keeper.database.dispose()


async def first_start(keeper: Keeper) -> None:
    await keeper.reconciler.load(0)
    await keeper.reconciler.socket_feed(True)


def recorded(keeper: Keeper, kind: Kind, seconds_ago: float, **more: Any) -> Hint:
    said_ms = keeper.now - round(seconds_ago * 1000)
    return keeper.hint(kind, Source.RECORD, student=STUDENT, tutor=TUTOR, said_ms=said_ms, can_return=True, **more)


async def test_first_start__sessions_are_open__one_digest_to_the_operator_and_nothing_else(keeper: Keeper) -> None:
    """sessions then open are one digest to the operator"""
    await first_start(keeper)
    await keeper.at(AGE_S + 7_300)
    [alert] = keeper.rows(AlertRow)
    assert alert.name == FIRST
    assert "2 sessions are open on chain (1, 2)" in alert.text
    assert [name for name, _ in keeper.effects.alerts] == [FIRST]
    assert keeper.rows(ActionRow) == []


async def test_first_start__sessions_are_over_and_not_final__no_decision_about_them(keeper: Keeper) -> None:
    """another reason to wait is no news, nor that a session has ended on which nothing was ever decided"""
    await first_start(keeper)
    assert {row.session_key for row in keeper.rows(DecisionRow)} == {str(KEY), str(OTHER)}
    await keeper.end(OTHER, AGE_S + 1)
    await keeper.restart()
    closed = [row.session_key for row in keeper.rows(DecisionRow) if row.action == "close"]
    assert closed == [str(OTHER)]


async def test_first_start__nothing_is_open__nobody_is_told(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "keeper.db")
    await first_start(keeper)
    assert keeper.rows(AlertRow) == []
    keeper.writer.close()


@pytest.mark.parametrize("ago_s", [1, 700])
async def test_first_start__the_backend_recorded_an_end_before_it__recorded_only(keeper: Keeper, ago_s: float) -> None:
    """What happened before the first start is recorded only"""
    await first_start(keeper)
    await keeper.say(recorded(keeper, Kind.ENDED, ago_s))
    await keeper.at(AGE_S + 1_000)
    [fact] = keeper.rows(FactRow)
    assert (fact.kind, fact.session_key) == ("ended", str(KEY))
    assert keeper.rows(ActionRow) == []
    await keeper.restart()
    await keeper.reconciler.socket_feed(True)
    await keeper.say(recorded(keeper, Kind.ENDED, ago_s + 1_000))
    await keeper.at(AGE_S + 2_000)
    assert keeper.rows(ActionRow) == [], "nor after a restart"


async def test_first_start__something_is_heard_from_then_on__counts_as_for_any_other(keeper: Keeper) -> None:
    """signals received from then on count for them as for any other"""
    await first_start(keeper)
    await keeper.at(AGE_S + 10)
    await keeper.say(keeper.hint(Kind.ENDED, student=STUDENT, tutor=TUTOR))
    await keeper.at(AGE_S + 100)
    assert [row.kind for row in keeper.rows(ActionRow)] == ["nudge", "nudge", "settle"]
    assert [key for _, key in keeper.effects.settles] == [KEY]


async def test_later_start__an_end_recorded_while_it_was_down__ends_it_and_old_ones_message_nobody(
    keeper: Keeper,
) -> None:
    """age never excuses a settlement: a session still active on chain is decided by the table, however old its hint"""
    await first_start(keeper)
    later = SessionKey(4, OTHER_STUDENT, TUTOR)
    await keeper.end(KEY, AGE_S + 5)
    await keeper.start(later, AGE_S + 10)
    keeper.now += 2_000_000
    await keeper.restart()
    await keeper.reconciler.socket_feed(True)
    said_ms = keeper.now - 900_000
    await keeper.say(keeper.hint(Kind.ENDED, Source.RECORD, student=OTHER_STUDENT, tutor=TUTOR, said_ms=said_ms))
    await keeper.at(AGE_S + 2_100)
    assert [(row.kind, row.session_key) for row in keeper.rows(ActionRow)] == [("settle", str(later))]


async def test_second_start__no_other_digest(keeper: Keeper) -> None:
    await first_start(keeper)
    await keeper.restart()
    assert len(keeper.rows(AlertRow)) == 1


async def test_one_command_alone__is_no_first_start(keeper: Keeper) -> None:
    await keeper.reconciler.load(0, watches=False)
    assert keeper.rows(AlertRow) == []
    assert keeper.reconciler.memory.first_start.at_ms == 0
    assert keeper.rows(DecisionRow) == [], "other sessions are none of its business"
    await keeper.reconciler.settle(2, {"by": "operator"})
    assert [key for _, key in keeper.effects.settles] == [OTHER]


# A whole daemon on a chain with a past -------------------------------------------------------------------------------


def past(node: Anvil, lessons: int) -> tuple[str, int]:
    """Contract and first block of a chain on which so many lessons have been, the last 64 of them open."""
    owner = node.rpc("eth_accounts")[0]
    node.rpc("evm_setAutomine", False)
    deployed = node.rpc("eth_sendTransaction", {"from": owner, "data": emitter(), "gas": hex(5_000_000)})
    node.mine()
    receipt = node.rpc("eth_getTransactionReceipt", deployed)
    call = {"from": owner, "to": receipt["contractAddress"], "gas": hex(900_000)}
    call["data"] = calldata("emit_logs(uint256,uint256)", 64, 2)
    calls = range(1, -(-lessons // 64) + 2)
    for begin in range(0, len(calls), 20):
        part = calls[begin : begin + 20]
        node.batch([("eth_sendTransaction", [call | {"nonce": hex(nonce)}]) for nonce in part])
        node.mine()
    node.mine(2)
    node.rpc("evm_setAutomine", True)
    return str(receipt["contractAddress"]), int(receipt["blockNumber"], 16)


@pytest.mark.provokes("alert.first-start")
def test_run__first_start_on_a_chain_with_10000_past_sessions__no_message_leaves(tmp_path: Path) -> None:
    """A test starts on a chain with 10,000 past sessions: no message leaves."""
    log, bind = tmp_path / "log", f"127.0.0.1:{free_port()}"
    with taking_all() as (place, heard), anvil("--gas-limit", "60000000") as node:
        contract, deployed = past(node, 10_000)
        given = {
            "RPC_URL": node.url,
            "CONTRACT_ADDRESS": contract,
            "START_BLOCK": deployed,
            "DATABASE_URL": f"sqlite:///{tmp_path}/keeper.db",
            "HTTP_BIND": f"127.0.0.1:{free_port()}",
            "CONFIRMATIONS": 1,
            "GATEWAY": 1,
            "GATEWAY_BIND": bind,
            "GATEWAY_TOKEN": "a-token-to-share",
            "NUDGE_WEBHOOK_URL": f"http://{place}/nudge",
            "NUDGE_WEBHOOK_SECRET": "s" * 32,
            "ORPHAN_AFTER_S": 1,
            "APPRISE_URLS": f"json://{place}/operator",
            "BACKEND_PRIVATE_KEY": OWNER_KEY,
        }
        with running(tmp_path, "run", **given) as daemon:
            until(lambda: "http.listening" in log.read_text() and heard, 90)
            time.sleep(8)  # nudges and bills are looked for every two seconds
            assert daemon.poll() is None
    database = Database(f"sqlite:///{tmp_path}/keeper.db")
    with database.read() as session:
        assert len(session.exec(select(Settlement.session_id)).all()) >= 10_000
        assert session.exec(select(ActionRow.id)).all() == []
        assert session.exec(select(AlertRow.name)).all() == [FIRST]
    database.dispose()
    [(path, digest)] = heard
    assert path == "/operator"
    assert "64 sessions are open on chain" in json.loads(digest)["message"]
    assert '"tx.stored"' not in log.read_text()
