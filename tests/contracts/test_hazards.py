"""The hazards of the deployed contract, kept on purpose: each is something the keeper has to live with.

Numbers are those of contracts/README.md.
"""

import pytest
from conftest import DEPOSIT, FRENCH, RATE, SPANISH, reverts
from eth_abi import encode
from web3 import Web3

PLENTY_OF_GAS = 1_000_000


# 1. Keyed by tutor, not by session


def test_late_end__ends_the_next_students_session(langdao, world, student, other_student, tutor, owner, lesson):
    world.student(other_student)
    langdao.endSession(tutor, sender=student)
    following = world.start(other_student, tutor)
    world.after(20)
    # Meant for `lesson`: nothing in the call can say so.
    receipt = langdao.endSession(tutor, sender=owner)
    (ended,) = receipt.events.filter(langdao.SessionEnded)
    assert ended.sessionId == following
    assert langdao.getStudentPYUSDBalance(other_student) == DEPOSIT - 20 * RATE


def test_one_block__end_start_end__all_succeed_and_the_new_session_lasts_0_s(
    langdao, world, node, call, student, other_student, tutor, owner, lesson
):
    world.student(other_student)
    receipts = node.one_block(
        (call.endSession(tutor.address), student),
        (call.startSession(tutor.address, SPANISH), other_student),
        (call.endSession(tutor.address), owner),
    )
    assert [receipt["status"] for receipt in receipts] == [1, 1, 1]
    following = langdao.getSession(lesson + 1)
    assert following.student == other_student
    assert not following.isActive
    assert following.endTime == following.startTime
    assert following.totalPaid == 0


def test_one_block__two_ends__the_second_fails(node, call, student, tutor, owner, lesson):
    first, second = node.one_block((call.endSession(tutor.address), student), (call.endSession(tutor.address), owner))
    assert (first["status"], second["status"]) == (1, 0)


# 2. Gas trap


def test_gas_trap__estimate_of_the_first_second_runs_out_later(langdao, web3, world, node, call, tutor, owner, lesson):
    end = call.endSession(tutor.address)
    # "latest" is the block of the start: no second has passed, nothing is paid.
    estimate = end.estimate_gas({"from": owner.address}, block_identifier="latest")
    world.after(30)
    receipt = node.receipt(node.submit(end, owner, gas=estimate))
    assert receipt["status"] == 0
    assert receipt["gasUsed"] == pytest.approx(estimate, rel=0.05)
    assert langdao.activeSessions(tutor).id == lesson
    assert langdao.activeSessions(tutor).isActive


def test_gas_trap__a_fixed_limit_of_300_000_suffices(world, node, call, tutor, owner, lesson):
    world.after(30)
    receipt = node.receipt(node.submit(call.endSession(tutor.address), owner, gas=300_000))
    assert receipt["status"] == 1


def test_gas__near_the_deployed_contracts(langdao, world, node, call, student, tutor, owner):
    """Within a tenth of what was measured of the deployed contract, so that limits tried here hold there."""
    world.student(student)
    world.tutor(tutor)
    start, end = call.startSession(tutor.address, SPANISH), call.endSession(tutor.address)

    def used(function, sender) -> int:
        return node.receipt(node.submit(function, sender, gas=PLENTY_OF_GAS))["gasUsed"]

    observed = {"first start": used(start, student)}
    world.after(30)
    observed["first end"] = used(end, owner)
    observed["later start"] = used(start, student)
    world.after(30)
    observed["later end"] = used(end, owner)
    observed["not active"] = used(end, owner)
    langdao.updateRate(SPANISH, 0, sender=tutor)
    used(start, student)
    world.after(30)
    observed["end at zero rate"] = used(end, owner)
    deployed = {
        "first start": 521_000,
        "first end": 212_500,
        "later start": 487_000,
        "later end": 171_500,
        "not active": 24_000,
        "end at zero rate": 142_000,
    }
    assert observed == pytest.approx(deployed, rel=0.1)


# 3. status == 1 proves nothing


def test_emergency_end__succeeds_and_ends_nothing(langdao, owner, tutor, lesson):
    receipt = langdao.emergencyEndSession(lesson, sender=owner)
    assert receipt.status == 1
    assert receipt.events == []
    assert langdao.activeSessions(tutor).isActive


def test_emergency_end__by_anybody_else__refused(langdao, student, lesson):
    with reverts("Not the owner"):
        langdao.emergencyEndSession(lesson, sender=student)


# 4. Poison sessions


@pytest.mark.parametrize("poison", ["paused", "tutor frozen", "contract frozen"])
@pytest.mark.parametrize("caller", ["student", "tutor", "owner"])
def test_poison__every_end_reverts_with_empty_data(
    request, langdao, token, node, call, owner, tutor, lesson, poison, caller
):
    if poison == "paused":
        token.pause(sender=owner)
    else:
        token.freeze(tutor if poison == "tutor frozen" else langdao, sender=owner)
    end = call.endSession(tutor.address)
    assert node.revert_data(end, request.getfixturevalue(caller)) == b""
    assert langdao.activeSessions(tutor).id == lesson


def test_poison__costs_gas_at_every_try(token, node, call, owner, tutor, lesson):
    token.pause(sender=owner)
    receipt = node.receipt(node.submit(call.endSession(tutor.address), owner, gas=300_000))
    assert receipt["status"] == 0
    assert receipt["gasUsed"] > 21_000


def test_poison__paused__also_at_zero_cost(langdao, token, world, node, call, student, tutor, owner):
    world.student(student)
    world.tutor(tutor, rate=0)
    world.start(student, tutor)
    token.pause(sender=owner)
    assert node.revert_data(call.endSession(tutor.address), owner) == b""


def test_poison__cured__the_whole_time_is_billed(langdao, token, world, chain, owner, tutor, lesson):
    started = langdao.getSession(lesson).startTime
    token.freeze(tutor, sender=owner)
    chain.mine(timestamp=started + 500)
    token.unfreeze(tutor, sender=owner)
    world.after(600, since=started)
    langdao.endSession(tutor, sender=owner)
    assert token.balanceOf(tutor) == 600 * RATE


def test_poison__frozen_student__does_not_matter(langdao, token, student, tutor, owner, lesson):
    token.freeze(student, sender=owner)
    langdao.endSession(tutor, sender=owner)
    assert not langdao.getSession(lesson).isActive


def test_poison__cost_beyond_uint256__every_end_panics(langdao, world, chain, node, call, student, tutor, owner):
    # Asks for French at a rate that nobody checks, as the student's language is Spanish.
    world.student(student, language=SPANISH)
    world.tutor(tutor, languages=[FRENCH], rate=2**256 - 1)
    session = world.start(student, tutor, FRENCH)
    chain.mine(timestamp=langdao.getSession(session).startTime + 10)
    panic = Web3.keccak(text="Panic(uint256)")[:4] + encode(["uint256"], [0x11])
    assert node.revert_data(call.endSession(tutor.address), owner) == panic
    assert node.revert_data(call.getCurrentSessionCost(session), owner) == panic


# 5. A false-returning token


def test_token_returns_false__recorded_as_paid(langdao, token, world, student, tutor, owner, lesson):
    token.setReturnFalse(True, sender=owner)
    world.after(40, since=langdao.getSession(lesson).startTime)
    receipt = langdao.endSession(tutor, sender=owner)
    (ended,) = receipt.events
    assert ended.totalPaid == 40 * RATE
    assert langdao.getTutorInfo(tutor).totalEarnings == 40 * RATE
    assert langdao.getStudentPYUSDBalance(student) == DEPOSIT - 40 * RATE
    assert token.balanceOf(tutor) == 0


def test_token_returns_false__deposit_credits_what_never_came(langdao, token, world, student, owner):
    world.student(student, deposit=0)
    token.setReturnFalse(True, sender=owner)
    langdao.depositFunds(DEPOSIT, sender=student)
    assert langdao.getStudentPYUSDBalance(student) == DEPOSIT
    assert token.balanceOf(langdao) == 0


# 6. Several sessions of one student


def test_two_lessons_of_one_student__first_end_clears_is_studying(
    langdao, token, world, student, tutor, other_tutor, lesson
):
    world.tutor(other_tutor)
    second = world.start(student, other_tutor)
    langdao.endSession(tutor, sender=student)
    assert langdao.activeSessions(other_tutor).id == second
    assert not langdao.isStudying(student)

    langdao.withdrawFunds(langdao.getStudentPYUSDBalance(student), sender=student)
    world.after(100)
    langdao.endSession(other_tutor, sender=other_tutor)
    assert langdao.getSession(second).totalPaid == 0
    assert token.balanceOf(other_tutor) == 0


def test_two_lessons_of_one_student__the_first_end_takes_the_balance(
    langdao, token, world, student, tutor, other_tutor
):
    world.student(student, deposit=600 * RATE)
    world.tutor(tutor)
    world.tutor(other_tutor)
    world.start(student, tutor)
    world.start(student, other_tutor)
    world.after(1_000)
    langdao.endSession(tutor, sender=tutor)
    langdao.endSession(other_tutor, sender=other_tutor)
    assert token.balanceOf(tutor) == 600 * RATE
    assert token.balanceOf(other_tutor) == 0


# 7. What start does not check


def test_student_is_tutor__allowed(langdao, token, world, student):
    world.student(student)
    world.tutor(student)
    session = world.start(student, student)
    world.after(25)
    langdao.endSession(student, sender=student)
    assert langdao.getSession(session).totalPaid == 25 * RATE
    assert token.balanceOf(student) == 25 * RATE
    assert langdao.getUserSessions(student) == [session, session]


def test_zero_balance__starts_when_the_target_language_is_another(langdao, world, student, tutor):
    world.student(student, language=SPANISH, budget=0, deposit=0)
    world.tutor(tutor, languages=[FRENCH])
    session = world.start(student, tutor, FRENCH)
    assert langdao.getSession(session).ratePerSecond == RATE
    world.after(50)
    langdao.endSession(tutor, sender=tutor)
    assert langdao.getSession(session).totalPaid == 0


# 8. The owner key is the backend's key


def test_owner__ends_any_session_and_moves_nothing_else(
    langdao, token, world, student, other_student, tutor, other_tutor, owner, lesson
):
    world.student(other_student)
    world.tutor(other_tutor)
    world.start(other_student, other_tutor)
    before = token.balanceOf(owner)
    langdao.endSession(tutor, sender=owner)
    langdao.endSession(other_tutor, sender=owner)
    assert token.balanceOf(owner) == before


# The token has to answer


def test_token_without_code__reverts_with_empty_data(project, web3, node, wire, student, owner):
    orphan = owner.deploy(project.LangDAO, "0x000000000000000000000000000000000000bEEF")
    orphan.registerStudent(SPANISH, RATE, sender=student)
    deposit = web3.eth.contract(address=orphan.address, abi=wire.abi).functions.depositFunds(1)
    assert node.revert_data(deposit, student) == b""
