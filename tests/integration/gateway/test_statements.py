"""Signed statements: `POST /api/sessions/{id}/statements`, what is emitted, and what the keeper makes of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest

from bot.chain.rpc import Rpc
from bot.chain.witness import Witness
from bot.domain.facts import Hint, Kind, Role, SessionKey, Source, Trust
from bot.errors import TryAgain
from bot.feeds import wire
from bot.feeds.record import read_record
from bot.feeds.statements import Statements, as_fields
from bot.web.gateway import create_gateway
from bot.web.gateway.config import wall_ms
from tests.support.anvil import World, langdao
from tests.support.gateway import HOOK, OPEN, TOKEN, client, config, post, record, signal, signed, statement_body
from tests.support.servers import free_port, serving, until


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """Session 1 runs between student 0 and tutor 0; session 2, of student 1 and tutor 1, is over."""
    with langdao(students=2, tutors=2) as one:
        one.start(0, 0)
        one.start(1, 1)
        one.end(1)
        yield one


@pytest.fixture
async def witness(world: World) -> AsyncIterator[Witness]:
    rpc = Rpc([world.node.url])
    yield Witness(rpc, world.contract)
    await rpc.close()


@pytest.fixture
async def url(witness: Witness) -> AsyncIterator[str]:
    async with serving(create_gateway(config(), witness)) as address:
        yield address


def path(session_id: object = 1) -> str:
    return f"/api/sessions/{session_id}/statements"


# At the gateway


async def test_statement__end_signed_by_the_student__emitted_as_signed_with_all_that_proves_it(
    world: World, url: str, http: aiohttp.ClientSession
) -> None:
    statement, signature = signed(world, world.students[0])
    async with client(url) as listener:
        assert await post(http, url, path(), statement_body(statement, signature)) == (202, {"ok": True})
        said = await listener.first("webrtc:session-ended")
    assert said.pop("timestamp")
    assert said == {
        "sessionId": "1",
        "studentAddress": world.students[0],
        "tutorAddress": world.tutors[0],
        "endedBy": "student",
        "reason": "signed",
        "trust": "signed",
        "statement": as_fields(statement),
        "signature": signature,
    }


async def test_statement__still_here_after_an_end__withdraws_it_and_is_emitted(
    world: World, url: str, http: aiohttp.ClientSession
) -> None:
    await post(http, url, HOOK, signal("session-ended", 1))
    async with client(url) as listener:
        body = statement_body(*signed(world, world.tutors[0], "still-here"))
        assert (await post(http, url, path(), body))[0] == 202
        said = await listener.first("webrtc:still-here")
    assert (said["userRole"], said["trust"], said["statement"]["action"]) == ("tutor", "signed", "still-here")
    assert (await record(http, url))["1"]["ended"] is None


async def test_statement__sent_again__409_and_no_second_event(
    world: World, url: str, http: aiohttp.ClientSession
) -> None:
    body = statement_body(*signed(world, world.students[0]))
    async with client(url) as listener:
        answers = await asyncio.gather(*(post(http, url, path(), body) for _ in range(5)))
        assert sorted(status for status, _ in answers) == [202, 409, 409, 409, 409]
        await listener.first("webrtc:session-ended")
        assert (await post(http, url, path(), body))[1]["reason"] == "used"
        await asyncio.sleep(0.1)
        assert len(listener.events) == 1


@pytest.mark.parametrize(
    ("session_id", "change", "status", "reason"),
    [
        (1, {"signature": "0x12"}, 403, "bad-signature"),
        (1, {"nonce": "0x" + "00" * 16}, 403, "bad-signature"),
        (1, {"action": "still-here"}, 403, "bad-signature"),
        (1, {"expires": 5}, 400, "expired"),
        (1, {"signature": "me"}, 400, "malformed-signature"),
        (1, {"address": "0x" + "11" * 20}, 403, "not-a-participant"),
        (2, {}, 403, "not-a-participant"),
        (9, {}, 404, "no-such-session"),
        ("req_1", {}, 400, "bad-session-id"),
        (0, {}, 400, "bad-session-id"),
    ],
)
async def test_statement__that_doesnt_hold__problem_details_and_no_event(
    world: World,
    url: str,
    http: aiohttp.ClientSession,
    session_id: object,
    change: dict[str, Any],
    status: int,
    reason: str,
) -> None:
    body = {**statement_body(*signed(world, world.students[0])), **change}
    async with client(url) as listener:
        async with http.post(url + path(session_id), json=body) as answer:
            assert (answer.status, answer.content_type) == (status, "application/problem+json")
            assert (await answer.json(content_type=None))["reason"] == reason
        await asyncio.sleep(0.1)
        assert listener.events == []
    assert await record(http, url) == {}


async def test_statement__node_away__503_and_the_same_one_may_come_again(
    world: World, http: aiohttp.ClientSession
) -> None:
    """While the chain can't be asked nothing is used up: the same statement may be sent again."""
    rpc = Rpc([f"http://127.0.0.1:{free_port()}", world.node.url], timeout_s=1)
    body = statement_body(*signed(world, world.students[0]))
    away = Witness(Rpc([f"http://127.0.0.1:{free_port()}"], timeout_s=1), world.contract)
    app = create_gateway(config(), away)
    async with serving(app) as url:
        async with http.post(url + path(), json=body) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
        away.rpc = away._langdao._rpc = rpc
        assert (await post(http, url, path(), body))[0] == 202
    await rpc.close()


async def test_statement__no_chain_configured__503_names_the_settings(
    http: aiohttp.ClientSession, world: World
) -> None:
    async with serving(create_gateway(config())) as url:
        status, said = await post(http, url, path(), statement_body(*signed(world, world.students[0])))
    assert status == 503
    assert "RPC_URL and CONTRACT_ADDRESS" in said["detail"]


@pytest.mark.parametrize("where", [HOOK, OPEN])
async def test_trust__forged_in_a_post__does_not_survive(
    world: World, url: str, http: aiohttp.ClientSession, where: str
) -> None:
    statement, signature = signed(world, world.students[0])
    forged = {"trust": "signed", "statement": as_fields(statement), "signature": signature}
    async with client(url) as listener:
        await post(http, url, where, signal("session-ended", 1, **forged))
        await post(http, url, where, signal("session-heartbeat", 1, **forged))
        end = await listener.first("webrtc:session-ended")
        beat = await listener.first("webrtc:session-heartbeat")
    for said in (end, beat):
        assert said["trust"] == ("secret" if where == HOOK else "anonymous")
        assert not said.keys() & {"statement", "signature"}


async def state(http: aiohttp.ClientSession, url: str, name: object) -> dict[str, Any]:
    async with http.get(f"{url}/api/sessions/{name}") as answer:
        assert answer.status == 200
        assert "signature" not in await answer.text()
        return dict(await answer.json())


async def test_state__of_a_session__chain_and_call_and_no_signature(
    world: World, url: str, http: aiohttp.ClientSession
) -> None:
    await post(http, url, path(), statement_body(*signed(world, world.students[0])))
    said = await state(http, url, 1)
    chain, [room] = said["chain"], said["rooms"]
    assert (chain["state"], chain["chainId"], chain["contract"]) == ("read", 31_337, world.contract)
    session = chain["session"]
    assert (session["studentAddress"], session["tutorAddress"]) == (world.students[0], world.tutors[0])
    assert (session["isActive"], session["ratePerSecond"], session["endTime"]) == (True, "1000", None)
    assert (room["room"], room["ended"]["trust"], room["ended"]["endedBy"]) == ("1", "signed", "student")
    over = await state(http, url, 2)
    assert (over["chain"]["session"]["isActive"], over["rooms"]) == (False, [])
    async with http.get(f"{url}/api/sessions/77") as answer:
        assert (answer.status, answer.content_type) == (404, "application/problem+json")


async def test_state__by_the_rooms_name__finds_the_running_session_of_the_two(
    world: World, url: str, http: aiohttp.ClientSession
) -> None:
    lesson = {"studentAddress": world.students[0], "tutorAddress": world.tutors[0]}
    await post(http, url, HOOK, signal("user-connected", "req_9", userRole="student", **lesson))
    for name in ("req_9", "1"):
        said = await state(http, url, name)
        assert said["chain"]["session"]["sessionId"] == 1
        assert [(room["room"], room["here"][0]["role"]) for room in said["rooms"]] == [("req_9", "student")]


async def test_state__node_away_or_none__says_so(world: World, http: aiohttp.ClientSession) -> None:
    rpc = Rpc([f"http://127.0.0.1:{free_port()}"], timeout_s=1)
    for witness, how in ((Witness(rpc, world.contract), "away"), (None, "not-configured")):
        async with serving(create_gateway(config(), witness)) as url:
            await post(http, url, HOOK, signal("user-connected", 1))
            said = await state(http, url, 1)
            assert (said["chain"]["state"], said["chain"]["session"]) == (how, None)
            assert [room["room"] for room in said["rooms"]] == ["1"]
    await rpc.close()


# At the keeper


KEY = SessionKey(1, "0x" + "11" * 20, "0x" + "22" * 20)


class Gate:
    """A keeper's way in: what it passes on, and what it was told is signed."""

    def __init__(self, verify: Any) -> None:
        self.passed: list[Hint] = []
        self.words: dict[str, Hint] = {}
        self.statements = Statements(self.passed.append, verify, self._signed, clock_ms=wall_ms, again_s=0.05)

    async def _signed(self, word: Hint, mark: str) -> bool:
        return self.words.setdefault(mark, word) is word

    async def heard(self, said: dict[str, Any], event: str = "webrtc:session-ended") -> None:
        self.statements.take(wire.from_socket(event, said, 1_800_000_000_000, can_return=True, says_trust=True))
        await until(lambda: not self.statements._waiting)


async def test_keeper__statement_from_the_gateway__verified_again_and_proven(
    world: World, witness: Witness, url: str, http: aiohttp.ClientSession
) -> None:
    gate = Gate(witness.verify)
    async with client(url) as listener:
        await post(http, url, path(), statement_body(*signed(world, world.students[0])))
        await post(http, url, path(), statement_body(*signed(world, world.tutors[0], "still-here")))
        await gate.heard(await listener.first("webrtc:session-ended"))
        await gate.heard(await listener.first("webrtc:still-here"), "webrtc:still-here")
    end, here = gate.words.values()
    assert (end.kind, end.source, end.trust) == (Kind.SETTLE, Source.PARTICIPANT, Trust.PROVEN)
    assert (end.session_id, end.room, end.role) == (1, "1", Role.STUDENT)
    assert (here.kind, here.trust, here.role) == (Kind.STILL_HERE, Trust.PROVEN, Role.TUTOR)
    assert gate.passed == []
    for hint in await read_record(url, TOKEN):  # what was heard on the socket is in the record too, and used
        gate.statements.take(hint)
    await until(lambda: gate.statements.counters["used"] == 2)
    assert len(gate.words) == 2


@pytest.mark.parametrize("change", [{"sessionId": 2}, {"chainId": 5}, {"nonce": "0x" + "00" * 16}, {"action": 5}])
async def test_keeper__gateway_claims_what_isnt_so__refused_and_nothing_of_it_counts(
    world: World, witness: Witness, change: dict[str, Any]
) -> None:
    """One that doesn't hold is counted and logged as `statement.refused`, and nothing of it counts."""
    gate = Gate(witness.verify)
    statement, signature = signed(world, world.students[0])
    said = {"sessionId": "1", "trust": "signed", "signature": signature}
    await gate.heard({**said, "statement": {**as_fields(statement), **change}})
    assert (gate.words, gate.passed, gate.statements.counters["refused"]) == ({}, [], 1)


async def test_keeper__signed_claimed_without_a_statement__anonymous(world: World) -> None:
    gate = Gate(None)
    await gate.heard({"sessionId": "1", "trust": "signed"})
    assert [hint.trust for hint in gate.passed] == [Trust.ANONYMOUS]


async def test_keeper__node_away__tried_again_until_it_answers(world: World) -> None:
    asked: list[int] = []

    async def verify(*_: Any) -> SessionKey:
        asked.append(1)
        if len(asked) < 3:
            raise TryAgain("away")
        return KEY

    gate = Gate(verify)
    statement, signature = signed(world, world.students[0])
    await gate.heard({"sessionId": "1", "trust": "signed", "signature": signature, "statement": as_fields(statement)})
    assert (len(asked), len(gate.words)) == (3, 1)
