"""What a participant may sign, and the exact words of it: a `Statement` about a session, a `Binding` of a page.

Promises: pure. `text` is the EIP-191 message, line by line as a wallet shows it; it binds action, session, address,
contract, chain, expiry and nonce, so equal texts are equal statements, and none of one kind is one of the other.
`digest` is what is signed, and what a smart account is asked about (ERC-1271). Both are good for an hour at most.
Doesn't promise that anybody signed it: see `bot.chain.witness`.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from eth_hash.auto import keccak

from bot.domain.address import Address

MAX_LIFE_S = 3_600  # longer ones are refused: a word about a lesson is meant now
MAX_EXPIRES_S = 10**11  # a later one is no date
NONCE = re.compile(r"0x[0-9a-f]{16,64}")


class Said(StrEnum):
    """What a statement says."""

    END = "end-session"  # end it now
    STILL_HERE = "still-here"  # the lesson goes on


_WORDS = {
    Said.END: ("LangDAO: end my lesson now", "Session {0} ends, and is paid up to that moment."),
    Said.STILL_HERE: ("LangDAO: my lesson goes on", "Session {0} goes on, and goes on being billed."),
}


class Signable(ABC):
    """What all that is signed has in common."""

    __slots__ = ()

    chain_id: int
    contract: Address
    address: Address
    expires_s: int
    nonce: str  # 0x and 16 to 64 lower-case hex digits, of the signer's choice

    @abstractmethod
    def text(self) -> str:
        """The message that is signed."""

    def digest(self) -> bytes:
        """The 32 bytes that an EIP-191 signature of `text` signs."""
        text = self.text().encode()
        return keccak(b"\x19Ethereum Signed Message:\n" + str(len(text)).encode() + text)

    def mark(self) -> str:
        """The name under which it is remembered as used."""
        return f"statement:{self.digest().hex()}"

    def untimely(self, now_s: int) -> str | None:
        """Why it can't be used at `now_s`: `expired` or `too-long`; None when it can."""
        if now_s >= self.expires_s:
            return "expired"
        return "too-long" if self.expires_s - now_s > MAX_LIFE_S else None

    def _message(self, title: str, meaning: str, *about: str) -> str:
        expires = datetime.fromtimestamp(self.expires_s, UTC)
        return "\n".join(
            (
                title,
                "",
                meaning,
                "",
                *about,
                f"Address: {self.address}",
                f"Contract: {self.contract}",
                f"Chain: {self.chain_id}",
                f"Expires: {expires:%Y-%m-%dT%H:%M:%SZ}",
                f"Nonce: {self.nonce}",
            )
        )


@dataclass(frozen=True, slots=True)
class Statement(Signable):
    """A participant's word about one session on one chain, good until `expires_s` (epoch s)."""

    action: Said
    chain_id: int
    contract: Address
    session_id: int
    address: Address
    expires_s: int
    nonce: str

    def text(self) -> str:
        title, meaning = _WORDS[self.action]
        about = f"Action: {self.action}", f"Session: {self.session_id}"
        return self._message(title, meaning.format(self.session_id), *about)


@dataclass(frozen=True, slots=True)
class Binding(Signable):
    """That a page's connection to the backend is this address's own, whatever the session."""

    chain_id: int
    contract: Address
    address: Address
    expires_s: int
    nonce: str

    def text(self) -> str:
        return self._message(
            "LangDAO: this page is mine",
            "What is for me alone may be shown here. Sign this only where you have your lessons.",
            "Action: bind",
        )
