"""From the node's logs to the rows of the store.

Promises: every log becomes a row, in chain order, decoded where it is one of the contract's events and kept raw where
it isn't; a log that doesn't belong to the question (other contract, other block, taken away) is a `WrongAnswer`.
Pure: no clock, no network, no database.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bot.chain.codec import FundsDeposited, FundsWithdrawn, SessionEnded, SessionStarted, decode, name_of
from bot.chain.errors import WrongAnswer
from bot.chain.wire import RawHeader, RawLog
from bot.domain.address import Address
from bot.store.chain_rows import BlockRow, End, LogRow, Rows, Start

# Ids come from a counter; one that a 64-bit column can't hold is no id of this contract.
_LARGEST_ID = 2**63 - 1


def block_row(header: RawHeader) -> BlockRow:
    return BlockRow(int(header.number, 16), header.hash, header.parent_hash, int(header.timestamp, 16))


def check(logs: Iterable[RawLog], contract_lower: str, first: int, last: int) -> None:
    """Raises WrongAnswer when one of these logs isn't of the contract in these blocks."""
    for log in logs:
        if log.removed or log.address.lower() != contract_lower or not first <= int(log.block_number, 16) <= last:
            raise WrongAnswer("the node gave a log that wasn't asked for")


def untimed(logs: Iterable[RawLog]) -> list[int]:
    """The blocks whose time the node left out of their logs."""
    return sorted({int(log.block_number, 16) for log in logs if log.block_timestamp is None})


def rows_of(logs: Iterable[RawLog], blocks: list[BlockRow], times: Mapping[int, int]) -> Rows:
    """The rows that these logs make. `times`: block number to seconds, for logs that don't say it themselves."""
    rows = Rows(blocks=blocks)
    for log in sorted(logs, key=_position):
        number = int(log.block_number, 16)
        at_s = times.get(number) if log.block_timestamp is None else int(log.block_timestamp, 16)
        _add(rows, log, number, at_s)
    return rows


def _position(log: RawLog) -> tuple[int, int]:
    return int(log.block_number, 16), int(log.log_index, 16)


def _add(rows: Rows, log: RawLog, number: int, at_s: int | None) -> None:
    event = decode(log.topics, log.data)
    session_id: int | None = None
    about: Address | None = None
    if isinstance(event, SessionStarted) and event.session_id <= _LARGEST_ID:
        session_id, about = event.session_id, event.student
        rows.starts.append(Start(*event, number, log.transaction_hash, at_s))
    elif isinstance(event, SessionEnded) and event.session_id <= _LARGEST_ID:
        session_id, about = event.session_id, event.tutor
        rows.ends.append(End(*event, number, log.transaction_hash, at_s))
    elif isinstance(event, FundsDeposited | FundsWithdrawn):
        about = event.user
        rows.funds.add(event.user)
    elif event is not None:
        about = event[0] if isinstance(event[0], str) else None
    rows.logs.append(
        LogRow(
            log.block_hash,
            int(log.log_index, 16),
            number,
            at_s,
            log.transaction_hash,
            int(log.transaction_index, 16),
            name_of(log.topics[0]) if event is not None else None,
            session_id,
            about,
            ",".join(log.topics),
            log.data,
        )
    )
