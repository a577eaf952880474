"""A signed webhook: the operator's own program gets each nudge as JSON and says it in its own way.

Promises: every request is signed as the Standard Webhooks specification says, so that any of its libraries verifies
it: HMAC-SHA256, under the shared secret, over `<webhook-id>.<webhook-timestamp>.<body>`. `webhook-id`, and the same in
`Idempotency-Key`, is equal whenever the same note is sent again. 429, 5xx and a lost connection are tried again,
`Retry-After` respected; what is refused otherwise isn't. No redirect is followed, no more than 64 KiB of an answer is
read, and neither URL nor secret is in any text.
A 2xx says only that the program took it. It counts as delivered when the answer is `{"delivered": true}`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any, Final

import aiohttp

from bot.domain.address import Address
from bot.errors import TryAgain
from bot.feeds.limits import retry_after_ms
from bot.nudges.channel import How, Receipt
from bot.nudges.message import Note

TIMEOUT_S: Final = 10.0
MAX_ANSWER_BYTES: Final = 64 * 1024


class Webhook:
    name = "webhook"
    private = True
    repeatable = True

    def __init__(self, url: str, secret: str, *, timeout_s: float = TIMEOUT_S) -> None:
        self._url = url
        self._key = key_of(secret)
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)

    def reaches(self, to: Address) -> bool:
        return True

    async def send(self, note: Note) -> Receipt:
        body = json.dumps(note.payload(), ensure_ascii=False).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "langdao-keeper", "Idempotency-Key": note.id}
        headers |= signature_headers(self._key, note.id, note.now_ms // 1000, body)
        try:
            async with (
                aiohttp.ClientSession(timeout=self._timeout) as http,
                http.post(self._url, data=body, headers=headers, allow_redirects=False) as answer,
            ):
                wait_ms = retry_after_ms(answer.headers.get("Retry-After"), note.now_ms)
                said = await answer.content.read(MAX_ANSWER_BYTES) if answer.status < 300 else b""
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise TryAgain(f"the webhook can't be reached ({type(error).__name__})") from None
        if answer.status == 429 or answer.status >= 500:
            raise TryAgain(f"the webhook answered {answer.status}", after_s=(wait_ms or 0) / 1000)
        if answer.status >= 300:
            return Receipt(How.MISSED, f"the webhook answered {answer.status}")
        return _receipt(said)


def key_of(secret: str) -> bytes:
    """The secret's bytes: of a `whsec_…` what base64 says, of any other text its UTF-8."""
    if secret.startswith("whsec_"):
        return base64.b64decode(secret.removeprefix("whsec_"))
    return secret.encode()


def signature_headers(key: bytes, message_id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
    """`webhook-id`, `webhook-timestamp` and `webhook-signature` of a request."""
    signed = f"{message_id}.{timestamp_s}.".encode() + body
    signature = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": f"v1,{signature}",
    }


def _receipt(answer: bytes) -> Receipt:
    try:
        said: Any = json.loads(answer)
    except (ValueError, RecursionError):
        said = None
    delivered = said.get("delivered") if isinstance(said, dict) else None
    if delivered is True:
        return Receipt(How.DELIVERED)
    if delivered is False:
        return Receipt(How.MISSED, str(said.get("reason") or "not delivered, says the webhook")[:100])
    return Receipt(How.SENT)
