"""The mock token: an ordinary ERC-20 until told otherwise."""

import ape
import pytest
from conftest import reverts


@pytest.fixture
def funded(token, student):
    token.mint(student, 100, sender=student)
    return student


def test_metadata(token):
    assert (token.name(), token.symbol(), token.decimals()) == ("PayPal USD", "PYUSD", 6)


def test_mint__announced_as_a_transfer_from_nobody(token, student):
    receipt = token.mint(student, 100, sender=student)
    (event,) = receipt.events
    assert (event.sender, event.receiver, event.value) == (ape.utils.ZERO_ADDRESS, student, 100)
    assert (token.balanceOf(student), token.totalSupply()) == (100, 100)


def test_transfer(token, funded, tutor):
    token.transfer(tutor, 30, sender=funded)
    assert (token.balanceOf(funded), token.balanceOf(tutor)) == (70, 30)


def test_transfer__more_than_there_is__refused(token, funded, tutor):
    with reverts("insufficient funds"):
        token.transfer(tutor, 101, sender=funded)


def test_transfer_from__uses_up_the_allowance(token, funded, tutor, stranger):
    token.approve(stranger, 50, sender=funded)
    token.transferFrom(funded, tutor, 30, sender=stranger)
    assert token.allowance(funded, stranger) == 20
    with reverts("insufficient allowance"):
        token.transferFrom(funded, tutor, 21, sender=stranger)


def test_paused__nothing_moves_until_unpaused(token, funded, tutor, owner):
    token.pause(sender=owner)
    with reverts("whenNotPaused"):
        token.transfer(tutor, 1, sender=funded)
    token.unpause(sender=owner)
    token.transfer(tutor, 1, sender=funded)


@pytest.mark.parametrize("side", ["student", "tutor"])
def test_frozen__on_either_side__nothing_moves(request, token, funded, tutor, owner, side):
    frozen = request.getfixturevalue(side)
    token.freeze(frozen, sender=owner)
    with reverts("address frozen"):
        token.transfer(tutor, 1, sender=funded)
    token.unfreeze(frozen, sender=owner)
    token.transfer(tutor, 1, sender=funded)


def test_returning_false__moves_nothing_and_does_not_revert(token, funded, tutor, owner):
    token.setReturnFalse(True, sender=owner)
    receipt = token.transfer(tutor, 1, sender=funded)
    assert receipt.status == 1
    assert receipt.events == []
    assert token.balanceOf(tutor) == 0
