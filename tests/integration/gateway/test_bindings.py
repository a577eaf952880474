"""`user:connect`, verified and not: what somebody who merely knows both addresses can do, and what they can't."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bot.chain.rpc import Rpc
from bot.chain.witness import Witness
from bot.web.gateway import bindings, create_gateway
from tests.support.anvil import World, langdao
from tests.support.gateway import (
    OPEN,
    TOKEN,
    Client,
    client,
    config,
    page,
    post,
    proof,
    record,
    signal,
    signed,
    statement_body,
)
from tests.support.servers import free_port, serving, until

LINK = "https://k.example/v/token"
NUDGE = {
    "id": "n1",
    "text": "End it",
    "link": "https://k.example/s/1",
    "own": {"text": f"End it, or {LINK}", "link": LINK},
}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """Session 1 runs between student 0 and tutor 0."""
    with langdao(students=2, tutors=1) as one:
        one.start(0, 0)
        yield one


@pytest.fixture
def student(world: World) -> str:
    return world.students[0]


@pytest.fixture
async def witness(world: World) -> AsyncIterator[Witness]:
    rpc = Rpc([world.node.url])
    yield Witness(rpc, world.contract)
    await rpc.close()


@pytest.fixture
async def url(witness: Witness) -> AsyncIterator[str]:
    async with serving(create_gateway(config(), witness)) as address:
        yield address


@pytest.fixture
async def keeper(url: str) -> AsyncIterator[Client]:
    async with client(url, auth={"token": TOKEN}) as one:
        yield one


async def bind(one: Client, address: str, given: object) -> dict[str, Any]:
    return dict(await one.call("user:connect", {"address": address, "proof": given}))


async def nudged(keeper: Client, to: str, **more: Any) -> dict[str, Any]:
    return dict(await keeper.call("keeper:nudge", {**NUDGE, "to": [to], **more}))


# What it is good for


async def test_nudge__page_that_signed_and_one_that_did_not__only_the_first_gets_what_is_its_own(
    world: World, url: str, keeper: Client, student: str
) -> None:
    """told apart (`unverified`), and it never gets what is the participant's own"""
    async with page(url, student, world=world) as theirs, page(url, student) as others:
        assert await nudged(keeper, student) == {"delivered": [student], "unverified": [], "undelivered": {}}
        [own], [open_] = theirs.named("keeper:nudge"), await until(lambda: others.named("keeper:nudge"))
    assert own == {"id": "n1", "text": f"End it, or {LINK}", "link": LINK}
    assert open_ == {"id": "n1", "text": "End it", "link": "https://k.example/s/1"}


async def test_nudge__only_a_stranger_acknowledges__it_is_not_delivered(
    world: World, url: str, keeper: Client, student: str
) -> None:
    """A nudge counts as delivered once a page that proved to be this address's acknowledged."""
    async with page(url, student, world=world, acknowledges=False) as theirs, page(url, student) as stranger:
        assert await nudged(keeper, student) == {"delivered": [], "unverified": [student], "undelivered": {}}
        assert theirs.named("keeper:nudge")
        assert "/v/" not in str(stranger.events)


async def test_nudge__stranger_never_answers__the_verified_page_is_not_waited_out(
    world: World, url: str, keeper: Client, student: str
) -> None:
    async with page(url, student, world=world), page(url, student, acknowledges=False):
        assert (await nudged(keeper, student))["delivered"] == [student]


async def test_nudge__what_is_ones_own_to_two_at_once__refused(keeper: Client, world: World, student: str) -> None:
    answer = await keeper.call("keeper:nudge", {**NUDGE, "to": [student, world.tutors[0]]})
    assert answer["reason"] == "bad-own"


async def test_bind__signed_later__from_then_on_verified(world: World, url: str, keeper: Client, student: str) -> None:
    async with page(url, student) as one:
        assert await bind(one, student, proof(world, student)) == {"ok": True, "verified": True}
        assert await one.call("user:connect", {"address": student}) == {"ok": True, "verified": True}
        assert (await nudged(keeper, student))["delivered"] == [student]


# What it isn't good for


async def test_bind__verified_page_binds_another_address__is_not_verified_as_that(
    world: World, url: str, keeper: Client, student: str
) -> None:
    """Another address than before is another page: what was proved of the first says nothing of it."""
    tutor = world.tutors[0]
    async with page(url, student, world=world) as one:
        assert await one.call("user:connect", {"address": tutor}) == {"ok": True, "verified": False}
        assert (await nudged(keeper, tutor))["unverified"] == [tutor]
        assert (await nudged(keeper, student))["undelivered"] == {student: "not-connected"}
        assert await one.call("user:connect", {"address": student}) == {"ok": True, "verified": False}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"by": 1}, "bad-signature"),
        ({"chain_id": 1}, "bad-signature"),
        ({"contract": "0x" + "11" * 20}, "bad-signature"),
        ({"expires_s": 5}, "expired"),
        ({"expires_s": 9_999_999_999}, "too-long"),
        ({"signature": "0x12"}, "bad-signature"),
        ({"signature": None}, "malformed-signature"),
        ({"nonce_of_another": True}, "bad-signature"),
        (None, "not-an-object"),
    ],
)
async def test_bind__proof_that_does_not_hold__refused_and_the_binding_is_as_before(
    world: World, url: str, keeper: Client, student: str, change: dict[str, Any] | None, reason: str
) -> None:
    given: object = "me"
    if change is not None:
        signing = {name: value for name, value in change.items() if name in ("chain_id", "contract", "expires_s")}
        made = proof(world, student, by=world.students[1] if "by" in change else None, **signing)
        made |= {"signature": change["signature"]} if "signature" in change else {}
        made |= {"nonce": "0x" + "00" * 16} if "nonce_of_another" in change else {}
        given = made
    async with page(url, world.tutors[0]) as one:
        answer = await bind(one, student, given)
        assert (answer["ok"], answer["reason"]) == (False, reason)
        assert (await nudged(keeper, world.tutors[0]))["unverified"] == [world.tutors[0]]
        assert (await nudged(keeper, student))["undelivered"] == {student: "not-connected"}


async def test_bind__statement_about_a_session__is_no_proof(world: World, url: str, student: str) -> None:
    """none of one kind is one of the other"""
    body = statement_body(*signed(world, student, "still-here"))
    async with client(url) as one:
        assert (await bind(one, student, body))["reason"] == "bad-signature"


async def test_statement__proof_of_a_binding__ends_nothing(
    world: World, url: str, http: aiohttp.ClientSession, student: str
) -> None:
    for action in ("end-session", "still-here", "bind"):
        body = {**proof(world, student), "action": action, "address": student}
        status, said = await post(http, url, "/api/sessions/1/statements", body)
        assert (status, said["reason"]) in ((403, "bad-signature"), (400, "bad-action"))
    assert await record(http, url) == {}


async def test_bind__signature_given_twice__taken_once_also_over_a_restart(
    world: World, witness: Witness, student: str, tmp_path: Path
) -> None:
    """verified only by that address's signature, used once, on this connection alone"""
    given, kept = proof(world, student), config(state_file=tmp_path / "gateway.db")
    async with serving(create_gateway(kept, witness)) as url, client(url) as one, client(url) as thief:
        answers = await asyncio.gather(*(bind(sock, student, given) for sock in (one, thief)))
        assert sorted(str(answer.get("reason")) for answer in answers) == ["None", "used"]
    async with serving(create_gateway(kept, witness)) as url, client(url) as thief:
        assert (await bind(thief, student, given))["reason"] == "used"


async def test_bind__node_away__bound_unverified_and_the_same_proof_may_come_again(world: World, student: str) -> None:
    """While the chain can't be asked nothing is used up."""
    port, given = free_port(), proof(world, student)
    rpc = Rpc([f"http://127.0.0.1:{port}"], timeout_s=1)
    async with serving(create_gateway(config(), Witness(rpc, world.contract))) as url, client(url) as one:
        answer = await bind(one, student, given)
        assert (answer["ok"], answer["verified"], bool(answer["why"])) == (True, False, True)
    await rpc.close()
    rpc = Rpc([world.node.url])
    async with serving(create_gateway(config(), Witness(rpc, world.contract))) as url, client(url) as one:
        assert await bind(one, student, given) == {"ok": True, "verified": True}
    await rpc.close()


async def test_bind__more_proofs_than_a_minute_has__bound_unverified_and_others_are_looked_at(
    world: World, witness: Witness, student: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One peer may have so many proofs looked at in a minute"""
    monkeypatch.setattr(bindings, "PROOFS_PER_MINUTE", 2)  # the next after half a minute
    app = create_gateway(config(socket_events_per_minute=100), witness)
    flood, other = {"X-Forwarded-For": "192.0.2.1"}, {"X-Forwarded-For": "192.0.2.2"}
    wrong = proof(world, student) | {"nonce": "0x" + "00" * 16}
    async with serving(app) as url, client(url, headers=flood) as one, client(url, headers=other) as two:
        for _ in range(2):
            assert (await bind(one, student, wrong))["reason"] == "bad-signature"
        answer = await bind(one, student, given := proof(world, student))
        assert (answer["ok"], answer["verified"]) == (True, False)
        assert "too many signatures" in answer["why"]
        assert await bind(two, student, given) == {"ok": True, "verified": True}


async def test_bind__smart_account__asked_on_chain(world: World, url: str, keeper: Client, student: str) -> None:
    """ERC-1271: the account's contract says whether it signed"""
    yes, no = "0x" + "a1" * 20, "0x" + "a2" * 20
    # Answers every call with isValidSignature's magic value, or with nothing.
    world.node.rpc("anvil_setCode", yes, "0x631626ba7e60e01b60005260206000f3")
    world.node.rpc("anvil_setCode", no, "0x60006000f3")
    async with client(url) as one, client(url) as other:
        for sock, address, verified in ((one, yes, True), (other, no, False)):
            answer = await bind(sock, address, proof(world, address, by=student))
            assert answer.get("verified", False) is verified


# Everything else that is open to who knows both addresses


async def test_stranger__documented_posts_and_a_room_of_both__all_is_told_as_anonymous(
    world: World, url: str, http: aiohttp.ClientSession, student: str
) -> None:
    """make the keeper look and nudge; never end anything"""
    room = {"requestId": "req_9", "studentAddress": student, "tutorAddress": world.tutors[0], "languageId": 1}
    async with client(url) as listener, page(url, student) as stranger:
        assert (await stranger.call("session:create", room))["ok"]
        for kind in ("user-connected", "session-heartbeat", "user-disconnected"):
            await post(http, url, OPEN, signal(kind, "req_9", userRole="student"))
        await post(http, url, OPEN, signal("session-ended", "req_9", endedBy="student", userAddress=student))
        await until(lambda: listener.named("webrtc:session-ended"))
        said = [payload for _, payload in listener.events]
    assert len(said) >= 4
    assert {one["trust"] for one in said} == {"anonymous"}
