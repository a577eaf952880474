"""What `replay` reads: the record of a session as decisions saw it, and the policies that they went by.

Promises: a policy is stored when a keeper starts with another than the one before.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import cast

from sqlalchemy import Table, func, inspect
from sqlalchemy import select as columns
from sqlmodel import Session, col, select

from bot.domain.facts import Beats, SessionKey
from bot.domain.policy import Policy
from bot.domain.replay import Decided, History, Said
from bot.domain.saw import policy_of
from bot.store import fact_rows
from bot.store.tables import ChainSession, DecisionRow, FactRow, PolicyRow, Room, Settlement, TxItemRow, TxRow

_DECISIONS = cast(Table, inspect(DecisionRow).local_table)


def note_policy(session: Session, policy: Policy, now: int) -> None:
    """Stores the policy unless it is the newest one stored."""
    said = json.loads(json.dumps(asdict(policy)))
    if session.exec(select(PolicyRow.policy).order_by(col(PolicyRow.id).desc()).limit(1)).first() != said:
        newest = session.exec(select(func.max(DecisionRow.id))).one() or 0
        session.add(PolicyRow(at_ms=now, decided_after=newest, policy=said))


class Policies:
    """The policies that were in force, by when they began to be."""

    def __init__(self, session: Session) -> None:
        rows = session.exec(select(PolicyRow).order_by(col(PolicyRow.id)))
        self._known = [(row.decided_after, policy_of(row.policy)) for row in rows]

    def at(self, decision: int) -> Policy:
        """That by which this decision was made; the first one for what is older than all."""
        found = self._known[0][1] if self._known else Policy()
        for after, policy in self._known:
            if after >= decision:
                break
            found = policy
        return found


def sessions(session: Session, session_id: int | None = None) -> list[SessionKey]:
    """Those on which something was decided, or that one."""
    names = session.exec(select(DecisionRow.session_key).distinct())
    keys = sorted(SessionKey.parse(name) for name in names)
    return [key for key in keys if session_id is None or key.session_id == session_id]


def read(session: Session, keys: list[SessionKey]) -> Iterator[History]:
    """The records of these sessions, one after the other."""
    for key in keys:
        yield _history(session, key)


def _history(session: Session, key: SessionKey) -> History:
    late = select(FactRow.id, FactRow.joined_after).where(
        FactRow.session_key == str(key), col(FactRow.joined_after).is_not(None)
    )
    joined_after = dict(session.exec(late).all())
    decisions = columns(_DECISIONS).where(_DECISIONS.c.session_key == str(key)).order_by(_DECISIONS.c.id)
    beats = Beats()
    for room in session.exec(select(Room).where(Room.session_key == str(key)).order_by(col(Room.beat_last_ms))):
        if room.beats:
            beats = beats.plus(room.beat_first_ms, 1).plus(room.beat_last_ms, room.beats - 1)
    chain = session.get(ChainSession, key.session_id)
    chain = chain if chain is not None and (chain.student, chain.tutor) == key[1:] else None
    settled = session.get(Settlement, key.session_id) if chain is not None else None
    ours = session.get(TxRow, settled.tx_hash) if settled is not None else None
    items = 1
    if ours is not None:
        count = select(func.count()).select_from(TxItemRow).where(TxItemRow.tx_hash == ours.hash)
        items = max(1, session.exec(count).one())
    return History(
        key=key,
        facts=[Said(fact, joined_after.get(fact.id) or 0) for fact in fact_rows.facts_of(session, [key])],
        decisions=[
            Decided(
                row.id,
                row.at_ms,
                row.action,
                row.reason,
                row.look_again_ms,
                row.inputs,
                row.facts_to or 0,
                row.saw,
            )
            for row in session.execute(decisions)
        ],
        beats=beats,
        rate=int(chain.rate) if chain is not None and chain.rate is not None else None,
        ended_at=settled.ended_at if settled is not None else None,
        by_keeper=ours is not None,
        gas_wei=int(ours.gas_cost) // items if ours is not None and ours.gas_cost is not None else None,
    )
