"""A node that many keepers share on a busy machine: asked again until it answers.

Promises: what it didn't answer in time is no verdict on a keeper. A call is made anew, for PATIENCE_S in all, when
nobody answers; a transaction that was said twice is one. What it answers, errors included, is passed on.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import aiohttp
from eth_utils import keccak

from scripts.world.chain import Node, RpcError

PATIENCE_S = 180.0
AGAIN_S = 1.0
TAKEN = ("already known", "already imported", "nonce too low")


class PatientNode(Node):
    async def call(self, method: str, *params: Any) -> Any:
        deadline, again = time.monotonic() + PATIENCE_S, False
        while True:
            try:
                return await super().call(method, *params)
            except (aiohttp.ClientError, TimeoutError, OSError):
                if time.monotonic() > deadline:
                    raise
                again = True
            except RpcError as error:
                if again and method == "eth_sendRawTransaction" and any(one in str(error).lower() for one in TAKEN):
                    return "0x" + keccak(hexstr=params[0]).hex()  # it was heard the first time
                raise
            await asyncio.sleep(AGAIN_S)

    async def receipt(self, tx_hash: str, timeout_s: float = PATIENCE_S) -> dict[str, Any]:
        return await super().receipt(tx_hash, timeout_s)

    async def blocks_since(self, height: int) -> int:
        """How many came on top of this one; 0 while it doesn't answer."""
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
            return int(await super().call("eth_blockNumber"), 16) - height
        return 0
