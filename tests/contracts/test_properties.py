"""What holds after any sequence of calls, of LangDAO and of the guard, against a model of a few lines.

Every step is a real transaction. A reverted call has to be one that the model says reverts.
"""

import os
from dataclasses import dataclass
from typing import Any

import pytest
from conftest import DEPOSIT, RATE, SPANISH, Guarded, Node
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from web3.logs import DISCARD

PEOPLE = 2
GAS = 1_500_000
STEPS = settings(
    # Each step is some twenty requests. The second node sees fewer: it is the same contract.
    max_examples=2 if os.environ.get("CONTRACT_TESTS_NODE") else 5,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
person = st.integers(0, PEOPLE - 1)

pytestmark = [pytest.mark.timeout(300), pytest.mark.delegation]


@dataclass
class Ground:
    """A LangDAO with registered people on a node; each sequence starts from here."""

    node: Node
    langdao: Any
    token: Any
    owner: Any
    students: list
    tutors: list
    guarded: Guarded


@pytest.fixture
def ground(world, wire, web3, node, token, owner, accounts, guarded) -> Ground:
    # A tutor is a student too: nothing forbids lessons with oneself or in both roles.
    students, tutors = [accounts[10], accounts[11]], accounts[11:13]
    for account in students:
        world.student(account)
    for account in tutors:
        world.tutor(account)
    abi = [entry.model_dump(mode="json", by_alias=True) for entry in token.contract_type.abi]
    return Ground(node, wire, web3.eth.contract(address=token.address, abi=abi), owner, students, tutors, guarded)


class Lessons(RuleBasedStateMachine):
    """LangDAO and the guard, and what has to be true of them."""

    ground: Ground

    @initialize()
    def begin(self) -> None:
        self.rpc = self.ground.node.web3.provider.make_request
        self.snapshot = self.rpc("evm_snapshot", [])["result"]
        self.first_block = self.ground.node.web3.eth.block_number + 1
        self.active: dict[int, tuple[int, int]] = {}  # tutor → session, student
        self.started: dict[int, tuple[str, str]] = {}
        self.ended: dict[int, tuple[int, int]] = {}  # session → duration, paid
        self.paused = False
        everybody = {it.address for it in (*self.ground.students, *self.ground.tutors)} | {self.ground.langdao.address}
        self.holders = sorted(everybody)
        self.money = sum(self.balance(address) for address in self.holders)

    def teardown(self) -> None:
        if hasattr(self, "snapshot"):
            self.rpc("evm_revert", [self.snapshot])

    def balance(self, address: str) -> int:
        return self.ground.token.functions.balanceOf(address).call()

    def deposited(self, student: int) -> int:
        return self.ground.langdao.functions.getStudentPYUSDBalance(self.ground.students[student].address).call()

    def do(self, function, sender) -> tuple[bool, Any]:
        receipt = self.ground.node.receipt(self.ground.node.submit(function, sender, gas=GAS))
        for log in self.ground.langdao.events.SessionEnded().process_receipt(receipt, errors=DISCARD):
            if log["address"] == self.ground.langdao.address:
                said = log["args"]
                assert said["sessionId"] not in self.ended, "ended twice"
                self.ended[said["sessionId"]] = (said["duration"], said["totalPaid"])
        return receipt["status"] == 1, receipt

    @rule(seconds=st.sampled_from([1, 30, 600, 9_000, 20_000]))
    def time_passes(self, seconds: int) -> None:
        self.rpc("evm_increaseTime", [seconds])
        self.rpc("evm_mine", [])

    @rule(student=person, tutor=person)
    def start(self, student: int, tutor: int) -> None:
        who, whom = self.ground.students[student], self.ground.tutors[tutor]
        rich = self.deposited(student) >= 600 * RATE
        done, receipt = self.do(self.ground.langdao.functions.startSession(whom.address, SPANISH), who)
        assert done == (rich and tutor not in self.active)
        if done:
            (log,) = self.ground.langdao.events.SessionStarted().process_receipt(receipt, errors=DISCARD)
            session = log["args"]["sessionId"]
            assert session not in self.started
            self.started[session] = (who.address, whom.address)
            self.active[tutor] = (session, student)

    @rule(tutor=person, by=st.sampled_from(["student", "tutor", "owner", "other"]))
    def end(self, tutor: int, by: str) -> None:
        session, student = self.active.get(tutor, (0, 0))
        whom = self.ground.tutors[tutor]
        callers = {"student": self.ground.students[student], "tutor": whom, "owner": self.ground.owner}
        # Somebody who is in none of the roles.
        caller = callers.get(by, self.ground.guarded.keeper)
        before = self.deposited(student)
        done, _ = self.do(self.ground.langdao.functions.endSession(whom.address), caller)
        assert done == (session != 0 and by != "other" and not self.paused)
        if done:
            self.over(tutor, before)

    def over(self, tutor: int, before: int) -> None:
        session, student = self.active.pop(tutor)
        duration, paid = self.ended[session]
        assert paid == min(duration * RATE, before)
        assert self.deposited(student) == before - paid

    @rule(student=person, amount=st.integers(1, DEPOSIT))
    def deposit(self, student: int, amount: int) -> None:
        who = self.ground.students[student]
        possible = self.balance(who.address) >= amount and not self.paused
        assert self.do(self.ground.langdao.functions.depositFunds(amount), who)[0] == possible

    @rule(student=person, amount=st.integers(1, DEPOSIT))
    def withdraw(self, student: int, amount: int) -> None:
        who = self.ground.students[student]
        studying = self.ground.langdao.functions.isStudying(who.address).call()
        possible = self.deposited(student) >= amount and not self.paused and not studying
        assert self.do(self.ground.langdao.functions.withdrawFunds(amount), who)[0] == possible

    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:
        self.paused = paused
        functions = self.ground.token.functions
        assert self.do(functions.pause() if paused else functions.unpause(), self.ground.owner)[0]

    @rule(items=st.lists(st.tuples(person, st.integers(-1, 1), person), max_size=4))
    def settle(self, items: list[tuple[int, int, int]]) -> None:
        """Tutors with the id they have, or one beside it, and a student who may be another."""
        named = []
        for tutor, off, student in items:
            session = max(0, self.active.get(tutor, (len(self.started), 0))[0] + off)
            named.append((tutor, session, student))
        expected, running, before = [], dict(self.active), {}
        for tutor, session, student in named:
            if tutor not in running:
                expected.append(("Skipped", session, 1))
            elif running[tutor][0] != session:
                expected.append(("Skipped", session, 2))
            elif self.ground.students[running[tutor][1]].address != self.ground.students[student].address:
                expected.append(("Skipped", session, 3))
            elif self.paused:
                expected.append(("Failed", session, b""))
            else:
                expected.append(("Settled", session))
                running.pop(tutor)
        ended = set(self.ended)
        before = {student: self.deposited(student) for student in range(PEOPLE)}
        call = self.ground.guarded.call(
            *((self.ground.tutors[t].address, session, self.ground.students[s].address) for t, session, s in named)
        )
        done, receipt = self.do(call, self.ground.guarded.keeper)
        assert done
        assert self.ground.guarded.said(receipt) == expected
        # Never ends what wasn't named, and a bad item changes nothing for the others.
        settled = [entry[1] for entry in expected if entry[0] == "Settled"]
        assert set(self.ended) - ended == set(settled)
        for session in settled:
            (tutor,) = (t for t, (active, _) in self.active.items() if active == session)
            _, student = self.active.pop(tutor)
            duration, paid = self.ended[session]
            assert paid == min(duration * RATE, before[student])
            before[student] -= paid
        assert all(self.deposited(student) == left for student, left in before.items())

    @rule(first=person, students=st.permutations(range(PEOPLE)))
    def a_reorg_swaps_two_starts(self, first: int, students: list[int]) -> None:
        """What was signed for the first order of two starts ends neither session of the second one."""
        pairs = list(zip((first, 1 - first), students, strict=True))
        self.pause(False)
        for tutor in list(self.active):
            self.end(tutor, "owner")
        if any(self.deposited(student) < 600 * RATE for student in students):
            return
        before = self.rpc("evm_snapshot", [])["result"]
        seen, kept = dict(self.active), dict(self.started)
        for tutor, student in pairs:
            self.start(student, tutor)
        signed = [(tutor, self.active[tutor][0], student) for tutor, student in pairs]
        assert self.rpc("evm_revert", [before])["result"]
        self.active, self.started = seen, kept
        for tutor, student in reversed(pairs):
            self.start(student, tutor)
        call = self.ground.guarded.call(
            *((self.ground.tutors[t].address, session, self.ground.students[s].address) for t, session, s in signed)
        )
        ended = set(self.ended)
        done, receipt = self.do(call, self.ground.guarded.keeper)
        assert done
        assert self.ground.guarded.said(receipt) == [("Skipped", session, 2) for _, session, _ in signed]
        assert set(self.ended) == ended

    @rule(tutor=person)
    def stranger_settles(self, tutor: int) -> None:
        session, student = self.active.get(tutor, (1, 0))
        call = self.ground.guarded.call((self.ground.tutors[tutor], session, self.ground.students[student]))
        assert not self.do(call, self.ground.students[student])[0]

    @invariant()
    def money_is_conserved(self) -> None:
        if hasattr(self, "money"):
            assert sum(self.balance(address) for address in self.holders) == self.money
            deposits = sum(self.deposited(student) for student in range(PEOPLE))
            assert self.balance(self.ground.langdao.address) == deposits

    @invariant()
    def a_tutor_has_the_one_session_the_events_say(self) -> None:
        if hasattr(self, "money"):
            for number, tutor in enumerate(self.ground.tutors):
                slot = self.ground.langdao.functions.activeSessions(tutor.address).call()
                assert (slot[8], slot[9]) == (self.active.get(number, (0, 0))[0], number in self.active)

    @invariant()
    def history_says_what_the_events_said(self) -> None:
        if hasattr(self, "money"):
            for session, (student, tutor) in list(self.started.items())[-3:]:
                got = self.ground.langdao.functions.sessionHistory(session).call()
                assert (got[0], got[1], got[8]) == (student, tutor, session)
                assert got[9] == (session not in self.ended)
                if session in self.ended:
                    assert (got[4] - got[3], got[6]) == self.ended[session]


def test_any_sequence_of_calls__money_sessions_and_history_hold(ground):
    class OnThisNode(Lessons):
        pass

    OnThisNode.ground = ground
    run_state_machine_as_test(OnThisNode, settings=STEPS)
