"""The keeper's way to the chain, where the kills of `plan.Window` are made.

Promises: an order is carried out once, at the first request that is in its window; the keeper is dead before anything
else happens to that request (or, for a late W1, W5 and W7, so much later). For W6 what the keeper says first is
accepted and dropped, so that it has to replace or retract it. Everything else is forwarded unchanged; a node that
doesn't answer is the keeper's to bear (502).
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import rlp
from aiohttp import web
from eth_utils import keccak

from scripts.chaos.plan import Kill, Window
from scripts.world.chain import END_SESSION
from scripts.world.rpc_proxy import JSON, RpcProxy


class ChaosProxy(RpcProxy):
    """See the module. `hashes` are those of all transactions that the keeper signed and said."""

    def __init__(self, target: str, kill: Any) -> None:
        super().__init__(target, kill)
        self.hashes: set[str] = set()
        self._order: tuple[Kill, asyncio.Future[str]] | None = None
        self._dropped: set[int] = set()  # nonces
        self.dropped = asyncio.Event()

    def arm(self, kill: Kill) -> asyncio.Future[str]:
        """Kill in this window. The future is done when the keeper was killed."""
        done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._order = (kill, done)
        self._dropped = set()
        self.dropped.clear()
        return done

    def disarm(self) -> None:
        self._order = None

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        calls = _calls(body)
        raw = [call["params"][0] for call in calls if call["method"] == "eth_sendRawTransaction"]
        fresh = [one for one in raw if _hash(one) not in self.hashes]
        self.hashes |= {_hash(one) for one in raw}
        window = self._window(calls, raw, fresh)
        if window is Window.W1 and self._order is not None:
            await asyncio.sleep(self._order[0].late_s or 0)
        if window in (Window.W1, Window.W2, Window.W4):
            self.held_back += raw
            return await self._kill_now()
        ordered = self._order[0] if self._order is not None else None
        if ordered is not None and ordered.window is Window.W6 and raw and not (window and ordered.leaves):
            self.held_back += raw
            return await (self._kill_now() if window else self._drop(body, raw))
        self.sent += raw
        assert self._http is not None
        try:
            async with self._http.post(self.target, data=body, headers=JSON) as answer:
                content = await answer.read()
        except (aiohttp.ClientError, TimeoutError):
            return web.Response(status=502)
        if window in (Window.W3, Window.W6):
            return await self._kill_now()
        if self._order and self._order[0].window in (Window.W5, Window.W7) and self._settled(calls, content):
            (kill, done), self._order = self._order, None
            if kill.late_s is None:
                return await self._crash(done, "")
            asyncio.get_running_loop().call_later(kill.late_s, self._kill_late, done)
        return web.Response(body=content, status=answer.status, content_type="application/json")

    async def _drop(self, body: bytes, raw: list[str]) -> web.Response:
        """Answers as a node that takes these and then forgets them."""
        self._dropped |= {_nonce(one) for one in raw}
        self.dropped.set()
        said = json.loads(body)
        answers = [
            {"jsonrpc": "2.0", "id": call["id"], "result": _hash(call["params"][0])}
            for call in (said if isinstance(said, list) else [said])
        ]
        return web.json_response(answers if isinstance(said, list) else answers[0])

    def _window(self, calls: list[dict[str, Any]], raw: list[str], fresh: list[str]) -> Window | None:
        """The window that these requests are in, if it is the one ordered."""
        if self._order is None:
            return None
        window = self._order[0].window
        in_it = {
            Window.W1: any(call["method"] == "eth_call" and END_SESSION in str(call["params"]) for call in calls),
            Window.W2: bool(raw),
            Window.W3: bool(raw),
            Window.W4: any(self._asks_for_ours(call) for call in calls),
            Window.W6: any(_nonce(one) in self._dropped for one in fresh),
        }
        return window if in_it.get(window) else None

    def _asks_for_ours(self, call: dict[str, Any]) -> bool:
        return call["method"] == "eth_getTransactionReceipt" and call["params"][0] in self.hashes

    def _settled(self, calls: list[dict[str, Any]], content: bytes) -> bool:
        """Whether a receipt of the keeper's own is in this answer."""
        if not any(self._asks_for_ours(call) for call in calls):
            return False
        answers = json.loads(content)
        for answer in answers if isinstance(answers, list) else [answers]:
            result = answer.get("result")
            if isinstance(result, dict) and result.get("transactionHash") in self.hashes:
                return True
        return False

    async def _kill_now(self) -> web.Response:
        if self._order is None:  # another of the daemon's requests was faster: it is dead already
            return web.Response(status=502)
        done, self._order = self._order[1], None
        return await self._crash(done, "")

    def _kill_late(self, done: asyncio.Future[str]) -> None:
        self._kill()
        if not done.done():
            done.set_result("")


def _hash(raw: str) -> str:
    return "0x" + keccak(hexstr=raw).hex()


def _nonce(raw: str) -> int:
    """Of an EIP-1559 transaction, the only kind on this chain."""
    return int.from_bytes(rlp.decode(bytes.fromhex(raw.removeprefix("0x02")))[1])


def _calls(body: bytes) -> list[dict[str, Any]]:
    try:
        document = json.loads(body)
    except ValueError:
        return []
    return [call for call in (document if isinstance(document, list) else [document]) if call.get("params") is not None]
