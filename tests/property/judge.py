"""What must hold of what a keeper orders, worked out from the truth and not by the keeper's own rules.

Each check quotes what it holds the keeper to. Times are those that the policy names, never what `decide` made of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sqlmodel import select

from bot.domain.breaker import WINDOW_MS
from bot.domain.facts import Role, SessionKey
from bot.domain.policy import Hints
from bot.domain.session import Session
from bot.store.tables import ActionRow, DecisionRow
from tests.support.keeper import RATE

if TYPE_CHECKING:
    from tests.property.stage import Lesson, Stage

ALIVE_NO_MATTER = {"told", "drained", "contradiction", "away:student", "away:tutor"}  # in spite of heartbeats
WORD = ("ended", "contradiction", "timeout", "away")  # rest on the backend's word
LATE_MS = 250_000  # windows, waits for a payment and for another session's end, and a last attempt, all together
EARLY_MS = 15_000  # what was said longer before a start isn't of this lesson

FOLDED = (
    *(
        "ends",
        "weak_end",
        "timeouts",
        "losses",
        "settle",
        "paying",
        "beats",
        "life_ms",
        "weak_life_ms",
    ),
    *("still_here_ms", "word_ms", "asked_ms", "attempts", "set_aside", "heard", "reached", "told"),
)


def folded(session: Session) -> dict[str, Any]:
    """What facts have made of a session."""
    return {name: getattr(session, name) for name in FOLDED} | {
        "away": dict(session.away),
        "nudged": dict(session.nudged),
        "answerable": dict(session.answerable),
    }


class Judge:
    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.counted: dict[SessionKey, int] = {}  # ends that the breaker counts, of the last moments
        self.tripped_ms: int | None = None
        self.fresh_since_ms = 0  # ends that rest on nothing newer aren't counted again

    # What was decided -------------------------------------------------------------------------------------------

    def ordered(self, action_id: int, key: SessionKey) -> None:
        """An end was decided and stored."""
        with self.stage.keeper.database.read() as session:
            action = session.get(ActionRow, action_id)
            assert action is not None
            assert action.session_key == str(key), "never ends an id that it did not decide on"
            decision = session.get(DecisionRow, action.decision_id)
            assert decision is not None
            assert (decision.action, decision.session_key) == ("end", str(key))
            reason, decided_ms, inputs = str(decision.reason), decision.at_ms, decision.inputs
        lesson = self.stage.lesson(key)
        assert lesson is not None, "the session is one that is active"
        if decided_ms != self.stage.now:
            return  # a new process has taken it up
        self._may_end(lesson, reason)
        self._breaker(lesson, reason, inputs)

    def signs(self, key: SessionKey) -> Lesson:
        """The end is about to be signed."""
        stage = self.stage
        assert not stage.paused, "nothing is signed while paused"
        assert not stage.unsound, "nothing is signed while the chain contradicts what was final"
        lesson = stage.lesson(key)
        live = stage.keeper.reconciler.about(key)
        assert lesson is not None, "the session is one that is active"
        assert live is not None
        reason = stage.keeper.reconciler.decision(live).reason
        self._may_end(lesson, reason)
        stage.reached[f"ended: {reason}"] += 1
        return lesson

    def _may_end(self, lesson: Lesson, reason: str) -> None:
        """What the truth says of an end for this reason, now."""
        now, policy = self.stage.now, self.stage.policy
        grace, window = policy.disconnect_grace_ms, policy.nudge_window_ms
        where = f"{reason} of {lesson}"
        if 0 <= now - lesson.life_ms < grace:
            assert reason in ALIVE_NO_MATTER, f"heartbeats show it alive within the grace: {where}"
        if 0 <= now - lesson.still_ms < grace:
            assert reason in ("told", "drained"), f"a participant says that it goes on: {where}"
        name = reason.partition(":")[0]
        if name in WORD:
            self._word_may_end(lesson, where)
        match name:
            case "told":
                assert lesson.told_ms, f"only a participant's own end signature or an operator ends at once: {where}"
            case "ended":
                # Where nobody can be reached, the grace alone; it counts from the last sign of life, if there was one.
                quiet = bool(lesson.life_ms) and now - max(lesson.life_ms, lesson.still_ms) >= grace
                given_ms = (0 if quiet else grace) if lesson.missed else window
                said_ms = lesson.ended_ms + lesson.taken_for_its_ms
                assert any(now - at >= given_ms for at in said_ms), f"window and grace are given: {where}"
            case "contradiction":
                self._contradiction_may_end(lesson, where)
            case "away":
                role = reason.partition(":")[2]
                lost = lesson.lost.get(Role(role) if role else None)
                assert lost is not None, f"back again, or never lost: {where}"
                assert lost[1], f"who says so couldn't tell the return: {where}"
                assert now - lost[0] >= grace + (0 if lesson.missed else window), f"window and grace are given: {where}"
            case "timeout":
                assert any(now - at >= grace for at in lesson.timeout_ms), f"the grace is given: {where}"
            case "silence":
                assert lesson.beats >= 3, f"the timeout is armed by three heartbeats: {where}"
                silent_ms = now - max(lesson.life_ms, lesson.still_ms, self.stage.heard_since_ms)
                needed_ms = policy.heartbeat_timeout_ms + grace
                assert silent_ms >= needed_ms, f"silent for {silent_ms} ms that could be heard: {where}"
            case "drained":
                student = lesson.key.student
                owed = self.stage.owed(student, now - policy.drain_grace_ms)
                # A second of each lesson: the chain's seconds are whole.
                balance = self.stage.balances.get(student)
                assert balance is not None, where
                assert owed >= balance - 2 * RATE * len(self.stage.lessons), f"{owed} of {balance} used up: {where}"
            case _:
                raise AssertionError(f"nothing ends by that: {where}")

    def _word_may_end(self, lesson: Lesson, where: str) -> None:
        stage, policy = self.stage, self.stage.policy
        assert policy.hints is not Hints.NO, f"no word of the backend ends a lesson: {where}"
        if policy.hints is Hints.CORROBORATED:
            objectable = lesson.objectable_ms and stage.now - lesson.objectable_ms >= policy.nudge_window_ms
            quiet_ms = stage.now - max(lesson.life_ms, stage.heard_since_ms)
            silent = lesson.beats >= 3 and quiet_ms >= policy.disconnect_grace_ms
            assert objectable or silent, f"nothing stands beside the backend's word: {where}"

    def _contradiction_may_end(self, lesson: Lesson, where: str) -> None:
        now, policy = self.stage.now, self.stage.policy
        said_ms = lesson.ended_ms + lesson.taken_for_its_ms
        assert said_ms, where
        last_ms = max(lesson.life_ms, lesson.still_ms, 0 if lesson.beats else min(said_ms))
        haunted_ms = min(max(last_ms, lesson.haunt_ms), last_ms + policy.contradiction_cap_ms)
        if now - haunted_ms >= policy.disconnect_grace_ms:
            return  # the signs of life have stopped; what anybody says puts it off by the cap at most
        assert lesson.asked_ms, f"the question was delivered: {where}"
        assert now - lesson.asked_ms >= policy.nudge_window_ms, f"it could be answered: {where}"
        assert now - min(said_ms) >= policy.contradiction_cap_ms, f"the cap has passed: {where}"

    # The mass-end breaker -----------------------------------------------------------------------------------------

    def note_breaker(self) -> None:
        """It may have tripped, or been released."""
        stage = self.stage
        tripped_ms = stage.keeper.reconciler.memory.breaker.tripped_ms
        if tripped_ms != self.tripped_ms:
            stage.reached["breaker: tripped" if tripped_ms is not None else "breaker: released"] += 1
            self.fresh_since_ms = stage.now if tripped_ms is None else tripped_ms
            self.tripped_ms = tripped_ms
            self.counted.clear()

    def let_go(self) -> None:
        """An operator has looked: it holds nothing of what was said until now."""
        self.tripped_ms, self.fresh_since_ms = None, self.stage.now
        self.counted.clear()

    def _breaker(self, lesson: Lesson, reason: str, inputs: dict[str, Any]) -> None:
        """trips only when both MASS_END_COUNT and MASS_END_SHARE are exceeded within 30 s"""
        stage, policy, now = self.stage, self.stage.policy, self.stage.now
        if reason == "told":
            return
        self.note_breaker()
        same_moment = self.tripped_ms == now and inputs.get("mass_end_ms") is None  # decided before it tripped
        if self.tripped_ms is not None and not same_moment:
            alive_ms, student = max(lesson.life_ms, lesson.still_ms), lesson.key.student
            silent = alive_ms <= self.tripped_ms and now >= self.tripped_ms + policy.mass_hold_max_ms
            own = max(alive_ms, lesson.asked_ms, lesson.word_ms) > self.tripped_ms
            if reason == "drained":
                unspent = stage.owed(student, self.tripped_ms - 2_000) < stage.balances[student]
                own = unspent or lesson.started_ms > self.tripped_ms - 2_000
            assert own or silent, f"held by the breaker since {self.tripped_ms}: {reason} of {lesson}"
            stage.reached["breaker: own evidence" if not silent else "breaker: silent for long"] += 1
        if int(inputs["evidence_ms"]) > self.fresh_since_ms:
            self.counted = {key: at for key, at in self.counted.items() if now - at < WINDOW_MS}
            self.counted[lesson.key] = now
            running = len({one.key for one in stage.lessons.values()} | set(self.counted))
            many = len(self.counted) > max(policy.mass_end_count, policy.mass_end_share * running)
            assert not many, f"{len(self.counted)} of {running} ended at once: {lesson}"

    # A new process ------------------------------------------------------------------------------------------------

    def folded_as_before(self, before: Mapping[SessionKey, dict[str, Any]]) -> None:
        """the same facts in the same order give an equal session, so recovery is replay"""
        for key, was in before.items():
            live = self.stage.keeper.reconciler.about(key)
            assert live is not None, f"{key} was forgotten"
            now = folded(live.session)
            now["nudged"] = {mark: at for mark, at in now["nudged"].items() if mark in was["nudged"]}
            other = {name: (was[name], now[name]) for name in was if was[name] != now[name]}
            assert not other, f"the same facts give an equal session, but for {other}: {key}"

    # What was not decided ---------------------------------------------------------------------------------------

    def due_ms(self, lesson: Lesson, quiet_ms: int) -> int | None:
        """By when a lesson that is over has to be dealt with, if all has been as it is since `quiet_ms`.

        None: nothing that happened tells anybody that it is over, and nobody's money runs out.
        """
        policy, stage = self.stage.policy, self.stage
        dues = []
        if lesson.told_ms:
            dues.append(quiet_ms + LATE_MS)
        if any(at >= lesson.started_ms - EARLY_MS for at in lesson.ended_ms):
            dues.append(quiet_ms + policy.contradiction_cap_ms + policy.sole_room_timeout_ms + LATE_MS)
        armed = lesson.beats >= 3 and lesson.beat_ms - lesson.first_beat_ms >= 30_000
        # Those of before a reorg took it may be forgotten with its room.
        if armed and not lesson.beating and lesson.first_beat_ms >= lesson.started_ms:
            dues.append(quiet_ms + policy.contradiction_cap_ms + policy.sole_room_timeout_ms + LATE_MS)
        if not lesson.heard:
            dues.append(max(quiet_ms, lesson.started_ms + policy.orphan_after_ms) + LATE_MS)
        student = lesson.key.student
        if student in stage.balances:
            rate = RATE * sum(1 for one in stage.lessons.values() if one.key.student == student)
            left = stage.balances[student] - stage.owed(student, quiet_ms)
            dues.append(quiet_ms + max(0, left) // rate * 1000 + policy.drain_grace_ms + LATE_MS)
        return min(dues, default=None)

    async def all_dealt_with(self) -> None:
        """every session that is truly over is ended, handed to an operator, or explained as held, by its due time"""
        stage = self.stage
        quiet_ms = stage.now
        open_since = {one.key: one for one in stage.lessons.values()}
        for _ in range(2 * len(open_since) + 2):
            dues = {
                one.key: due
                for one in list(stage.lessons.values())
                if (due := self.due_ms(one, quiet_ms)) is not None and due > stage.now
            }
            if not dues:
                break
            key, due = min(dues.items(), key=lambda item: item[1])
            if due - stage.now > 1_500_000:
                stage.reached["clock: hours"] += 1
                stage.reached["clock: days"] += due - stage.now > 86_400_000
                await stage.jumps(due - stage.now - LATE_MS)  # what nobody hears of doesn't have to be played
            await stage.passes(due - stage.now)
            lesson = open_since[key]
            if lesson.ended or (self.due_ms(lesson, quiet_ms) or 0) <= stage.now:  # another's end can put it off
                self._dealt_with(lesson, quiet_ms)
            await asyncio.sleep(0)

    def _dealt_with(self, lesson: Lesson, quiet_ms: int) -> None:
        if lesson.ended:
            return
        with self.stage.keeper.database.read() as session:
            rows = session.exec(
                select(DecisionRow).where(DecisionRow.session_key == str(lesson.key)).order_by(DecisionRow.id)
            )
            said = [(row.action, row.reason, row.inputs.get("hold"), row.at_ms) for row in rows]
        assert said, f"{lesson} was never decided on"
        handed = [one for one in said if one[0] == "alert"]
        held = said[-1][0] == "hold"
        assert held or handed, (f"not dealt with by {self.stage.now}, quiet since {quiet_ms}", lesson, said[-6:])
        self.stage.reached["over: handed to an operator" if handed else f"over: held, {said[-1][2]}"] += 1

    def nothing_is_held(self) -> None:
        """What was held is ended once nothing holds it any more."""
        for lesson in self.stage.lessons.values():
            live = self.stage.keeper.reconciler.about(lesson.key)
            assert live is not None
            assert live.decided[0] not in ("hold", "end"), f"{live.decided}: {lesson}"
