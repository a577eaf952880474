"""What is active on chain, by the chain's word alone.

Promises: every session with `isActive` at one block is in the list; all reads look at that block. Costs are what an
end in that block would pay: a student's sessions share one balance, so the total counts it once. Tens of thousands
of sessions are a few dozen requests.
Doesn't promise that any of them is stranded: the chain doesn't know whether a lesson goes on.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bot.chain.codec import OnChainSession
from bot.chain.errors import RpcError, Unreachable, WrongAnswer
from bot.chain.langdao import LangDAO
from bot.chain.rpc import Rpc
from bot.chain.start import chain_name, sessions_ever
from bot.domain import bill
from bot.errors import Misconfigured

PAGE = 2_000  # sessions between two reports of progress

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Found:
    """The active sessions at a block."""

    chain_id: int
    contract: str
    block: int
    at_s: int  # the block's time
    counter: int  # sessions there ever were
    sessions: tuple[OnChainSession, ...]
    balances: dict[tuple[str, str], int]  # (student, token) -> base units

    def document(self) -> dict[str, Any]:
        """As `--json` prints it: amounts as decimal text in base units, times in epoch seconds."""
        together: dict[tuple[str, str], list[OnChainSession]] = defaultdict(list)
        for one in self.sessions:
            together[one.student, one.token].append(one)
        lines, cost, per_hour = [], 0, 0
        for purse, group in together.items():
            balance = self.balances[purse]
            drained_at = bill.used_up_at(balance, [(one.rate, one.start_s) for one in group])
            drained = drained_at is not None and drained_at <= self.at_s
            claims = [bill.cost(one.rate, one.start_s, self.at_s, balance) for one in group]
            cost += min(sum(claims), balance)
            per_hour += 0 if drained else 3600 * sum(one.rate for one in group)
            lines += [self._line(one, claim, drained_at, drained) for one, claim in zip(group, claims, strict=True)]
        return {
            "chain": chain_name(self.chain_id),
            "chain_id": self.chain_id,
            "contract": self.contract,
            "head": {"number": self.block, "at": self.at_s},
            "sessions_ever": self.counter,
            "sessions": sorted(lines, key=lambda line: (line["started_at"], line["session_id"])),
            "total": {
                "active": len(lines),
                "drained": sum(1 for line in lines if line["drained"]),
                "cost": str(cost),
                "cost_per_hour": str(per_hour),
            },
        }

    def _line(self, one: OnChainSession, claim: int, drained_at: int | None, drained: bool) -> dict[str, Any]:
        return {
            "session_id": one.id,
            "student": one.student,
            "tutor": one.tutor,
            "token": one.token,
            "language": one.language,
            "started_at": one.start_s,
            "age_s": max(0, self.at_s - one.start_s),
            "rate": str(one.rate),
            "cost": str(claim),
            "cost_per_hour": str(0 if drained else 3600 * one.rate),
            "drained": drained,
            "drained_at": drained_at,
            "settle": f"langdao-keeper settle {one.id}",
        }


async def read(
    rpc: Rpc, contract: str, *, first_answer_s: float, page: int = PAGE, progress: Progress | None = None
) -> Found:
    """Reads what is active at the head. Raises Misconfigured, Unreachable, RpcError, WrongAnswer."""
    dao = LangDAO(rpc, contract)
    try:
        async with asyncio.timeout(first_answer_s):
            chain_id = int(await rpc.call("eth_chainId"), 16)
            head = await rpc.header("latest")
            if head is None:
                raise WrongAnswer("the node knows no newest block")
            block, at_s = int(head.number, 16), int(head.timestamp, 16)
            await _contract_there(dao, block, chain_id)
            counter = await sessions_ever(dao, block, chain_id)
    except TimeoutError:
        raise Unreachable(rpc.shown, f"no answer within {first_answer_s:g} s") from None
    active: list[OnChainSession] = []
    for start in range(1, counter + 1, page):
        ids = range(start, min(start + page, counter + 1))
        active += _running(await dao.sessions(ids, block))
        if progress is not None:
            progress(ids[-1], counter)
    balances = await dao.balances(sorted({(one.student, one.token) for one in active}), block)
    return Found(chain_id, contract, block, at_s, counter, tuple(active), balances)


async def _contract_there(dao: LangDAO, block: int, chain_id: int) -> None:
    if not await dao.code(block):
        raise Misconfigured(
            f"CONTRACT_ADDRESS: no code at {dao.address} on {chain_name(chain_id)}. Deployed elsewhere? Check RPC_URL."
        )


def _running(answers: Sequence[OnChainSession | RpcError | None]) -> list[OnChainSession]:
    found = []
    for answer in answers:
        if isinstance(answer, RpcError):
            raise answer  # a hole in the list would look like a session that doesn't run
        if answer is not None and answer.active:
            found.append(answer)
    return found
