"""What the chain has to say about somebody's word: whether a session exists, who is in it, who signed, what ended it.

Promises: `verify` returns the session only when the statement names this chain and contract, is in time, its address
is the student or the tutor of that very session, which still runs, and that address signed it: by its own key
(EIP-191), or as a smart account says of itself (ERC-1271, asked by `eth_call`). Anything else is `Untrue`; a node that
can't be asked is TryAgain, and then nothing is known.
`verify_binding` asks the same of a page's binding, but for the session.
Doesn't promise that a statement wasn't used before: whoever acts on it remembers its mark.
"""

from __future__ import annotations

from bot.chain.codec import OnChainSession, SessionEnded, decode
from bot.chain.errors import RpcError, WrongAnswer
from bot.chain.langdao import LangDAO
from bot.chain.rpc import Rpc
from bot.chain.wire import RawEnds
from bot.domain.address import Address, checksum
from bot.domain.facts import SessionKey
from bot.domain.statement import Binding, Signable, Statement
from bot.errors import Untrue

_IS_VALID_SIGNATURE = "0x1626ba7e"  # isValidSignature(bytes32,bytes), and what it answers
_GAS = 3_000_000  # a passkey's curve, computed in the contract, needs most of a million
_HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0


class Witness:
    """Reads of one contract on one chain, at its newest block."""

    def __init__(self, rpc: Rpc, contract: Address) -> None:
        self.contract = contract
        self.rpc = rpc
        self._langdao = LangDAO(rpc, contract)
        self._chain_id: int | None = None

    async def chain_id(self) -> int:
        """Raises TryAgain, as everything here that asks the node."""
        if self._chain_id is None:
            try:
                self._chain_id = int(await self.rpc.call("eth_chainId"), 16)
            except (RpcError, ValueError, TypeError):
                raise WrongAnswer("the node doesn't say which chain it is on") from None
        return self._chain_id

    async def session(self, session_id: int) -> OnChainSession | None:
        """The session with this id, running or ended; None when the chain has none."""
        try:
            return await self._langdao.session(session_id, "latest")
        except RpcError as error:
            raise WrongAnswer(f"the session can't be read ({error.message})") from None

    async def active(self, tutor: Address) -> OnChainSession | None:
        """The tutor's running session."""
        try:
            return await self._langdao.active(tutor, "latest")
        except RpcError as error:
            raise WrongAnswer(f"the tutor's session can't be read ({error.message})") from None

    async def ends_in(self, tx_hash: str) -> list[SessionEnded] | None:
        """The sessions that this transaction ended; None as long as it isn't mined, or the node doesn't know it."""
        try:
            receipt = await self.rpc.call_as(RawEnds | None, "eth_getTransactionReceipt", (tx_hash,))
        except RpcError as error:
            raise WrongAnswer(f"the transaction can't be read ({error.message})") from None
        if receipt is None:
            return None
        ours = (one for one in receipt.logs if checksum(one.address) == self.contract)
        events = (decode(one.topics, one.data) for one in ours)
        return [event for event in events if isinstance(event, SessionEnded)]

    async def verify(self, statement: Statement, signature: str, now_s: int) -> SessionKey:
        """The session that this participant may speak for. Raises Untrue, TryAgain."""
        await self._pertinent(statement, now_s)
        session = await self.session(statement.session_id)
        if session is None:
            raise Untrue("no-such-session", "no session has this id on chain")
        if statement.address not in (session.student, session.tutor):
            raise Untrue("not-a-participant", "the address is neither student nor tutor of this session")
        if not session.active:
            raise Untrue("over", "this session has ended on chain")
        if not await self._signed(statement, signature):
            raise Untrue("bad-signature", "the signature isn't this address's signature of this statement")
        return SessionKey(session.id, session.student, session.tutor)

    async def verify_binding(self, binding: Binding, signature: str, now_s: int) -> None:
        """That this address signed that the page is its own. Raises Untrue, TryAgain."""
        await self._pertinent(binding, now_s)
        if not await self._signed(binding, signature):
            raise Untrue("bad-signature", "the signature isn't this address's signature of this binding")

    async def _pertinent(self, statement: Signable, now_s: int) -> None:
        """In time, and about this chain and contract."""
        untimely = statement.untimely(now_s)
        if untimely is not None:
            raise Untrue(untimely, "the statement has expired" if untimely == "expired" else "it expires too late")
        if (statement.chain_id, statement.contract) != (await self.chain_id(), self.contract):
            raise Untrue("other-chain", "the statement is about another chain or contract")

    async def _signed(self, statement: Signable, signature: str) -> bool:
        raw = bytes.fromhex(signature.removeprefix("0x"))
        digest = statement.digest()
        if signer_of(digest, raw) == statement.address:
            return True
        code = await self._ask("eth_getCode", statement.address, "latest")
        if not isinstance(code, str) or len(code) <= 2:
            return False
        call = {"to": statement.address, "data": _is_valid(digest, raw), "gas": hex(_GAS)}
        try:
            answer = await self.rpc.call("eth_call", (call, "latest"))
        except RpcError:
            return False  # it reverts: that is a no
        return isinstance(answer, str) and answer.lower() == _IS_VALID_SIGNATURE + "0" * 56

    async def _ask(self, method: str, *params: object) -> object:
        try:
            return await self.rpc.call(method, params)
        except RpcError as error:
            raise WrongAnswer(f"the node refuses {method} ({error.message})") from None


def signer_of(digest: bytes, signature: bytes) -> Address | None:
    """Whose 65 bytes these are; None when they are nobody's. Of a signature's two forms only the low one counts."""
    if len(signature) != 65 or int.from_bytes(signature[32:64], "big") > _HALF_ORDER:
        return None
    from eth_keys.datatypes import Signature
    from eth_keys.exceptions import BadSignature
    from eth_utils.exceptions import ValidationError

    parity = signature[64] - 27 if signature[64] >= 27 else signature[64]
    try:
        signed = Signature(signature[:64] + bytes([parity]))
        return checksum(signed.recover_public_key_from_msg_hash(digest).to_address())
    except (BadSignature, ValidationError, ValueError):
        return None


def _is_valid(digest: bytes, signature: bytes) -> str:
    """The call `isValidSignature(digest, signature)`."""
    padded = signature.hex().ljust(-(-len(signature) // 32) * 64, "0")
    return f"{_IS_VALID_SIGNATURE}{digest.hex()}{64:064x}{len(signature):064x}{padded}"
