"""The index against the chain: is what we say true, and is it all?

Promises: everything is compared at one block, the newest one of the index, and in the end the node is asked again
whether that is still on its chain. Each check says what it compared, and names the differences: every log by its
content; the rows made of them; what was paid; `getSession` of a sample or of all; each student's deposits, withdrawals
and payments against the balance that the contract keeps; and that its tokens cover all balances (an excess is reported,
a shortfall is a difference).
Doesn't promise to mend anything. Balances need an index from the deployment on.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlmodel import Session

from bot.chain import codec
from bot.chain.codec import FundsDeposited, FundsWithdrawn, OnChainSession, SessionEnded
from bot.chain.errors import RpcError, WrongAnswer
from bot.chain.follower.backfill import Backfill
from bot.chain.langdao import LangDAO
from bot.chain.rpc import Rpc
from bot.domain.address import Address
from bot.domain.identity import Identity
from bot.errors import Misconfigured
from bot.store import audit_rows as store
from bot.store import queries
from bot.store.audit_rows import Recorded
from bot.store.chain_rows import LogRow

NAMED = 10  # differences of one check that are told one by one

Purse = tuple[Address, Address]  # student, token
Tell = Callable[[int, int], None]


@dataclass(slots=True)
class Check:
    """One comparison. `differences` is their number, `examples` tells the first ones; `note` is no difference."""

    name: str
    compared: int = 0
    differences: int = 0
    examples: list[str] = field(default_factory=list)
    note: str | None = None

    def differs(self, what: str, times: int = 1) -> None:
        self.differences += times
        if len(self.examples) < NAMED:
            self.examples.append(what)


@dataclass(slots=True)
class _Sums:
    """What logs add up to: the payments that the chain told of, the deposits less withdrawals that the index has."""

    paid: int = 0
    deposits: dict[Purse, int] = field(default_factory=lambda: defaultdict(int))

    def chain_said(self, rows: Iterable[LogRow]) -> None:
        for event in map(_event, rows):
            if isinstance(event, SessionEnded):
                self.paid += event.paid

    def index_said(self, rows: Iterable[LogRow]) -> None:
        for event in map(_event, rows):
            if isinstance(event, FundsDeposited):
                self.deposits[event.user, event.token] += event.amount
            elif isinstance(event, FundsWithdrawn):
                self.deposits[event.user, event.token] -= event.amount


def _event(row: LogRow) -> codec.Event | None:
    topics = [topic for topic in row.topics.split(",") if topic]
    return codec.decode(topics if row.name is None else [codec.TOPICS[row.name], *topics], row.data)


async def audit(
    rpc: Rpc, session: Session, identity: Identity, *, sample: int | None, tell: Tell = lambda *_: None
) -> dict[str, Any]:
    """Compares. `sample`: how many sessions are asked for, None for all; `tell` hears (block, last block).

    Raises Misconfigured when there is no index yet, WrongAnswer when the chain moved in between.
    """
    newest = queries.newest_block(session)
    if newest is None:
        raise Misconfigured("Nothing is indexed yet: `langdao-keeper index` does that, without a key")
    number, block_hash = int(newest["number"]), str(newest["hash"])
    where = Check("branch", compared=1)
    header = await rpc.header(number)
    if header is None:
        raise WrongAnswer(f"the node has no block {number} yet, which the index has reached")
    if header.hash != block_hash:
        where.differs(f"block {number} is {header.hash} at the node, and {block_hash} in the index")
        return _document(number, block_hash, [where])  # two branches have nothing to compare
    dao, sums = LangDAO(rpc, identity.contract), _Sums()
    checks = [where, await _logs(rpc, session, identity, number, sums, tell)]
    checks += [_derived(session), _paid(session, sums)]
    checks.append(await _counter(session, dao, block_hash))
    checks.append(await _sessions(session, dao, block_hash, sample))
    checks += await _funds(session, dao, block_hash, sums)
    again = await rpc.header(number)
    if again is None or again.hash != block_hash:
        raise WrongAnswer("the chain moved during the audit")
    return _document(number, block_hash, checks)


def _document(number: int, block_hash: str, checks: list[Check]) -> dict[str, Any]:
    differences = sum(check.differences for check in checks)
    return {
        "block": number,
        "block_hash": block_hash,
        "agrees": differences == 0,
        "differences": differences,
        "checks": [asdict(check) for check in checks],
    }


async def _logs(rpc: Rpc, session: Session, identity: Identity, last: int, sums: _Sums, tell: Tell) -> Check:
    """Every log of the contract, by its content."""
    check, first = Check("logs"), identity.deploy_block
    pages = Backfill(rpc, identity.contract).pages(first, last)
    try:
        async for page in pages:
            theirs = {row[:2]: row for row in page.rows.logs}
            ours = {row[:2]: row for row in store.logs(session, first, page.last)}
            check.compared += len(theirs)
            sums.chain_said(page.rows.logs)
            sums.index_said(ours.values())
            for place in sorted(theirs.keys() | ours.keys()):
                if what := _told(theirs.get(place), ours.get(place)):
                    check.differs(f"block {place[0]}, log {place[1]}: {what}")
            first = page.last + 1
            tell(page.last, last)
    finally:
        await pages.aclose()
    return check


def _told(theirs: LogRow | None, ours: LogRow | None) -> str | None:
    """In what a log differs, None if in nothing."""
    if theirs is None or ours is None:
        one = theirs or ours
        name = (one.name if one else None) or "an unknown event"
        return f"{name} isn't {'in the index' if ours is None else 'on the chain'}"
    fields = [name for name in LogRow._fields if getattr(theirs, name) != getattr(ours, name)]
    return f"{theirs.name or 'an unknown event'} has another {', '.join(fields)}" if fields else None


def _derived(session: Session) -> Check:
    """A session for each SessionStarted, a settlement for each SessionEnded."""
    check = Check("rows")
    for table, (rows, logs) in store.derived(session).items():
        check.compared += logs
        if rows != logs:
            check.differs(f"{rows} rows in {table}, and {logs} logs that make one", abs(rows - logs))
    return check


def _paid(session: Session, sums: _Sums) -> Check:
    total, _ = store.paid(session)
    check = Check("paid", compared=1)
    if total != sums.paid:
        check.differs(f"the settlements add up to {total}, the chain's SessionEnded to {sums.paid}")
    return check


async def _counter(session: Session, dao: LangDAO, at: str) -> Check:
    """As many sessions as the contract counted, as far as the index goes back."""
    ids, check = store.ids(session), Check("counter", compared=1)
    counter = await dao.counter(at)
    missing = sorted(set(range(ids[0] if ids else 1, counter + 1)) - set(ids))
    for number in missing[:NAMED]:
        check.differs(f"session {number} isn't in the index; the contract has counted to {counter}")
    check.differences = len(missing)
    return check


async def _sessions(session: Session, dao: LangDAO, at: str, sample: int | None) -> Check:
    """`getSession`, field by field."""
    ids = store.ids(session)
    if sample is not None and sample < len(ids):
        ids = sorted(random.sample(ids, sample))
    check = Check("sessions", compared=len(ids))
    for ours, theirs in zip(store.recorded(session, ids), await dao.sessions(ids, at), strict=True):
        if isinstance(theirs, RpcError):
            raise theirs
        for what in _differing(ours, theirs):
            check.differs(f"session {ours.session_id}: {what}")
    return check


def _differing(ours: Recorded, theirs: OnChainSession | None) -> list[str]:
    if theirs is None:
        return ["the contract has none of that id"]
    pairs: list[tuple[str, Any, Any]] = [
        ("student", ours.student, theirs.student),
        ("tutor", ours.tutor, theirs.tutor),
        ("language", ours.language, theirs.language),
        ("active", ours.end_block is None, theirs.active),
    ]
    # What is null in the index is unread, and `index` counts it.
    pairs += [("started_at", ours.started_at, theirs.start_s)] if ours.started_at is not None else []
    pairs += [("rate", int(ours.rate), theirs.rate)] if ours.rate is not None else []
    pairs += [("token", ours.token, theirs.token)] if ours.token is not None else []
    if ours.paid is not None:
        pairs += [("paid", int(ours.paid), theirs.paid), ("ended_at", ours.ended_at, theirs.end_s)]
    return [f"{name} is {here} in the index, {there} in the contract" for name, here, there in pairs if here != there]


async def _funds(session: Session, dao: LangDAO, at: str, sums: _Sums) -> list[Check]:
    """Each student's balance, and the token's balance of the contract."""
    token = await dao.token(at)
    _, paid = store.paid(session)
    students = sorted({user for user, _ in sums.deposits} | set(store.students(session)))
    balances = await dao.balances([(student, token) for student in students], at)
    check = Check("balances", compared=len(students))
    for student in students:
        expected, there = sums.deposits[student, token] - paid.get(student, 0), balances[student, token]
        if expected != there:
            check.differs(f"{student}: logs and settlements make {expected}, the contract keeps {there}")
    owed, held = sum(balances.values()), await dao.held(token, at)
    cover = Check("cover", compared=1)
    if held < owed:
        cover.differs(f"the contract holds {held} of {token} and owes its students {owed}: {owed - held} too few")
    elif held > owed:
        cover.note = f"the contract holds {held - owed} of {token} more than it owes; nobody can withdraw that"
    return [check, cover]
