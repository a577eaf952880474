"""What nodes send, as msgspec Structs: only the fields that the keeper reads, typed, in the node's own hex.

Promises: decoding checks the types of what is here and skips all else; quantities stay hex text until somebody
needs the number. Doesn't promise that the content is true.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

T = TypeVar("T")


class RawLog(msgspec.Struct, rename="camel", frozen=True, gc=False):
    """A mined log."""

    address: str
    block_hash: str
    block_number: str
    transaction_hash: str
    transaction_index: str
    log_index: str
    topics: tuple[str, ...]
    data: str
    block_timestamp: str | None = None  # not every node says it
    removed: bool = False


class RawHeader(msgspec.Struct, rename="camel", frozen=True, gc=False):
    """A block without its transactions."""

    number: str
    hash: str
    parent_hash: str
    timestamp: str
    base_fee_per_gas: str | None = None
    logs_bloom: str | None = None


class RawTransaction(msgspec.Struct, rename="camel", frozen=True, gc=False):
    """A transaction, mined or not."""

    sender: str = msgspec.field(name="from")
    to: str | None = None
    input: str = "0x"
    block_hash: str | None = None


class RawPending(msgspec.Struct, rename="camel", frozen=True, gc=False):
    """The node's idea of the next block, with its transactions."""

    number: str | None = None
    transactions: tuple[RawTransaction, ...] = ()


class RawEvent(msgspec.Struct, rename="camel", frozen=True, gc=False):
    """A log, as far as it says what happened."""

    address: str
    topics: tuple[str, ...]
    data: str


class RawEnds(msgspec.Struct, rename="camel", frozen=True, gc=False):
    """A receipt, as far as it says what the transaction did."""

    logs: tuple[RawEvent, ...]


class WireError(msgspec.Struct, gc=False):
    """JSON-RPC's error object."""

    code: int = 0
    message: str = ""
    data: Any = None


class Reply(msgspec.Struct, Generic[T]):
    """JSON-RPC's answer to one call: `result` or `error`; neither is no answer."""

    id: int | str | None = None
    result: T | UnsetType = UNSET
    error: WireError | None = None
