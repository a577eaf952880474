"""A key that another program holds: web3signer's JSON-RPC over HTTP.

Promises: what the signer returns is decoded, and taken only if it is exactly the transaction asked for, field by field,
signed by the address asked for; anything else raises `SignerFailed` and is never stored or sent. Each request ends
within the time-out. Of the URL only scheme and host show.
Doesn't promise that the signer is up: `SignerFailed` is a TryAgain, the settlement waits.

Methods used: `eth_accounts` at start, `eth_signTransaction` for each transaction. web3signer is told its chain by its
own `--chain-id`; a signature for another chain is refused here.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import aiohttp
import msgspec

from bot.chain import envelope
from bot.chain.errors import SignerFailed
from bot.chain.signer import Signed
from bot.domain.address import Address, checksum
from bot.errors import Misconfigured
from bot.values import shown

MAX_REPLY_BYTES = 256 * 1024
# Half the order of secp256k1: nodes refuse a signature whose s is above it (EIP-2).
_HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0


class RemoteSigner:
    """Signs by asking. Close it."""

    def __init__(self, url: str, address: Address, *, timeout_s: float) -> None:
        self.address = address
        self.name = shown(url)
        self._url = url
        self._timeout_s = timeout_s
        self._ids = itertools.count(1)
        self._http: aiohttp.ClientSession | None = None

    async def check(self) -> None:
        """Raises Misconfigured when the signer answers without the key, SignerFailed when it doesn't answer."""
        accounts = await self._ask("eth_accounts", [])
        held = {checksum(str(account)) for account in accounts} if isinstance(accounts, list) else set()
        if self.address not in held:
            raise Misconfigured(
                f"REMOTE_SIGNER_ADDRESS {self.address}: the signer at {self.name} has no key for it "
                f"(it has {len(held)}). Load the key there, or mend the address"
            )

    async def sign(self, transaction: dict[str, Any]) -> Signed:
        raw = await self._ask("eth_signTransaction", [_asked(transaction, self.address)])
        try:
            return checked(str(raw), transaction, self.address)
        except ValueError as error:
            raise SignerFailed(f"the signer at {self.name} returned what wasn't asked for: {error}") from None

    async def close(self) -> None:
        """Closes the connection. Safe to call twice."""
        if self._http is not None:
            await self._http.close()
            self._http = None

    async def _ask(self, method: str, params: list[Any]) -> Any:
        number = next(self._ids)
        if self._http is None:
            self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=self._timeout_s))
        body = msgspec.json.encode({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
        try:
            # A redirect would carry the request elsewhere.
            async with self._http.post(
                self._url, data=body, headers={"Content-Type": "application/json"}, allow_redirects=False
            ) as reply:
                content = await _bounded(reply)
        except TimeoutError:
            raise SignerFailed(f"the signer at {self.name} didn't answer within {self._timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError, asyncio.IncompleteReadError) as error:
            raise SignerFailed(f"the signer at {self.name} can't be reached ({type(error).__name__})") from None
        try:
            answer = msgspec.json.decode(content)
        except msgspec.DecodeError:
            raise SignerFailed(f"the signer at {self.name} answered HTTP {reply.status} without JSON") from None
        if not isinstance(answer, dict) or answer.get("id") != number:
            raise SignerFailed(f"the signer at {self.name} answered something else than was asked")
        if (refusal := answer.get("error")) is not None:
            said = refusal.get("message") if isinstance(refusal, dict) else refusal
            raise SignerFailed(f"the signer at {self.name} refused: {str(said)[:200]}")
        return answer.get("result")

    def __repr__(self) -> str:
        return f"RemoteSigner({self.address} at {self.name})"


async def _bounded(reply: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    async for chunk in reply.content.iter_any():
        content += chunk
        if len(content) > MAX_REPLY_BYTES:
            raise aiohttp.ClientPayloadError("too large")
    return bytes(content)


def _asked(transaction: dict[str, Any], sender: Address) -> dict[str, str]:
    """The parameters of eth_signTransaction: the type follows from the fee's fields, the chain is the signer's own."""
    said = {"from": sender}
    for name in ("to", "data", "nonce", "gas", "value", "gasPrice", "maxFeePerGas", "maxPriorityFeePerGas"):
        if name in transaction:
            value = transaction[name]
            said[name] = hex(value) if isinstance(value, int) else str(value)
    return said


def checked(raw: str, transaction: dict[str, Any], sender: Address) -> Signed:
    """`raw` as what was asked for. Raises ValueError that names the first difference."""
    import rlp
    from eth_account import Account
    from eth_hash.auto import keccak

    try:
        content = bytes.fromhex(raw.removeprefix("0x"))
        dynamic = content[:1] == envelope.DYNAMIC_TYPE
        fields = rlp.decode(content[1:] if dynamic else content, strict=True)
    except (ValueError, rlp.DecodingError):
        raise ValueError("not an encoded transaction") from None
    names = envelope.DYNAMIC if dynamic else envelope.LEGACY
    # Besides the fields: the signature's three, and the access list of a dynamic-fee transaction.
    if not isinstance(fields, list) or len(fields) != len(names) + (4 if dynamic else 3):
        raise ValueError("not a transaction of the type asked for")
    if dynamic and fields[8] != []:
        raise ValueError("an access list that wasn't asked for")
    if any(not isinstance(field, bytes) for field in [*fields[: len(names)], *fields[-3:]]):
        raise ValueError("not an encoded transaction")
    asked = {"value": 0, "data": "0x", **transaction}
    for name, field in zip(names, fields, strict=False):
        if field != envelope.encoded(asked.get(name)):
            raise ValueError(f"{name} differs")
    if not dynamic and int.from_bytes(fields[6]) not in (35 + 2 * asked["chainId"], 36 + 2 * asked["chainId"]):
        raise ValueError("chainId differs")
    if int.from_bytes(fields[-1]) > _HALF_ORDER:
        raise ValueError("a signature that nodes refuse (s is too high)")
    try:
        signer = Account.recover_transaction(content)
    except Exception as error:  # whatever the libraries below find wrong with bytes from outside
        raise ValueError(f"a signature that can't be read ({type(error).__name__})") from None
    if signer != sender:
        raise ValueError(f"signed by {signer}")
    return Signed("0x" + content.hex(), "0x" + keccak(content).hex())
