"""From the node's logs to the rows of the store.

Promises: every log becomes a row, in chain order, decoded where it is one of the contract's events and kept raw where
it isn't; a log that doesn't belong to the question (other contract, other block, taken away) is a `WrongAnswer`.
Pure: no clock, no network, no database.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bot.chain.codec import NAMES, FundsDeposited, FundsWithdrawn, SessionEnded, SessionStarted, decode
from bot.chain.errors import WrongAnswer
from bot.chain.wire import RawHeader, RawLog
from bot.domain.address import Address
from bot.store.chain_rows import BlockRow, End, Rows, Start

# Ids come from a counter; one that a 64-bit column can't hold is no id of this contract.
_LARGEST_ID = 2**63 - 1


def block_row(header: RawHeader) -> BlockRow:
    return BlockRow(int(header.number, 16), header.hash, header.parent_hash, int(header.timestamp, 16))


def check(logs: Iterable[RawLog], contract_lower: str, first: int, last: int) -> None:
    """Raises WrongAnswer when one of these logs isn't of the contract in these blocks."""
    block = ""
    for log in logs:
        if log.block_number != block:  # most logs share their block with the one before
            block = log.block_number
            if not first <= int(block, 16) <= last:
                raise WrongAnswer("the node gave a log that wasn't asked for")
        if log.removed or (log.address != contract_lower and log.address.lower() != contract_lower):
            raise WrongAnswer("the node gave a log that wasn't asked for")


def untimed(logs: Iterable[RawLog]) -> list[int]:
    """The blocks whose time the node left out of their logs."""
    return sorted({int(log.block_number, 16) for log in logs if log.block_timestamp is None})


def rows_of(logs: Sequence[RawLog], blocks: list[BlockRow], times: Mapping[int, int]) -> Rows:
    """The rows that these logs make. `times`: block number to seconds, for logs that don't say it themselves."""
    rows = Rows(blocks=blocks)
    # A backfill spends its time here: each number is read once, what the logs of a transaction share is made once, and
    # tuples are made without their types' constructors.
    made = tuple.__new__
    values, note_start, note_end, note_funds = rows.logs.values, rows.starts.append, rows.ends.append, rows.funds.add
    number_text, number, previous = "", -1, -1
    tx = ""
    tx_index = -1
    time_text: str | None = None
    at_s: int | None = None
    at: tuple[Any, ...] = ()  # a transaction's block, hash and time; nothing when it has to be read anew
    at_start: tuple[Any, ...] = ()  # the same for a start, whose transaction nobody asks it for
    for log in logs:
        index = int(log.log_index, 16)
        if log.block_number != number_text:
            number_text = log.block_number
            number, before = int(number_text, 16), number
            time_text, at_s, at = None, times.get(number), ()
            in_order = number > before
        elif index == previous:
            raise WrongAnswer("the node gave a log twice")
        else:
            in_order = index > previous
        if not in_order:
            return rows_of(sorted(logs, key=_position), blocks, times)
        previous = index
        if log.block_timestamp is not None and log.block_timestamp != time_text:
            time_text, at = log.block_timestamp, ()
            at_s = int(time_text, 16)
        if not at or log.transaction_hash != tx:
            tx, tx_index = log.transaction_hash, int(log.transaction_index, 16)
            at, at_start = (number, tx, at_s), (number, at_s)
        topics, data = log.topics, log.data
        event = decode(topics, data)
        name: str | None = None
        session_id: int | None = None
        about: Address | None = None
        if isinstance(event, SessionStarted):
            name = "SessionStarted"
            if event[0] <= _LARGEST_ID:
                session_id, about = event[0], event[1]
                note_start(made(Start, event + at_start))
        elif isinstance(event, SessionEnded):
            name = "SessionEnded"
            if event[0] <= _LARGEST_ID:
                session_id, about = event[0], event[1]
                note_end(made(End, event + at))
        elif event is not None:
            name, about = NAMES[topics[0]], event[0]
            if isinstance(event, FundsDeposited | FundsWithdrawn):
                note_funds(about)
        text = ",".join(topics if name is None else topics[1:])
        # A LogRow's, in its order.
        values += (number, index, at_s, tx, tx_index, name, session_id, about, text, data)
    return rows


def _position(log: RawLog) -> tuple[int, int]:
    return int(log.block_number, 16), int(log.log_index, 16)
