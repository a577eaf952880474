"""What students put in and take out, and plain ETH."""

import pytest
from conftest import DEPOSIT, data_of, reverts


def test_deposit__moves_tokens_and_is_announced(langdao, token, world, student):
    world.student(student, deposit=0)
    receipt = langdao.depositFunds(DEPOSIT, sender=student)
    assert langdao.FundsDeposited(user=student, token=token, amount=DEPOSIT) in receipt.events
    assert token.balanceOf(langdao) == DEPOSIT
    assert langdao.studentBalances(student, token) == DEPOSIT
    assert langdao.getStudentPYUSDBalance(student) == DEPOSIT


def test_deposit__twice__adds_up(langdao, world, student):
    world.student(student, deposit=3)
    langdao.depositFunds(4, sender=student)
    assert langdao.getStudentPYUSDBalance(student) == 7


def test_deposit__nothing__refused(langdao, world, student):
    world.student(student)
    with reverts("Amount must be greater than 0"):
        langdao.depositFunds(0, sender=student)


def test_deposit__without_allowance__reverts_and_credits_nothing(langdao, token, world, student):
    world.student(student, deposit=0)
    token.approve(langdao, 0, sender=student)
    with reverts():
        langdao.depositFunds(1, sender=student)
    assert langdao.getStudentPYUSDBalance(student) == 0


def test_withdraw__moves_tokens_and_is_announced(langdao, token, world, student):
    world.student(student)
    receipt = langdao.withdrawFunds(DEPOSIT, sender=student)
    assert langdao.FundsWithdrawn(user=student, token=token, amount=DEPOSIT) in receipt.events
    assert token.balanceOf(student) == DEPOSIT
    assert langdao.getStudentPYUSDBalance(student) == 0


def test_withdraw__nothing__refused(langdao, world, student):
    world.student(student)
    with reverts("Amount must be greater than 0"):
        langdao.withdrawFunds(0, sender=student)


def test_withdraw__more_than_there_is__refused(langdao, world, student):
    world.student(student)
    with reverts("Insufficient balance"):
        langdao.withdrawFunds(DEPOSIT + 1, sender=student)


def test_withdraw__while_studying__refused_first(langdao, student, lesson):
    with reverts("Student is studying"):
        langdao.withdrawFunds(0, sender=student)


def test_withdraw__after_the_lesson__allowed_again(langdao, token, student, tutor, lesson):
    langdao.endSession(tutor, sender=student)
    langdao.withdrawFunds(langdao.getStudentPYUSDBalance(student), sender=student)
    assert token.balanceOf(langdao) == 0


def test_plain_eth__accepted(langdao, stranger):
    stranger.transfer(langdao, 5)
    assert langdao.balance == 5


@pytest.mark.parametrize("data", ["0x00", "0x123456", "0xdeadbeef", "0xdeadbeef" + 32 * "00"])
def test_unknown_call__reverts_with_empty_data(web3, langdao, stranger, data):
    answer = web3.provider.make_request(
        "eth_call", [{"from": stranger.address, "to": langdao.address, "data": data}, "latest"]
    )
    assert not data_of(answer["error"].get("data"))


def test_eth_with_a_call__refused(langdao, student, tutor, lesson):
    with reverts():
        langdao.endSession(tutor, sender=student, value=1)


def test_owners_withdraw__empty__succeeds_and_moves_nothing(langdao, owner, stranger):
    stranger.transfer(langdao, 5)
    assert langdao.withdraw(sender=owner).events == []
    assert langdao.balance == 5


def test_owners_withdraw__by_anybody_else__refused(langdao, stranger):
    with reverts("Not the owner"):
        langdao.withdraw(sender=stranger)
