"""Registration, rates, budgets, and the small pure functions."""

import pytest
from conftest import BUDGET, ENGLISH, FRENCH, RATE, SPANISH, reverts

LANGUAGES = (
    "en es fr de it pt ru zh ja ko ar hi nl sv no da fi pl tr el he th vi id ms tl uk cs hu ro bg hr sr sk sl lt lv et"
).split()


def test_deployed__owner_is_the_deployer_and_ids_start_at_one(langdao, token, owner, lesson):
    assert langdao.owner() == owner
    assert langdao.PYUSD_TOKEN() == token
    assert lesson == 1
    assert langdao.sessionCounter() == 1


def test_register_student__stored_and_announced(langdao, student):
    receipt = langdao.registerStudent(FRENCH, BUDGET, sender=student)
    assert receipt.events == [langdao.StudentRegistered(user=student, targetLanguage=FRENCH, budgetPerSec=BUDGET)]
    info = langdao.getStudentInfo(student)
    assert (info.targetLanguage, info.budgetPerSec, info.isRegistered) == (FRENCH, BUDGET, True)
    assert langdao.students(student) == info


def test_register_student__twice__refused(langdao, student):
    langdao.registerStudent(FRENCH, BUDGET, sender=student)
    with reverts("Student already registered"):
        langdao.registerStudent(FRENCH, BUDGET, sender=student)


def test_register_student__language_255__refused_before_anything_else(langdao, student):
    with reverts("Unsupported language"):
        langdao.registerStudent(255, BUDGET, sender=student)
    langdao.registerStudent(FRENCH, BUDGET, sender=student)
    with reverts("Unsupported language"):
        langdao.registerStudent(255, BUDGET, sender=student)


def test_register_student__language_unknown_but_not_255__taken(langdao, student):
    langdao.registerStudent(200, BUDGET, sender=student)
    assert langdao.getStudentInfo(student).targetLanguage == 200


def test_register_tutor__rate_is_stored_per_language(langdao, tutor):
    receipt = langdao.registerTutor([SPANISH, FRENCH], RATE, sender=tutor)
    assert receipt.events == [langdao.TutorRegistered(user=tutor, languages=[SPANISH, FRENCH], ratePerHour=RATE)]
    assert [langdao.getTutorRate(tutor, it) for it in (ENGLISH, SPANISH, FRENCH)] == [0, RATE, RATE]
    assert [langdao.getTutorLanguage(tutor, it) for it in (ENGLISH, SPANISH, FRENCH)] == [False, True, True]
    info = langdao.getTutorInfo(tutor)
    assert (info.totalEarnings, info.sessionCount, info.isRegistered) == (0, 0, True)
    assert langdao.tutors(tutor) == info


def test_register_tutor__no_language__taken(langdao, tutor):
    langdao.registerTutor([], RATE, sender=tutor)
    assert langdao.getTutorInfo(tutor).isRegistered


def test_register_tutor__twice__refused(langdao, tutor):
    langdao.registerTutor([SPANISH], RATE, sender=tutor)
    with reverts("Tutor already registered"):
        langdao.registerTutor([255], RATE, sender=tutor)


def test_register_tutor__language_255_among_others__refused_whole(langdao, tutor):
    with reverts("Unsupported language"):
        langdao.registerTutor([SPANISH, 255], RATE, sender=tutor)
    assert not langdao.getTutorInfo(tutor).isRegistered
    assert not langdao.getTutorLanguage(tutor, SPANISH)


def test_one_account__may_be_student_and_tutor(langdao, student):
    langdao.registerStudent(SPANISH, BUDGET, sender=student)
    langdao.registerTutor([SPANISH], RATE, sender=student)
    assert langdao.getStudentInfo(student).isRegistered
    assert langdao.getTutorInfo(student).isRegistered


def test_update_budget(langdao, student):
    langdao.registerStudent(SPANISH, BUDGET, sender=student)
    langdao.updateBudget(5, sender=student)
    assert langdao.getStudentInfo(student).budgetPerSec == 5


def test_update_rate__of_one_language(langdao, tutor):
    langdao.registerTutor([SPANISH, FRENCH], RATE, sender=tutor)
    langdao.updateRate(FRENCH, 7, sender=tutor)
    assert (langdao.getTutorRate(tutor, SPANISH), langdao.getTutorRate(tutor, FRENCH)) == (RATE, 7)


def test_update_rate__language_not_offered__refused(langdao, tutor):
    langdao.registerTutor([SPANISH], RATE, sender=tutor)
    with reverts("Tutor does not offer this language"):
        langdao.updateRate(FRENCH, 7, sender=tutor)


def test_unregistered__refused_everywhere(langdao, stranger, tutor):
    for attempt in (
        lambda: langdao.updateBudget(1, sender=stranger),
        lambda: langdao.updateRate(SPANISH, 1, sender=stranger),
        lambda: langdao.depositFunds(0, sender=stranger),
        lambda: langdao.withdrawFunds(0, sender=stranger),
        lambda: langdao.startSession(tutor, SPANISH, sender=stranger),
    ):
        with reverts("User not registered"):
            attempt()


def test_can_afford_rate__budget_against_the_target_language(langdao, world, student, tutor):
    world.student(student, language=SPANISH, budget=RATE)
    world.tutor(tutor, languages=[SPANISH])
    assert langdao.canAffordRate(student, tutor)
    langdao.updateRate(SPANISH, RATE + 1, sender=tutor)
    assert not langdao.canAffordRate(student, tutor)


def test_has_sufficient_balance__ten_minutes_of_the_target_language(langdao, world, student, tutor):
    world.student(student, deposit=600 * RATE)
    world.tutor(tutor)
    assert langdao.hasSufficientBalance(student, tutor)
    langdao.withdrawFunds(1, sender=student)
    assert not langdao.hasSufficientBalance(student, tutor)


def test_languages__thirty_eight_codes_both_ways(langdao):
    assert len(LANGUAGES) == 38
    assert [langdao.languageToIso(i) for i in range(38)] == LANGUAGES
    assert [langdao.isoToLanguage(code) for code in LANGUAGES] == list(range(38))


@pytest.mark.parametrize("code", ["", "e", "xx", "EN", "eng", "ne", "spanish, the language of Spain"])
def test_iso_to_language__unknown__255(langdao, code):
    assert langdao.isoToLanguage(code) == 255


@pytest.mark.parametrize("language", [38, 254, 255])
def test_language_to_iso__unknown__unsupported(langdao, language):
    assert langdao.languageToIso(language) == "unsupported"
