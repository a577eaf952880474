"""Whose word counts, as a real chain says it: sessions, participants, signatures of keys and of smart accounts."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from bot.chain.rpc import Rpc
from bot.chain.witness import Witness, signer_of
from bot.domain.address import checksum
from bot.domain.facts import SessionKey
from bot.errors import TryAgain, Untrue
from tests.support.anvil import ENGLISH, RATE, World, calldata, langdao
from tests.support.gateway import signed
from tests.support.servers import free_port

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """Session 1 runs between student 0 and tutor 0; session 2, of student 1 and tutor 1, is over."""
    with langdao() as one:
        one.start(0, 0)
        one.start(1, 1)
        one.end(1)
        yield one


@pytest.fixture
async def witness(world: World) -> AsyncIterator[Witness]:
    rpc = Rpc([world.node.url])
    yield Witness(rpc, world.contract)
    await rpc.close()


def now_s() -> int:
    return int(time.time())


@pytest.mark.parametrize("action", ["end-session", "still-here"])
@pytest.mark.parametrize("who", ["students", "tutors"])
async def test_verify__signed_by_a_participant__the_session(
    world: World, witness: Witness, action: str, who: str
) -> None:
    statement, signature = signed(world, getattr(world, who)[0], action)
    assert await witness.verify(statement, signature, now_s()) == SessionKey(1, world.students[0], world.tutors[0])


async def refusal(witness: Witness, statement: Any, signature: str, at_s: int | None = None) -> str:
    with pytest.raises(Untrue) as untrue:
        await witness.verify(statement, signature, at_s or now_s())
    return untrue.value.reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"session_id": 2}, "not-a-participant"),
        ({"session_id": 99}, "no-such-session"),
        ({"chain_id": 1}, "other-chain"),
        ({"contract": "0x" + "11" * 20}, "other-chain"),
        ({"expires_s": 5}, "expired"),
        ({"expires_s": now_s() + 7200}, "too-long"),
    ],
)
async def test_verify__about_something_else_or_another_time__untrue(
    world: World, witness: Witness, change: dict[str, Any], reason: str
) -> None:
    assert await refusal(witness, *signed(world, world.students[0], **change)) == reason


async def test_verify__session_over__untrue(world: World, witness: Witness) -> None:
    assert await refusal(witness, *signed(world, world.students[1], session_id=2)) == "over"


async def test_verify__signed_by_the_other_participant_or_a_stranger__untrue(world: World, witness: Witness) -> None:
    for by in (world.tutors[0], world.owner):
        assert await refusal(witness, *signed(world, world.students[0], by=by)) == "bad-signature"
    assert await refusal(witness, *signed(world, world.owner)) == "not-a-participant"


@pytest.mark.parametrize(
    "change", [{"session_id": 3}, {"nonce": "0x" + "00" * 16}, {"action": "still-here"}, {"expires_s": now_s() + 60}]
)
async def test_verify__signature_of_another_statement__untrue(
    world: World, witness: Witness, change: dict[str, Any]
) -> None:
    _, signature = signed(world, world.students[0], **change)
    statement, _ = signed(world, world.students[0])
    assert await refusal(witness, statement, signature) == "bad-signature"


@pytest.mark.parametrize("signature", ["0x00", "0x" + "00" * 65, "0x" + "ff" * 65, "0x" + "ab" * 4096])
async def test_verify__bytes_that_are_no_signature__untrue(world: World, witness: Witness, signature: str) -> None:
    statement, _ = signed(world, world.students[0])
    assert await refusal(witness, statement, signature) == "bad-signature"


def test_signer_of__the_other_form_of_a_signature__nobody(world: World) -> None:
    """Of a signature's two forms only the low one counts."""
    statement, signature = signed(world, world.students[0])
    raw = bytes.fromhex(signature[2:])
    assert signer_of(statement.digest(), raw) == world.students[0]
    assert signer_of(statement.digest(), raw[:64] + bytes([raw[64] - 27])) == world.students[0]
    high = ORDER - int.from_bytes(raw[32:64], "big")
    assert signer_of(statement.digest(), raw[:32] + high.to_bytes(32, "big") + bytes([55 - raw[64]])) is None


async def test_verify__smart_account__asked_by_erc_1271(world: World, witness: Witness) -> None:
    account, _ = world.deploy("mocks/SmartAccount.vy", ["address"], [world.owner])
    world.node.rpc("anvil_setBalance", account, hex(10**18))
    world.node.rpc("anvil_impersonateAccount", account)
    world.do(world.owner, "mint(address,uint256)", account, RATE * 10_000, to=world.token)
    world.do(account, "approve(address,uint256)", world.contract, RATE * 10_000, to=world.token)
    world.do(account, "registerStudent(uint8,uint256)", ENGLISH, RATE)
    world.do(account, "depositFunds(uint256)", RATE * 10_000)
    world.send(account, world.contract, calldata("startSession(address,uint8)", world.tutors[2], ENGLISH))
    session_id = world.counter()
    prefix = b"smart account signature, 32 byte".hex()

    statement, signature = signed(world, account, session_id=session_id, by=world.owner)
    key = await witness.verify(statement, f"0x{prefix}{signature[2:]}", now_s())
    assert key == SessionKey(session_id, account, world.tutors[2])
    assert await refusal(witness, statement, signature) == "bad-signature"  # the key's own, not the account's: reverts
    other, wrong = signed(world, account, session_id=session_id, by=world.students[2])
    assert await refusal(witness, other, f"0x{prefix}{wrong[2:]}") == "bad-signature"
    # A contract that answers something, but isn't made for this: the token.
    assert not await witness._signed(signed(world, world.token, by=world.owner)[0], signature)


async def test_verify__account_reverts_with_a_providers_words__a_no_and_the_node_goes_on_being_asked(
    world: World, witness: Witness
) -> None:
    """Anybody may be a student, and write what their account answers: it mustn't put everybody's node to rest."""
    account = "0x" + "c0de" * 10
    words = b"rate limit: too many requests"
    reason = bytes.fromhex("08c379a0") + (32).to_bytes(32) + len(words).to_bytes(32) + words.ljust(32, b"\0")
    # codecopy(0, 10, len) revert(0, len)
    code = bytes([0x60, len(reason), 0x60, 10, 0x5F, 0x39, 0x60, len(reason), 0x5F, 0xFD]) + reason
    world.node.rpc("anvil_setCode", account, "0x" + code.hex())
    statement, signature = signed(world, str(checksum(account)), by=world.owner)
    assert not await witness._signed(statement, signature)
    assert await witness.session(1) is not None  # nothing is at rest


async def test_verify__node_away__nothing_is_known(world: World) -> None:
    """A node that can't be asked is TryAgain, and then nothing is known."""
    rpc = Rpc([f"http://127.0.0.1:{free_port()}"], timeout_s=1)
    statement, signature = signed(world, world.students[0])
    with pytest.raises(TryAgain):
        await Witness(rpc, world.contract).verify(statement, signature, now_s())
    await rpc.close()


async def test_verify__no_contract_there__nothing_is_known(world: World) -> None:
    rpc = Rpc([world.node.url])
    statement, signature = signed(world, world.students[0], contract=world.owner)
    with pytest.raises(TryAgain):
        await Witness(rpc, world.owner).verify(statement, signature, now_s())
    await rpc.close()
