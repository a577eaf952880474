"""The bytes on the wire, against the values listed for the deployed contract. These are literals on purpose."""

import json

import pytest
from conftest import BUDGET, DEPOSIT, RATE, ROOT, SPANISH
from eth_abi import decode, encode
from hexbytes import HexBytes
from web3 import Web3

from scripts.abi import as_solidity

SELECTORS = {
    "startSession(address,uint8)": "0x14974de8",
    "endSession(address)": "0x7ce02794",
    "activeSessions(address)": "0x23ef2936",
    "getSession(uint256)": "0x402ff0db",
    "sessionHistory(uint256)": "0x5119d25e",
    "sessionCounter()": "0xcc64e2af",
    "owner()": "0x8da5cb5b",
    "isStudying(address)": "0x1d66a762",
    "getCurrentSessionCost(uint256)": "0xea997d6c",
    "getUserSessions(address)": "0x223715dd",
    "getStudentPYUSDBalance(address)": "0xa80898ea",
    "studentBalances(address,address)": "0x01bf7ff6",
    "emergencyEndSession(uint256)": "0x79511295",
}

OTHER_FUNCTIONS = {
    "getTutorInfo(address)",
    "getStudentInfo(address)",
    "getTutorRate(address,uint8)",
    "getTutorLanguage(address,uint8)",
    "registerStudent(uint8,uint256)",
    "registerTutor(uint8[],uint256)",
    "updateBudget(uint256)",
    "updateRate(uint8,uint256)",
    "depositFunds(uint256)",
    "withdrawFunds(uint256)",
    "canAffordRate(address,address)",
    "hasSufficientBalance(address,address)",
    "students(address)",
    "tutors(address)",
    "userSessions(address,uint256)",
    "PYUSD_TOKEN()",
    "isoToLanguage(string)",
    "languageToIso(uint8)",
    "withdraw()",
}

TOPICS = {
    "SessionStarted(uint256,address,address,uint8)": (
        "0xa1b15600c9aef5c5d3c0c18700942ad4caf125753a856588b1aa2a0a969b0063"
    ),
    "SessionEnded(uint256,address,uint256,uint256)": (
        "0x1f566c0c31d295290bb19b5162e239dbdeeb51107556dd0c39b1a86a303ed393"
    ),
}

OTHER_EVENTS = {
    "StudentRegistered(address,uint8,uint256)",
    "TutorRegistered(address,uint8[],uint256)",
    "FundsDeposited(address,address,uint256)",
    "FundsWithdrawn(address,address,uint256)",
    "PaymentProcessed(address,address,uint256)",
}

SESSION_TYPES = [
    "address",
    "address",
    "address",
    "uint256",
    "uint256",
    "uint256",
    "uint256",
    "uint8",
    "uint256",
    "bool",
]
SESSION_FIELDS = [
    "student",
    "tutor",
    "token",
    "startTime",
    "endTime",
    "ratePerSecond",
    "totalPaid",
    "language",
    "id",
    "isActive",
]


@pytest.fixture
def interface() -> list[dict]:
    return json.loads((ROOT / "contracts" / "interfaces" / "LangDAO.json").read_text())


def signatures(abi: list[dict], kind: str) -> set[str]:
    return {
        f"{entry['name']}({','.join(argument['type'] for argument in entry['inputs'])})"
        for entry in abi
        if entry["type"] == kind
    }


def outputs(abi: list[dict], name: str) -> list[dict]:
    (entry,) = (entry for entry in abi if entry["type"] == "function" and entry["name"] == name)
    return entry["outputs"]


@pytest.mark.parametrize(("signature", "selector"), SELECTORS.items())
def test_selector__of_the_compiled_contract__is_the_listed_one(langdao, signature, selector):
    compiled = {method.selector: method for method in langdao.contract_type.methods}
    assert signature in compiled
    assert Web3.keccak(text=signature)[:4].to_0x_hex() == selector
    # and the dispatcher knows it: the selector is in the code that was deployed
    assert bytes.fromhex(selector[2:]).lstrip(b"\0") in bytes(langdao.provider.get_code(langdao.address))


def test_functions__all_and_no_other(langdao, interface):
    assert signatures(interface, "function") == set(SELECTORS) | OTHER_FUNCTIONS
    assert {method.selector for method in langdao.contract_type.methods} == set(SELECTORS) | OTHER_FUNCTIONS


@pytest.mark.parametrize(("signature", "topic"), TOPICS.items())
def test_topic__of_an_emitted_log__is_the_listed_one(langdao, world, student, tutor, lesson, signature, topic):
    receipt = langdao.endSession(tutor, sender=student)
    logs = receipt.logs + langdao.startSession(tutor, SPANISH, sender=student).logs
    assert Web3.keccak(text=signature).to_0x_hex() == topic
    assert topic in [HexBytes(log["topics"][0]).to_0x_hex() for log in logs]


def test_events__all_and_no_other(langdao, interface):
    assert signatures(interface, "event") == set(TOPICS) | OTHER_EVENTS
    assert {event.selector for event in langdao.contract_type.events} == set(TOPICS) | OTHER_EVENTS


def test_events__indexed_arguments__as_deployed(interface):
    indexed = {
        entry["name"]: [argument["name"] for argument in entry["inputs"] if argument["indexed"]]
        for entry in interface
        if entry["type"] == "event"
    }
    assert indexed == {
        "SessionStarted": ["sessionId", "student", "tutor"],
        "SessionEnded": ["sessionId", "tutorAddress"],
        "StudentRegistered": ["user"],
        "TutorRegistered": ["user"],
        "FundsDeposited": ["user", "token"],
        "FundsWithdrawn": ["user", "token"],
        "PaymentProcessed": ["from", "to"],
    }


def test_interface_file__is_what_the_source_compiles_to(langdao, interface):
    compiled = [entry.model_dump(mode="json", by_alias=True) for entry in langdao.contract_type.abi]
    assert signatures(compiled, "function") == signatures(interface, "function")
    for entry in as_solidity(compiled):
        same = [it for it in interface if (it["type"], it.get("name")) == (entry["type"], entry.get("name"))]
        assert len(same) == 1, entry
        assert same[0].get("stateMutability") == (None if entry["type"] == "event" else entry["stateMutability"])
        assert shape(same[0].get("inputs", [])) == shape(entry.get("inputs", []))
        assert shape(same[0].get("outputs", [])) == shape(entry.get("outputs", []))


def shape(arguments: list[dict]) -> list:
    return [
        (argument.get("name") or "", argument["type"], shape(argument.get("components") or []))
        for argument in arguments
    ]


@pytest.mark.parametrize("name", ["activeSessions", "sessionHistory"])
def test_session_getters__ten_named_outputs(interface, name):
    assert [output["name"] for output in outputs(interface, name)] == SESSION_FIELDS
    assert [output["type"] for output in outputs(interface, name)] == SESSION_TYPES


def test_get_session__the_same_ten_as_one_tuple(interface):
    (output,) = outputs(interface, "getSession")
    assert output["type"] == "tuple"
    assert [field["name"] for field in output["components"]] == SESSION_FIELDS
    assert [field["type"] for field in output["components"]] == SESSION_TYPES


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("getTutorInfo", ["totalEarnings", "sessionCount", "isRegistered"]),
        ("tutors", ["totalEarnings", "sessionCount", "isRegistered"]),
        ("getStudentInfo", ["targetLanguage", "budgetPerSec", "isRegistered"]),
        ("students", ["targetLanguage", "budgetPerSec", "isRegistered"]),
    ],
)
def test_info_getters__three_named_outputs(interface, name, names):
    assert [output["name"] for output in outputs(interface, name)] == names


@pytest.mark.parametrize(("selector", "by"), [("0x23ef2936", "tutor"), ("0x402ff0db", "id"), ("0x5119d25e", "id")])
def test_session_layout__320_bytes_in_the_listed_order(web3, langdao, token, student, tutor, lesson, selector, by):
    argument = encode(["address"], [tutor.address]) if by == "tutor" else encode(["uint256"], [lesson])
    raw = web3.eth.call({"to": langdao.address, "data": HexBytes(selector) + argument})
    assert len(raw) == 320
    started = web3.eth.get_block("latest")["timestamp"]
    assert decode(SESSION_TYPES, raw) == (
        student.address.lower(),
        tutor.address.lower(),
        token.address.lower(),
        started,
        0,
        RATE,
        0,
        SPANISH,
        lesson,
        True,
    )


@pytest.mark.parametrize("selector", ["0x23ef2936", "0x402ff0db", "0x5119d25e"])
def test_session_layout__absent__all_zero(web3, langdao, selector):
    raw = web3.eth.call({"to": langdao.address, "data": HexBytes(selector) + encode(["uint256"], [999])})
    assert raw == bytes(320)


def test_session_started__log_layout(web3, langdao, world, student, tutor):
    world.student(student)
    world.tutor(tutor)
    (log,) = langdao.startSession(tutor, SPANISH, sender=student).logs
    assert [HexBytes(topic) for topic in log["topics"]][1:] == [
        encode(["uint256"], [1]),
        encode(["address"], [student.address]),
        encode(["address"], [tutor.address]),
    ]
    assert HexBytes(log["data"]) == encode(["uint8"], [SPANISH])


def test_session_ended__log_layout_and_transfer_before_it(langdao, token, world, student, tutor, lesson):
    world.after(10)
    transfer, ended = langdao.endSession(tutor, sender=student).logs
    assert transfer["address"] == token.address
    assert HexBytes(transfer["topics"][0]) == Web3.keccak(text="Transfer(address,address,uint256)")
    assert HexBytes(transfer["data"]) == encode(["uint256"], [10 * RATE])
    assert ended["address"] == langdao.address
    assert [HexBytes(topic) for topic in ended["topics"]][1:] == [
        encode(["uint256"], [lesson]),
        encode(["address"], [tutor.address]),
    ]
    assert HexBytes(ended["data"]) == encode(["uint256", "uint256"], [10, 10 * RATE])


def test_registration_and_funds__log_data(langdao, token, student, tutor):
    registered = langdao.registerStudent(SPANISH, BUDGET, sender=student).logs[0]
    assert HexBytes(registered["data"]) == encode(["uint8", "uint256"], [SPANISH, BUDGET])
    teaches = langdao.registerTutor([3, 1, 3], RATE, sender=tutor).logs[0]
    assert HexBytes(teaches["data"]) == encode(["uint8[]", "uint256"], [[3, 1, 3], RATE])
    token.mint(student, DEPOSIT, sender=student)
    token.approve(langdao, DEPOSIT, sender=student)
    deposited = langdao.depositFunds(DEPOSIT, sender=student).logs[-1]
    withdrawn = langdao.withdrawFunds(7, sender=student).logs[-1]
    assert HexBytes(deposited["data"]) == encode(["uint256"], [DEPOSIT])
    assert HexBytes(withdrawn["data"]) == encode(["uint256"], [7])
    for log in (deposited, withdrawn):
        assert HexBytes(log["topics"][1]) == encode(["address"], [student.address])
        assert HexBytes(log["topics"][2]) == encode(["address"], [token.address])


def test_get_user_sessions__a_dynamic_array_on_the_wire(web3, langdao, student, lesson):
    def raw(address: str) -> bytes:
        return web3.eth.call({"to": langdao.address, "data": HexBytes("0x223715dd") + encode(["address"], [address])})

    assert raw(student.address) == encode(["uint256[]"], [[lesson]])
    assert raw(langdao.address) == encode(["uint256[]"], [[]])


def test_revert_reason__encoded_as_error_string(node, call, stranger, tutor):
    data = node.revert_data(call.endSession(tutor.address), stranger)
    assert data == Web3.keccak(text="Error(string)")[:4] + encode(["string"], ["Session not active"])


def test_committed_abi__reads_a_session_by_name(wire, student, tutor, lesson):
    as_tuple = wire.functions.getSession(lesson).call()
    assert as_tuple == tuple(wire.functions.activeSessions(tutor.address).call())
    assert as_tuple[0] == student.address
