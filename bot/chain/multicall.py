"""Many calls of one view function in one `eth_call`, by a state override.

Promises: `pack` makes the parameters of an `eth_call` that answers all of them at once, or reverts when one of them
fails or answers in another size; `unpack` cuts the answer into theirs, or raises ValueError when it isn't one, e.g.
from a node that takes no overrides. Nothing is deployed: the code below is put at an unused address for this one call.
It returns data, not code, so that the limit of 24 KB doesn't apply; the node's gas limit for calls does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bot.domain.address import Address

# Its calldata are words: the contract, the function's selector (at the left), the size of one answer, the arguments.
_CODE = (
    "0x60203560005260606040"  # memory 0: the selector; stack: p = 0x60, the first argument, q = 0x40, the first answer
    "5b36821015603a57"  # 0x0a: leave when p is at the calldata's end
    "8135600452"  # memory: the argument, behind the selector
    "60403581602460006000355afa"  # staticcall(gas, contract, 0, 36, q, size)
    "3d60403514161560425760403501"  # it has to work, and to answer in that size; q += size
    "9060200190600a56"  # p += 32, again
    "5b604090036040f3"  # 0x3a: return the memory from 0x40 to q
    "5b600080fd"  # 0x42: revert
)
_WHERE = "0x00000000000000000000006c616e6764616f6d63"  # nobody's


def pack(contract: Address, selector: str, arguments: Sequence[int], size: int, at: Any) -> Sequence[Any]:
    """Parameters of an `eth_call` at block `at`: `selector(argument)` for each, with `size` bytes of answer."""
    head = f"0x{contract[2:].lower():0>64}{selector[2:]:0<64}{size:064x}"
    data = head + "".join(f"{one:064x}" for one in arguments)
    return ({"to": _WHERE, "data": data}, at, {_WHERE: {"code": _CODE}})


def unpack(result: Any, count: int, size: int) -> list[bytes]:
    """The answers. Raises ValueError when these aren't `count` of them."""
    if not isinstance(result, str) or len(result) != 2 + 2 * count * size:
        raise ValueError("not the answer to these calls")
    content = bytes.fromhex(result[2:])
    return [content[start : start + size] for start in range(0, len(content), size)]
