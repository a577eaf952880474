"""What the record says of the mass-end breaker: when it tripped, when it was released, what ended lately.

Its facts belong to no session: kind `breaker`, by the keeper or an operator, `payload["state"]` tripped or released.
"""

from __future__ import annotations

import secrets
from typing import Any, NamedTuple

from sqlmodel import Session, col, select

from bot.domain.decide import Action
from bot.domain.facts import Hint, Kind, SessionKey, Source, Trust
from bot.store import fact_rows
from bot.store.tables import AlertRow, DecisionRow, FactRow

TRIPPED, RELEASED = "tripped", "released"
ALERT = "alert.mass-end"


class Newest(NamedTuple):
    tripped: bool
    at_ms: int


def note(session: Session, state: str, source: Source, at_ms: int, **more: Any) -> None:
    """Records that it tripped or was released."""
    hint = Hint(Kind.BREAKER, source, Trust.PROVEN, at_ms, payload={"state": state} | more)
    key = f"breaker:{state}:{at_ms}:{secrets.token_hex(4)}"  # resumed twice in a millisecond, or the clock was set back
    fact_rows.add_facts(session, [(key, hint, None)])


def newest(session: Session) -> Newest | None:
    """What happened to it last; None if nothing ever did."""
    query = select(FactRow).where(FactRow.kind == Kind.BREAKER.value).order_by(col(FactRow.id).desc())
    row = session.exec(query.limit(1)).first()
    return Newest(row.payload.get("state") == TRIPPED, row.received_ms) if row else None


def told_ms(session: Session) -> int:
    """When an operator was last told of it, 0 for never."""
    query = select(AlertRow.at_ms).where(AlertRow.name == ALERT).order_by(col(AlertRow.id).desc())
    return session.exec(query.limit(1)).first() or 0


def ends_since(session: Session, since_ms: int) -> list[tuple[SessionKey, int, int]]:
    """Ends decided since then that count for it: session, newest evidence, when; the oldest first."""
    query = select(DecisionRow).where(
        DecisionRow.action == Action.END.value, DecisionRow.at_ms >= since_ms, DecisionRow.reason != "told"
    )
    return [
        (SessionKey.parse(row.session_key), int(row.inputs.get("evidence_ms") or 0), row.at_ms)
        for row in session.exec(query.order_by(col(DecisionRow.id)))
    ]
