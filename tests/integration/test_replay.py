"""`langdao-keeper replay`: decisions of a real reconciler, made again, and by another policy."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlmodel import select

from bot.cli.replay import command
from bot.domain import replay
from bot.domain.facts import Kind, Source
from bot.domain.policy import Policy
from bot.errors import Misconfigured
from bot.ops.replay import NAMES, changes
from bot.store import history
from bot.store.tables import DecisionRow, FactRow, TxRow
from tests.support.keeper import KEY, RATE, Keeper, keeper
from tests.support.record import CONTRACT

__all__ = ["keeper"]


@pytest.fixture
async def lived(keeper: Keeper) -> Keeper:
    """A lesson with heartbeats that was hung up, nudged about, and ended by the keeper."""
    await keeper.beats(60)
    await keeper.say(keeper.hint(Kind.ENDED))
    await keeper.at(75)
    action_id, key, payload = keeper.effects.nudges[0]
    said = {"outcome": "delivered", "delivered": True, "mark": payload["mark"], "ask": False}
    await keeper.reconciler.outcome(key, Kind.NUDGE, said, action_id)
    await keeper.at(130)
    action_id, key = keeper.effects.settles[0]
    await keeper.end(KEY, 131)
    tx = TxRow(
        hash=f"0xe{keeper.block}",
        nonce=0,
        sender=KEY.tutor,
        kind="settle",
        raw="0x",
        gas=300_000,
        max_fee="1",
        tip="1",
        stored_ms=keeper.now,
        stored_block=1,
        gas_cost="1000",
    )
    await keeper.writer(lambda session: session.add(tx))
    await keeper.reconciler.outcome(key, Kind.SETTLEMENT, {"outcome": "settled", "reason": None}, action_id)
    return keeper


def run(keeper: Keeper, monkeypatch: pytest.MonkeyPatch, *args: str) -> Result:
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{keeper.database.path}")
    monkeypatch.setenv("RPC_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("CONTRACT_ADDRESS", CONTRACT)
    return CliRunner().invoke(command, list(args))


def document(result: Result) -> Any:
    return json.loads(result.stdout)


async def test_replay__same_policy__no_difference_and_exit_0(lived: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    """re-runs the pure core over the stored facts and stored decision inputs: no difference on the same policy"""
    result = run(lived, monkeypatch, "--json")
    found = document(result)
    assert result.exit_code == 0, result.output
    assert found["different"] == []
    assert found["decisions"] == len(lived.rows(DecisionRow)) >= 4
    assert found["without_inputs"] == 0


async def test_replay__a_stored_fact_is_another__says_which_decisions_differ_and_exits_1(
    lived: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lived.database.write() as session:
        fact = session.exec(select(FactRow).where(FactRow.kind == "ended")).one()
        fact.trust = 0
        session.add(fact)
    result = run(lived, monkeypatch, "--json")
    assert result.exit_code == 1
    different = document(result)["different"]
    assert ("end", "ended") in [(one["was"]["action"], one["was"]["reason"]) for one in different]
    said = run(lived, monkeypatch)
    assert said.exit_code == 1
    assert said.stdout.splitlines()[0].split() == "session when (UTC) was would be differs in".split()
    assert any("end ended" in line and "action, reason" in line for line in said.stdout.splitlines())
    assert f"made again, {len(different)} differences" in said.stdout


async def test_replay__restarted_with_another_policy__each_decision_by_its_own(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    await keeper.say(keeper.hint(Kind.ENDED))
    keeper.boot(Policy(nudge_window_ms=300_000))
    await keeper.reconciler.load(0)
    await keeper.at(400)
    assert keeper.effects.settles
    assert document(run(keeper, monkeypatch, "--json"))["different"] == []


async def test_replay__shorter_window__says_what_it_saves(lived: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    """shows which decisions would have changed and what that would have cost or saved in billed seconds and gas"""
    result = run(lived, monkeypatch, "--json", "--set", "NUDGE_WINDOW_S=40")
    found = document(result)
    assert result.exit_code == 0, result.output
    [one] = found["changed"]
    assert (one["was"]["reason"], one["then"]["reason"]) == ("ended", "ended")
    assert one["then"]["end_ms"] - one["was"]["end_ms"] == -20_000
    assert (found["billed_s"], found["amount"], found["settlements"]) == (-20, str(-20 * RATE), 0)
    said = run(lived, monkeypatch, "--set", "NUDGE_WINDOW_S=40")
    assert said.exit_code == 0
    head, _, row, *rest = said.stdout.splitlines()
    assert head.split() == "session was then billed s settlements nudges".split()
    assert row.split()[0] == "1"
    assert row.count("ended") == 2
    assert row.split()[-3:] == ["-20", "+0", "-1"]
    assert rest == [
        "",
        "1 of 1 sessions would have gone otherwise",
        "Billed      -20 s, -0.002 PYUSD",
        "Settlements +0, gas +0.000000 ETH",
        "Nudges      -1",
    ]


async def test_replay__backend_not_believed__the_settlement_falls_away(
    lived: Keeper, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "other.env"
    file.write_text("# stricter\nTRUST_BACKEND_HINTS=no\nHEARTBEAT_TIMEOUT_S=600\n")
    found = document(run(lived, monkeypatch, "--json", "--policy", str(file)))
    [one] = found["changed"]
    assert one["then"]["reason"] == "silence"
    assert found["billed_s"] > 300


async def test_replay__same_value_supposed__nothing_changes(lived: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(lived, monkeypatch, "--set", "NUDGE_WINDOW_S=60", "--session", "1")
    assert result.exit_code == 0
    assert "0 of 1 sessions would have gone otherwise" in result.output


async def test_replay__session_unknown__exits_1(lived: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(lived, monkeypatch, "--session", "99")
    assert result.exit_code == 1
    assert "99" in result.output


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("NUDGE_WINDOWS", "3", "NUDGE_WINDOW_S"),
        ("POLL_INTERVAL_S", "3", "isn't a setting that decisions go by"),
        ("MASS_END_COUNT", "3", "over all sessions"),
        ("NUDGE_WINDOW_S", "soon", "NUDGE_WINDOW_S"),
    ],
)
def test_changes__no_such_setting_or_value__names_it_and_what_is_near(name: str, value: str, said: str) -> None:
    with pytest.raises(Misconfigured, match=said):
        changes({name: value})


def test_changes__every_name__is_a_field_of_the_policy() -> None:
    values = {"TRUST_BACKEND_HINTS": "no", "END_ORPHANS": "1", "EFFECT_MAX_AGE_S": "60"}
    found = {field for name in NAMES for field in changes({name: values.get(name, "2")})}
    assert found == set(asdict(Policy())) - {"mass_end_count", "mass_end_share"}


async def test_check__facts_that_were_linked_later__not_seen_by_decisions_before(keeper: Keeper) -> None:
    await keeper.say(keeper.hint(Kind.ENDED, Source.SOCKET, "elsewhere"))
    await keeper.at(200)
    await keeper.say(keeper.hint(Kind.READY, room="elsewhere", student=KEY.student, tutor=KEY.tutor))
    await keeper.at(400)
    with keeper.database.read() as session:
        [one] = history.read(session, history.sessions(session))
        assert any(said.joined_after for said in one.facts)
        made, different = replay.check(one, history.Policies(session).at)
    assert made == len(one.decisions) > 1
    assert different == []
