"""The settlement guard, as the code of LangDAO's owner by EIP-7702. Each promise quotes the contract's header."""

from collections import Counter

import pytest
from conftest import DEPOSIT, RATE, ROOT, SPANISH, Guarded, delegate, error_string
from hexbytes import HexBytes

from bot.chain.guard_code import TRANSFER_GAS, delegation_code, immutables_of, runtime_code
from scripts.abi import compiled

NOT_ACTIVE, OTHER_SESSION, OTHER_STUDENT, TOO_LITTLE_GAS = 1, 2, 3, 4
GAS_CAP = 400_000
GAS_NEEDED = GAS_CAP * 64 // 63 + 1 + 50_000

pytestmark = pytest.mark.delegation


@pytest.fixture
def second(world, other_student, other_tutor, lesson) -> int:
    """Another running lesson, of `other_student` with `other_tutor`."""
    world.student(other_student)
    world.tutor(other_tutor)
    return world.start(other_student, other_tutor)


# Who may call


def test_settle__by_the_keeper__ends_the_named_session(langdao, token, world, guarded, student, tutor, lesson):
    world.after(61)
    receipt = guarded.settle((tutor, lesson, student))
    assert receipt["status"] == 1
    assert guarded.said(receipt) == [("Settled", lesson)]
    assert not langdao.getSession(lesson).isActive
    assert token.balanceOf(tutor) == 61 * RATE


def test_settle__by_the_account_itself__works_as_well(langdao, guarded, owner, student, tutor, lesson):
    """Promise: "Only the keeper and the account itself may call `settle`"""
    assert guarded.said(guarded.settle((tutor, lesson, student), sender=owner)) == [("Settled", lesson)]


@pytest.mark.parametrize("who", ["stranger", "student", "tutor"])
def test_settle__by_anybody_else__refused_and_nothing_ends(
    request, langdao, node, guarded, student, tutor, lesson, who
):
    """Promise: "Only the keeper and the account itself may call `settle`"""
    caller = request.getfixturevalue(who)
    assert node.revert_data(guarded.call((tutor, lesson, student)), caller) == error_string("not the keeper")
    assert guarded.settle((tutor, lesson, student), sender=caller)["status"] == 0
    assert langdao.getSession(lesson).isActive


def test_settle__at_the_guards_own_address__ends_nothing(
    langdao, web3, node, guard, guard_abi, keeper, student, tutor, lesson
):
    """Without a delegation it isn't the owner whom LangDAO sees."""
    bare = Guarded(node, web3.eth.contract(address=guard.address, abi=guard_abi), keeper)
    receipt = bare.settle((tutor, lesson, student))
    assert bare.said(receipt) == [("Failed", lesson, error_string("Caller is not the student, tutor nor owner"))]
    assert langdao.getSession(lesson).isActive


def test_settle__with_eth__refused(langdao, guarded, keeper, student, tutor, lesson):
    call = guarded.call((tutor, lesson, student))
    data = call._encode_transaction_data()
    tx_hash = guarded.node.send({"from": keeper.address, "to": call.address, "data": data, "value": 1, "gas": 10**6})
    assert guarded.node.receipt(tx_hash)["status"] == 0


# Never ends what wasn't named


def test_other_session_in_the_slot__skipped(langdao, world, guarded, student, other_student, tutor, lesson):
    """Promise: "A session that isn't named by tutor, id and student is never ended."""
    world.student(other_student)
    langdao.endSession(tutor, sender=student)
    following = world.start(other_student, tutor)
    assert guarded.said(guarded.settle((tutor, lesson, student))) == [("Skipped", lesson, OTHER_SESSION)]
    assert langdao.activeSessions(tutor).id == following
    assert langdao.getSession(following).isActive


def test_one_block__end_start_settle__the_next_lesson_goes_on(
    langdao, world, node, call, guarded, student, other_student, tutor, keeper, lesson
):
    """The order that ends the wrong session without the guard."""
    world.student(other_student)
    receipts = node.one_block(
        (call.endSession(tutor.address), student),
        (call.startSession(tutor.address, SPANISH), other_student),
        (guarded.call((tutor, lesson, student)), keeper),
    )
    assert [receipt["status"] for receipt in receipts] == [1, 1, 1]
    assert guarded.said(receipts[2]) == [("Skipped", lesson, OTHER_SESSION)]
    assert langdao.getSession(lesson + 1).isActive


def test_other_student__skipped(langdao, guarded, other_student, tutor, lesson):
    assert guarded.said(guarded.settle((tutor, lesson, other_student))) == [("Skipped", lesson, OTHER_STUDENT)]
    assert langdao.getSession(lesson).isActive


def test_other_tutor__skipped(langdao, guarded, student, other_student, tutor, other_tutor, lesson, second):
    receipt = guarded.settle((other_tutor, lesson, student), (tutor, second, other_student))
    assert guarded.said(receipt) == [("Skipped", lesson, OTHER_SESSION), ("Skipped", second, OTHER_SESSION)]
    assert langdao.getSession(lesson).isActive
    assert langdao.getSession(second).isActive


def test_nobody_in_the_slot__skipped(guarded, student, other_tutor, lesson):
    assert guarded.said(guarded.settle((other_tutor, lesson, student))) == [("Skipped", lesson, NOT_ACTIVE)]


def test_all_zero_item__matches_no_empty_slot(guarded, lesson):
    nobody = "0x" + 40 * "0"
    assert guarded.said(guarded.settle((nobody, 0, nobody))) == [("Skipped", 0, NOT_ACTIVE)]


def test_named_twice__ended_once(langdao, guarded, student, tutor, lesson):
    item = (tutor, lesson, student)
    assert guarded.said(guarded.settle(item, item)) == [("Settled", lesson), ("Skipped", lesson, NOT_ACTIVE)]
    assert langdao.getTutorInfo(tutor).sessionCount == 1


def test_reorg__two_starts_change_places__neither_is_ended(
    langdao, web3, world, guarded, student, other_student, tutor, other_tutor
):
    """What was id 1 is id 2 now, and the other way round: no item names a session of this chain."""
    world.student(student)
    world.student(other_student)
    world.tutor(tutor)
    world.tutor(other_tutor)
    before = web3.provider.make_request("evm_snapshot", [])["result"]
    first, second = world.start(student, tutor), world.start(other_student, other_tutor)
    web3.provider.make_request("evm_revert", [before])
    assert world.start(other_student, other_tutor) == first
    assert world.start(student, tutor) == second
    receipt = guarded.settle((tutor, first, student), (other_tutor, second, other_student))
    assert guarded.said(receipt) == [("Skipped", first, OTHER_SESSION), ("Skipped", second, OTHER_SESSION)]
    assert langdao.activeSessions(tutor).isActive
    assert langdao.activeSessions(other_tutor).isActive


def test_reorg__another_student_gets_tutor_and_id__not_ended(
    langdao, web3, world, guarded, student, other_student, tutor
):
    world.student(student)
    world.student(other_student)
    world.tutor(tutor)
    before = web3.provider.make_request("evm_snapshot", [])["result"]
    session = world.start(student, tutor)
    web3.provider.make_request("evm_revert", [before])
    assert world.start(other_student, tutor) == session
    assert guarded.said(guarded.settle((tutor, session, student))) == [("Skipped", session, OTHER_STUDENT)]
    assert langdao.getSession(session).isActive


# One item changes nothing for the others


@pytest.mark.parametrize("place", [0, 1, 2])
def test_bad_item__frozen_tutor__the_others_are_ended(
    langdao, token, accounts, world, guarded, owner, student, other_student, tutor, other_tutor, lesson, second, place
):
    """Promise: "An item that doesn't match, reverts, … changes nothing for the others"""
    third_tutor = world.tutor(accounts[8])
    poisoned = world.start(student, third_tutor)
    token.freeze(third_tutor, sender=owner)
    items = [(tutor, lesson, student), (other_tutor, second, other_student)]
    items.insert(place, (third_tutor, poisoned, student))
    said = [("Settled", lesson), ("Settled", second)]
    said.insert(place, ("Failed", poisoned, b""))
    assert guarded.said(guarded.settle(*items)) == said
    assert langdao.getSession(poisoned).isActive
    assert not langdao.getSession(lesson).isActive
    assert not langdao.getSession(second).isActive


def test_bad_item__that_doesnt_match__the_others_are_ended(
    langdao, guarded, student, other_student, tutor, other_tutor, lesson, second
):
    """Promise: "An item that doesn't match, … changes nothing for the others"""
    receipt = guarded.settle((tutor, lesson, other_student), (other_tutor, second, other_student))
    assert guarded.said(receipt) == [("Skipped", lesson, OTHER_STUDENT), ("Settled", second)]


@pytest.fixture
def trap(project, web3, node, chain, world, guard_abi, owner, keeper, student, other_student, tutor, other_tutor):
    """A LangDAO whose token burns all gas when `tutor` is paid; the other tutor's lesson is fine."""
    burner = owner.deploy(project.GasBurner)
    dao = owner.deploy(project.LangDAO, burner)
    code = owner.deploy(project.SettlementGuard, keeper, dao)
    there = type(world)(dao, burner, chain)
    there.student(student)
    there.student(other_student)
    there.tutor(tutor)
    there.tutor(other_tutor)
    there.start(student, tutor)
    there.start(other_student, other_tutor)
    burner.setTrap(tutor, True, sender=owner)
    delegate(node, owner, code.address, keeper)
    return dao, Guarded(node, web3.eth.contract(address=owner.address, abi=guard_abi), keeper)


def test_gas_bomb__costs_its_cap_and_the_others_are_ended(trap, student, other_student, tutor, other_tutor):
    """Promise: "… burns all gas it is given changes nothing for the others"."""
    dao, guarded = trap
    receipt = guarded.settle((tutor, 1, student), (other_tutor, 2, other_student))
    assert guarded.said(receipt) == [("Failed", 1, b""), ("Settled", 2)]
    assert dao.getSession(1).isActive
    assert not dao.getSession(2).isActive
    assert receipt["gasUsed"] < GAS_CAP + 350_000


def test_gas_bomb__without_the_guard__takes_everything(trap, web3, node, owner, student, tutor, wire):
    dao, _ = trap
    end = web3.eth.contract(address=dao.address, abi=wire.abi).functions.endSession(tutor.address)
    receipt = node.receipt(node.submit(end, student, gas=3_000_000))
    assert receipt["status"] == 0
    assert receipt["gasUsed"] > 2_900_000


def test_too_little_gas__stops_and_says_where(
    langdao, guarded, student, other_student, tutor, other_tutor, lesson, second
):
    """Promise: "Where that is too little, `settle` stops and says at which item."""
    items = (tutor, lesson, student), (other_tutor, second, other_student)
    # The first end of a tutor uses more than 170,000 of what both would need.
    receipt = guarded.settle(*items, gas=GAS_NEEDED + 130_000)
    assert receipt["status"] == 1
    assert guarded.said(receipt) == [("Settled", lesson), ("Skipped", second, TOO_LITTLE_GAS)]
    assert langdao.getSession(second).isActive
    # and the same again settles it
    receipt = guarded.settle(*items, gas=GAS_NEEDED + 130_000)
    assert guarded.said(receipt) == [("Skipped", lesson, NOT_ACTIVE), ("Settled", second)]


def test_too_little_gas__at_any_limit__never_a_half_done_item(
    langdao, web3, guarded, keeper, student, other_student, tutor, other_tutor, lesson, second
):
    """Whatever the limit, an item is settled or untouched, and no end fails for want of gas."""
    items = (tutor, lesson, student), (other_tutor, second, other_student)
    for gas in range(40_000, 1_100_000, 53_000):
        before = web3.provider.make_request("evm_snapshot", [])["result"]
        receipt = guarded.settle(*items, gas=gas)
        said = guarded.said(receipt) if receipt["status"] else []
        assert [entry for entry in said if entry[0] == "Failed"] == []
        for session in (lesson, second):
            assert langdao.getSession(session).isActive == (("Settled", session) not in said)
        web3.provider.make_request("evm_revert", [before])


def test_no_items__does_nothing(guarded, lesson):
    receipt = guarded.settle()
    assert (receipt["status"], receipt["logs"]) == (1, [])


def test_129_items__refused(guarded, student, tutor, lesson):
    assert guarded.settle(*129 * [(tutor, lesson, student)])["status"] == 0


def test_128_items__of_which_one_is_real__done(langdao, guarded, student, tutor, lesson):
    receipt = guarded.settle(*127 * [(student, lesson, student)], (tutor, lesson, student))
    assert guarded.said(receipt)[-1] == ("Settled", lesson)


# What it leaves of the account


def test_plain_eth__taken_with_a_little_more_gas_than_before(node, guarded, owner, stranger):
    before = owner.balance

    def sent(gas: int) -> int:
        to_owner = {"from": stranger.address, "to": owner.address, "value": 5, "gas": gas}
        return node.receipt(node.send(to_owner))["status"]

    assert sent(21_000) == 0
    assert sent(TRANSFER_GAS) == 1
    assert owner.balance == before + 5


@pytest.mark.parametrize("data", ["0x00", "0x7ce02794" + 64 * "0", "0xa9059cbb" + 128 * "0", "0xdeadbeef"])
@pytest.mark.parametrize("who", ["keeper", "owner"])
def test_anything_else__not_callable(request, web3, guarded, owner, data, who):
    caller = request.getfixturevalue(who)
    answer = web3.provider.make_request(
        "eth_call", [{"from": caller.address, "to": owner.address, "data": data}, "latest"]
    )
    assert "error" in answer


def test_abi__settle_plain_eth_and_nothing_else(guard, guard_abi):
    assert {entry["name"] for entry in guard_abi if entry["type"] == "function"} == {"settle"}
    assert {method.selector for method in guard.contract_type.methods} == {"settle((address,uint256,address)[])"}


def test_code__reads_and_writes_no_storage_and_reaches_nothing_but_langdao():
    """Promise: "Nothing is stored". One read, one call, nothing by which an account could be taken over."""
    opcodes = Counter(compiled(ROOT / "contracts" / "SettlementGuard.vy", "opcodes_runtime").split())
    assert opcodes["CALL"] == opcodes["STATICCALL"] == 1
    forbidden = {"SLOAD", "SSTORE", "TLOAD", "TSTORE", "DELEGATECALL", "CALLCODE", "CREATE", "CREATE2", "SELFDESTRUCT"}
    assert forbidden & set(opcodes) == set()


def test_storage__of_guard_and_account__empty_after_use(web3, guarded, guard, owner, student, tutor, lesson):
    guarded.settle((tutor, lesson, student))
    for address in (guard.address, owner.address):
        assert all(web3.eth.get_storage_at(address, slot) == bytes(32) for slot in range(16))


def test_owner__goes_on_as_before(langdao, token, guarded, owner, stranger, tutor, lesson):
    token.mint(owner, 10, sender=owner)
    token.transfer(stranger, 10, sender=owner)
    langdao.endSession(tutor, sender=owner)
    owner.transfer(stranger, 1)
    assert token.balanceOf(stranger) == 10


def test_keeper__moves_nothing_of_the_owners(langdao, token, world, guarded, owner, keeper, student, tutor, lesson):
    token.mint(owner, 10, sender=owner)
    eth = owner.balance
    world.after(30, since=langdao.getSession(lesson).startTime)
    guarded.settle((tutor, lesson, student))
    assert (owner.balance, token.balanceOf(owner), token.balanceOf(keeper)) == (eth, 10, 0)
    assert token.balanceOf(tutor) == 30 * RATE
    assert langdao.getStudentPYUSDBalance(student) == DEPOSIT - 30 * RATE


# The delegation


def test_delegation__shows_in_the_code(web3, guarded, guard, owner):
    assert web3.eth.get_code(owner.address) == delegation_code(guard.address)


def test_delegation__for_another_chain__ignored_though_the_transaction_succeeds(web3, node, guard, owner, keeper):
    delegate(node, owner, guard.address, keeper, chain_id=1)
    assert web3.eth.get_code(owner.address) == b""


def test_revoked__the_account_is_plain_again_and_nothing_ends(
    langdao, web3, node, guarded, owner, keeper, student, tutor, lesson
):
    delegate(node, owner, "0x" + 40 * "0", keeper)
    assert web3.eth.get_code(owner.address) == b""
    receipt = guarded.settle((tutor, lesson, student))
    # A call to a plain account succeeds and does nothing: status 1 proves nothing here either.
    assert (receipt["status"], receipt["logs"]) == (1, [])
    assert langdao.getSession(lesson).isActive


# What it is deployed with


def test_runtime_code__is_the_template_with_the_immutables(web3, guard, keeper, langdao):
    """`runtime_code` is the code that a node reports of a guard deployed for this keeper and this LangDAO, byte for
    byte (the contract tests hold it to a real deployment)"""
    code = bytes(web3.eth.get_code(guard.address))
    assert code == runtime_code(keeper.address, langdao.address), "run `make abi`"
    assert immutables_of(code) == (keeper.address, langdao.address)


@pytest.mark.parametrize("what", ["no keeper", "no contract"])
def test_deploy__without_keeper_or_contract__refused(project, owner, keeper, langdao, stranger, web3, guard_abi, what):
    bytecode = project.SettlementGuard.contract_type.get_deployment_bytecode()
    arguments = ("0x" + 40 * "0", langdao.address) if what == "no keeper" else (keeper.address, stranger.address)
    data = web3.eth.contract(abi=guard_abi, bytecode=HexBytes(bytecode)).constructor(*arguments).data_in_transaction
    answer = web3.provider.make_request("eth_call", [{"from": owner.address, "data": data}, "latest"])
    assert "error" in answer
