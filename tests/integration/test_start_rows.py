"""What a start reads, on SQLite and on a real PostgreSQL: facts, rooms, sessions, decisions, marks, however many."""

from __future__ import annotations

from sqlalchemy import insert

from bot.domain.decide import Action, Decision
from bot.domain.facts import NO_BEATS, TRUST_OF, Beats, Hint, Kind, Role, SessionKey, Source, Trust
from bot.domain.linking import Room
from bot.store import chain_rows, fact_rows, records, room_rows, session_rows
from bot.store.chain_rows import End, Finality, Rows, Start
from bot.store.db import Database
from bot.store.tables import ActionRow
from tests.integration.test_store import database, postgres, url
from tests.support.sessions import OTHER_STUDENT, OTHER_TUTOR, STUDENT, TUTOR

__all__ = ["database", "postgres", "url"]

KEY, OTHER = SessionKey(7, STUDENT, TUTOR), SessionKey(8, OTHER_STUDENT, OTHER_TUTOR)
SAID = Hint(
    Kind.DISCONNECTED,
    Source.RECORD,
    Trust.CONFIGURED,
    1_800_000_000_000,
    "req_1",
    7,
    STUDENT,
    TUTOR,
    Role.TUTOR,
    1_799_999_999_999,
    True,
    {"why": "\ud800 ü", "nested": {"n": [1, 2**70, None, True, 0.5]}},
)
NUDGED = Hint(Kind.NUDGE, Source.KEEPER, TRUST_OF[Source.KEEPER], 5, payload={"mark": "ended@1", "delivered": []})


def test_facts_of__facts_of_several_sessions__equal_what_was_stored_in_its_order(database: Database) -> None:
    """a fact read back equals the fact stored"""
    with database.write() as tx:
        ids = fact_rows.add_facts(tx, [("a", SAID, KEY), ("b", NUDGED, OTHER), ("c", SAID, None), ("d", NUDGED, KEY)])
    with database.read() as tx:
        found = fact_rows.facts_of(tx, [OTHER, KEY, SessionKey(9, STUDENT, TUTOR)])
        unlinked = fact_rows.unlinked_facts(tx, SAID.received_ms)
        assert fact_rows.facts_of(tx, []) == fact_rows.unlinked_facts(tx, SAID.received_ms + 1) == []
    assert [(one.id, one.hint, one.key) for one in found] == [
        (ids[0], SAID, KEY),
        (ids[1], NUDGED, OTHER),
        (ids[3], NUDGED, KEY),
    ]
    assert [(one.id, one.hint, one.key) for one in unlinked] == [(ids[2], SAID, None)]


def test_rooms__of_live_sessions_and_others__are_told_apart(database: Database) -> None:
    """A room of a session that isn't on the canonical chain any more is left out: nothing of it may carry over."""
    mine = Room("req_1", 1, 90, KEY, "addresses", Trust.CONFIGURED, STUDENT, TUTOR, Beats(3, 1, 90), Source.WEBHOOK)
    late = Room("req_2", 2, 60, KEY, "room", beats=Beats(1, 60, 60), beat_source=Source.SOCKET)
    waiting, gone = Room("req_3", 3, 50), Room("req_4", 4, 50, SessionKey(9, STUDENT, TUTOR), "chain-id")
    over, silent = Room("req_5", 5, 50, OTHER, "chain-id"), Room("req_6", 6, 9)
    expired = Room("req_7", 7, 50, expired=True)
    with database.write() as tx:
        room_rows.save(tx, [mine, late, waiting, gone, over, silent, expired])
        chain_rows.append(tx, Rows(starts=[Start(*OTHER, 0, 1, 1)]), Finality(0, 0))
    with database.read() as tx:
        assert room_rows.of(tx, [KEY]) == [late, mine]
        assert room_rows.others(tx, 10, lambda key: key == KEY) == [waiting, over]
        assert room_rows.of(tx, [OTHER])[0].beats is NO_BEATS


def test_sessions__thousands_of_ids__those_on_chain_with_what_is_known(database: Database) -> None:
    starts = [Start(number, OTHER_STUDENT if number % 2 else STUDENT, TUTOR, 0, 1, 5) for number in range(1, 4)]
    with database.write() as tx:
        chain_rows.append(tx, Rows(starts=starts), Finality(0, 0))
        chain_rows.append(tx, Rows(ends=[End(1, TUTOR, 5, 500, 2, "0x2", 10)]), Finality(2, 2))
        chain_rows.append(tx, Rows(ends=[End(2, TUTOR, 5, 500, 3, "0x3", 11)]), Finality(2, 2))
    with database.read() as tx:
        found = session_rows.by_id(tx, range(3_000))
        assert [(one.key, one.started_at, one.ended, one.closed) for one in found] == [
            (SessionKey(1, OTHER_STUDENT, TUTOR), 5, True, True),
            (SessionKey(2, STUDENT, TUTOR), 5, True, False),
            (SessionKey(3, OTHER_STUDENT, TUTOR), 5, False, False),
        ]
        assert session_rows.live_ids(tx, 11) == [2, 3]
        assert session_rows.live_ids(tx, 10) == [1, 2, 3]
        assert session_rows.live_ids(tx, 10, ended=False) == [3]
        assert session_rows.closed_among(tx, [1, 2, 3, 4]) == {1}
        assert session_rows.may_withdraw(tx, [STUDENT, OTHER_STUDENT, TUTOR]) == {STUDENT, OTHER_STUDENT}
        assert (session_rows.newest(tx), session_rows.by_id(tx, [])) == (3, [])


def test_decisions__several_of_a_session__the_newest_counts_and_all_marks(database: Database) -> None:
    alert = Decision(Action.ALERT, "orphan", mark="alert:orphan@1")
    hold = Decision(Action.HOLD, "ended", inputs={"hold": "paused"})
    with database.write() as tx:
        for key, decision, at_ms in (
            (KEY, alert, 1),
            (KEY, hold, 2),
            (OTHER, hold, 3),
            (OTHER, Decision(Action.WAIT, "x"), 4),
        ):
            records.add_decision(tx.connection(), key, decision, at_ms)
        payload = {"mark": "ended@1"}
        values = {"key": "n", "kind": "nudge", "session_key": str(OTHER), "created_ms": 9, "payload": payload}
        tx.execute(insert(ActionRow), [values | {"state": "done"}])
    with database.read() as tx:
        assert records.last_reasons(tx, [KEY, OTHER]) == {KEY: ("hold", "ended", "paused"), OTHER: ("wait", "x", None)}
        assert records.action_marks(tx, [KEY, OTHER]) == [(KEY, "alert:orphan@1", 1), (OTHER, "ended@1", 9)]
        assert records.action_marks(tx, [KEY])[0][0] is KEY
