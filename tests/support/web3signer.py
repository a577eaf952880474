"""A small web3signer: its JSON-RPC over HTTP, with a real key behind it.

Promises: `eth_accounts` and `eth_signTransaction` as web3signer answers them: the signed bytes as a hex string, its own
chain id whatever was asked, errors as JSON-RPC errors. `twist` changes the transaction before it is signed, `instead`
replaces the whole answer: for signers that lie.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from eth_account import Account
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

QUANTITIES = ("nonce", "gas", "value", "gasPrice", "maxFeePerGas", "maxPriorityFeePerGas")


class Web3Signer:
    def __init__(self, key: str, chain_id: int) -> None:
        self.account = Account.from_key(key)
        self.chain_id = chain_id
        self.asked: list[tuple[str, Any]] = []
        self.twist: Callable[[dict[str, Any]], None] = lambda _: None
        self.instead: Callable[[Any], Any] | None = None
        self.late_s = 0.0
        self.elsewhere: str | None = None
        self.app = Starlette(routes=[Route("/{path:path}", self._answer, methods=["POST"])])

    async def _answer(self, request: Request) -> Response:
        call = json.loads(await request.body())
        self.asked.append((call["method"], call["params"]))
        await asyncio.sleep(self.late_s)
        if self.elsewhere is not None:
            return RedirectResponse(self.elsewhere, 307)
        answer: dict[str, Any] = {"jsonrpc": "2.0", "id": call["id"]}
        if call["method"] == "eth_accounts":
            return JSONResponse(answer | {"result": [self.account.address.lower()]})
        if call["method"] != "eth_signTransaction":
            return JSONResponse(answer | {"error": {"code": -32601, "message": "Method not found"}})
        [asked] = call["params"]
        if asked["from"].lower() != self.account.address.lower() or asked.get("nonce") is None:
            return JSONResponse(answer | {"error": {"code": -32000, "message": "Unable to identify the signer"}})
        signed = self.sign(asked)
        return JSONResponse(answer | {"result": self.instead(signed) if self.instead else signed})

    def sign(self, asked: dict[str, Any]) -> str:
        transaction = {name: int(asked[name], 16) for name in QUANTITIES if name in asked}
        transaction |= {"to": asked["to"], "data": asked["data"], "chainId": self.chain_id}
        self.twist(transaction)
        return str(self.account.sign_transaction(transaction).raw_transaction.to_0x_hex())
