"""How lessons start, what they cost, and how they end."""

import pytest
from conftest import BUDGET, BUFFER_S, DEPOSIT, FRENCH, RATE, SPANISH, error_string, reverts


def test_start__returns_the_id_and_is_stored_twice(langdao, token, world, chain, student, tutor, lesson):
    session = langdao.getSession(lesson)
    assert session == langdao.activeSessions(tutor) == langdao.sessionHistory(lesson)
    assert (session.student, session.tutor, session.token) == (student, tutor, token)
    assert session.startTime == chain.blocks.head.timestamp
    assert (session.endTime, session.totalPaid) == (0, 0)
    assert (session.ratePerSecond, session.language, session.id) == (RATE, SPANISH, lesson)
    assert session.isActive
    assert langdao.isStudying(student)


def test_start__listed_for_both(langdao, student, tutor, other_tutor, world, lesson):
    world.tutor(other_tutor)
    second = world.start(student, other_tutor)
    assert langdao.getUserSessions(student) == [lesson, second]
    assert langdao.getUserSessions(tutor) == [lesson]
    assert langdao.userSessions(student, 1) == second
    with reverts():
        langdao.userSessions(student, 2)


def test_start__tutor_busy__refused(langdao, world, other_student, tutor, lesson):
    world.student(other_student)
    with reverts("There should be no ongoing session for this tutor"):
        langdao.startSession(tutor, SPANISH, sender=other_student)


def test_start__language_not_offered__refused(langdao, world, student, tutor):
    world.student(student)
    world.tutor(tutor)
    with reverts("Tutor does not offer this language"):
        langdao.startSession(tutor, FRENCH, sender=student)


def test_start__rate_above_budget__refused(langdao, world, student, tutor):
    world.student(student, budget=RATE - 1)
    world.tutor(tutor)
    with reverts("Student cannot afford tutor's rate for this language"):
        langdao.startSession(tutor, SPANISH, sender=student)


def test_start__balance_below_ten_minutes__refused(langdao, world, student, tutor):
    world.student(student, deposit=BUFFER_S * RATE - 1)
    world.tutor(tutor)
    with reverts("Student does not have sufficient PYUSD balance"):
        langdao.startSession(tutor, SPANISH, sender=student)


def test_start__exactly_at_both_limits__starts(langdao, world, student, tutor):
    world.student(student, budget=RATE, deposit=BUFFER_S * RATE)
    world.tutor(tutor)
    assert world.start(student, tutor) == 1


def test_start__checks_come_in_the_listed_order(langdao, world, student, other_student, tutor):
    """Repairs one cause after the other; each time the next one in the list is reported."""
    world.student(other_student)
    world.tutor(tutor)
    world.start(other_student, tutor)

    def start():
        return langdao.startSession(tutor, FRENCH, sender=student)

    with reverts("User not registered"):
        start()
    # A student of Spanish, too poor for it, asks a busy tutor for French.
    world.student(student, budget=RATE - 1, deposit=0)
    with reverts("There should be no ongoing session for this tutor"):
        start()
    langdao.endSession(tutor, sender=tutor)
    with reverts("Tutor does not offer this language"):
        start()
    with reverts("Student cannot afford tutor's rate for this language"):
        langdao.startSession(tutor, SPANISH, sender=student)
    langdao.updateBudget(BUDGET, sender=student)
    with reverts("Student does not have sufficient PYUSD balance"):
        langdao.startSession(tutor, SPANISH, sender=student)


def test_start__somebody_who_is_no_tutor__offers_nothing(langdao, world, student, stranger):
    world.student(student)
    with reverts("Tutor does not offer this language"):
        langdao.startSession(stranger, SPANISH, sender=student)


def test_cost__grows_by_the_second(langdao, chain, lesson):
    started = langdao.getSession(lesson).startTime
    chain.mine(timestamp=started + 90)
    assert langdao.getCurrentSessionCost(lesson) == 90 * RATE


def test_cost__is_not_capped_by_the_balance(langdao, chain, lesson):
    chain.mine(timestamp=langdao.getSession(lesson).startTime + 10 * DEPOSIT // RATE)
    assert langdao.getCurrentSessionCost(lesson) == 10 * DEPOSIT


@pytest.mark.parametrize("ended", [True, False], ids=["ended", "never existed"])
def test_cost__not_running__refused(langdao, node, call, student, tutor, lesson, ended):
    if ended:
        langdao.endSession(tutor, sender=student)
    # For a view, ape keeps no more than the node's words.
    assert node.revert_data(call.getCurrentSessionCost(lesson if ended else 99), student) == error_string(
        "Session is not active"
    )


@pytest.mark.parametrize("by", ["student", "tutor", "owner"])
def test_end__by_each_who_may__pays_per_second(langdao, token, world, student, tutor, owner, lesson, by):
    caller = {"student": student, "tutor": tutor, "owner": owner}[by]
    ended_at = world.after(61)
    receipt = langdao.endSession(tutor, sender=caller)
    assert (
        langdao.SessionEnded(sessionId=lesson, tutorAddress=tutor, duration=61, totalPaid=61 * RATE) in receipt.events
    )
    assert token.balanceOf(tutor) == 61 * RATE
    assert langdao.getStudentPYUSDBalance(student) == DEPOSIT - 61 * RATE
    session = langdao.getSession(lesson)
    assert (session.endTime, session.totalPaid, session.isActive) == (ended_at, 61 * RATE, False)
    assert session == langdao.sessionHistory(lesson)
    info = langdao.getTutorInfo(tutor)
    assert (info.totalEarnings, info.sessionCount) == (61 * RATE, 1)
    assert not langdao.isStudying(student)


def test_end__the_active_session_is_deleted(langdao, student, tutor, lesson):
    langdao.endSession(tutor, sender=student)
    assert langdao.activeSessions(tutor).id == 0
    assert not langdao.activeSessions(tutor).isActive


def test_end__by_a_stranger__refused(langdao, stranger, other_student, tutor, lesson):
    for somebody in (stranger, other_student):
        with reverts("Caller is not the student, tutor nor owner"):
            langdao.endSession(tutor, sender=somebody)


@pytest.mark.parametrize("caller", ["student", "owner", "stranger"])
def test_end__nothing_runs__refused(request, langdao, tutor, caller):
    with reverts("Session not active"):
        langdao.endSession(tutor, sender=request.getfixturevalue(caller))


def test_end__twice__the_second_is_refused(langdao, student, tutor, owner, lesson):
    langdao.endSession(tutor, sender=student)
    with reverts("Session not active"):
        langdao.endSession(tutor, sender=owner)


def test_end__balance_used_up__pays_what_there_is(langdao, token, world, student, tutor, lesson):
    seconds = DEPOSIT // RATE + 3_600
    world.after(seconds)
    receipt = langdao.endSession(tutor, sender=tutor)
    assert (
        langdao.SessionEnded(sessionId=lesson, tutorAddress=tutor, duration=seconds, totalPaid=DEPOSIT)
        in receipt.events
    )
    assert langdao.getStudentPYUSDBalance(student) == 0
    assert token.balanceOf(tutor) == DEPOSIT


def test_nothing_ends_a_session_by_itself(langdao, chain, tutor, lesson):
    chain.mine(timestamp=chain.blocks.head.timestamp + 365 * 86_400)
    assert langdao.activeSessions(tutor).isActive


def test_rate_change__does_not_touch_a_running_session(langdao, world, student, tutor, lesson):
    started = langdao.getSession(lesson).startTime
    langdao.updateRate(SPANISH, 50 * RATE, sender=tutor)
    world.after(30, since=started)
    langdao.endSession(tutor, sender=student)
    assert langdao.getSession(lesson).totalPaid == 30 * RATE


def test_ids__count_up_over_all_tutors(langdao, world, student, other_student, tutor, other_tutor, lesson):
    world.student(other_student)
    world.tutor(other_tutor)
    assert world.start(other_student, other_tutor) == lesson + 1
    langdao.endSession(tutor, sender=student)
    assert world.start(student, tutor) == lesson + 2
    assert langdao.sessionCounter() == lesson + 2


def test_deposit_during_a_lesson__pays_for_it(langdao, token, world, student, tutor):
    world.student(student, deposit=BUFFER_S * RATE)
    world.tutor(tutor)
    started = langdao.getSession(world.start(student, tutor)).startTime
    langdao.depositFunds(100 * RATE, sender=student)
    world.after(BUFFER_S + 100, since=started)
    langdao.endSession(tutor, sender=tutor)
    assert token.balanceOf(tutor) == (BUFFER_S + 100) * RATE
