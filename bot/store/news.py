"""What was recorded since the last look, for those who count.

Promises: each row is told once to a reader that keeps its `Cursor`; a look costs as much as there is news. Sums over
the last day are exact, and cost what a day holds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func, select
from sqlmodel import Session, col

from bot.store.tables import ActionRow, AlertRow, DecisionRow, FactRow, Settlement, TxItemRow, TxRow

MOST = 5_000  # rows of a kind in one look


@dataclass(frozen=True, slots=True)
class Cursor:
    """The newest rows that were told."""

    fact: int = 0
    decision: int = 0
    alert: int = 0


@dataclass(frozen=True, slots=True)
class TxStep:
    """A step of a transaction of ours, for one of the sessions that it is about; `first` is true for one of them.

    Times are epoch ms; `due_ms` is when the session's end fell due.
    """

    kind: str
    step: str
    first: bool
    at_ms: int
    due_ms: int | None
    max_fee: int
    gas_cost: int | None


@dataclass(slots=True)
class News:
    cursor: Cursor
    facts: list[tuple[str, str]] = field(default_factory=list)  # source, kind
    nudges: list[dict[str, Any]] = field(default_factory=list)  # their outcomes
    decisions: list[tuple[str, str]] = field(default_factory=list)  # action, reason
    alerts: list[str] = field(default_factory=list)
    steps: list[TxStep] = field(default_factory=list)


def present(session: Session) -> Cursor:
    """Where a reader begins that doesn't care for the past."""

    def newest(table: Any) -> int:
        return int(session.execute(select(func.max(table.id))).scalar() or 0)

    return Cursor(newest(FactRow), newest(DecisionRow), newest(AlertRow))


def since(session: Session, cursor: Cursor) -> News:
    """What was recorded after `cursor`, at most MOST rows of each kind."""
    told = (FactRow.id, FactRow.source, FactRow.kind, FactRow.received_ms, FactRow.session_key, FactRow.payload)
    facts = session.execute(
        select(*map(col, told)).where(col(FactRow.id) > cursor.fact).order_by(col(FactRow.id)).limit(MOST)
    ).all()
    decisions = session.execute(
        select(*map(col, (DecisionRow.id, DecisionRow.action, DecisionRow.reason)))
        .where(col(DecisionRow.id) > cursor.decision)
        .order_by(col(DecisionRow.id))
        .limit(MOST)
    ).all()
    alerts = session.execute(
        select(*map(col, (AlertRow.id, AlertRow.name)))
        .where(col(AlertRow.id) > cursor.alert)
        .order_by(col(AlertRow.id))
        .limit(MOST)
    ).all()
    news = News(
        Cursor(
            facts[-1][0] or 0 if facts else cursor.fact,
            decisions[-1][0] or 0 if decisions else cursor.decision,
            alerts[-1][0] or 0 if alerts else cursor.alert,
        )
    )
    news.decisions = [(action, reason) for _, action, reason in decisions]
    news.alerts = [name for _, name in alerts]
    stepped = []
    for _, source, kind, at_ms, key, payload in facts:
        said = payload if isinstance(payload, dict) else {}
        if kind == "tx":
            stepped.append((at_ms, key, said))
        else:
            news.facts.append((source, kind))
        if kind == "nudge":
            news.nudges.append(said)
    news.steps = _steps(session, stepped)
    return news


def _steps(session: Session, stepped: list[tuple[int, str | None, dict[str, Any]]]) -> list[TxStep]:
    hashes = {str(said.get("hash")) for _, _, said in stepped}
    costs = dict(
        session.execute(select(*map(col, (TxRow.hash, TxRow.gas_cost))).where(col(TxRow.hash).in_(hashes))).all()
    )
    rows = session.execute(
        select(*map(col, (TxItemRow.tx_hash, TxItemRow.session_key, ActionRow.created_ms, ActionRow.payload)))
        .join(ActionRow, col(ActionRow.id) == col(TxItemRow.action_id))
        .where(col(TxItemRow.tx_hash).in_(hashes))
    )
    due = {(tx_hash, key): (payload or {}).get("due_ms") or created_ms for tx_hash, key, created_ms, payload in rows}
    told: set[tuple[str, str]] = set()
    found = []
    for at_ms, key, said in stepped:
        tx_hash, step = str(said.get("hash")), str(said.get("step"))
        cost = costs.get(tx_hash)
        found.append(
            TxStep(
                kind=str(said.get("kind")),
                step=step,
                first=(tx_hash, step) not in told,
                at_ms=at_ms,
                due_ms=due.get((tx_hash, key or "")),
                max_fee=int(said.get("max_fee") or 0),
                gas_cost=int(cost) if cost else None,
            )
        )
        told.add((tx_hash, step))
    return found


@dataclass(frozen=True, slots=True)
class Overbilled:
    """What sessions that ended lately were billed beyond their calls' ends: seconds, base units."""

    seconds: int
    amount: int


def overbilled_since(session: Session, since_s: int) -> Overbilled:
    """Over the settlements that ended since then (chain seconds)."""
    rows = session.execute(
        select(*map(col, (Settlement.overbilled_s, Settlement.overbilled_amount))).where(
            col(Settlement.ended_at) >= since_s, col(Settlement.overbilled_s).is_not(None)
        )
    ).all()
    return Overbilled(sum(seconds or 0 for seconds, _ in rows), sum(int(amount or 0) for _, amount in rows))
