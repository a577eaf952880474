"""*Still in the lesson*: the single-use links that participants answer a question by.

Promises
 - An answer and the use of its link are one transaction: a crash loses neither, and nothing is used twice.
 - A link is good for one answer, about one session of this database's chain and contract (its student and tutor
   included: a reorg makes it void), until it expires or the session ends; a restart changes nothing of that.
 - Only a token's hash is stored, and nothing here logs or returns a token but `link` itself.
 - Looking changes nothing, so that a program which opens links ahead of people answers for nobody.
 - What isn't a token that we gave costs one hash, and no look at the database.
Doesn't promise that it was the participant who followed the link: whoever holds it, answers. So each participant gets
an own one, and it doesn't belong into anything that others can read.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable

import structlog

from bot.domain.address import Address
from bot.domain.facts import SessionKey
from bot.domain.question import Asked
from bot.reconciler import Reconciler
from bot.store import links
from bot.store.db import Writer

log = structlog.get_logger("questions")

PATH = "/v/"
KEPT_MS = 86_400_000  # an expired link's row, for who wants to know what came of it


class Questions:
    def __init__(
        self, writer: Writer, reconciler: Reconciler, public_url: str | None, clock_ms: Callable[[], int]
    ) -> None:
        self._writer = writer
        self._reconciler = reconciler
        self._base = public_url.rstrip("/") if public_url else None
        self._clock = clock_ms
        self._open: dict[str, Asked] = {}

    async def load(self) -> None:
        """Links given out before a restart are still good."""
        now = self._clock()
        self._open = await self._writer(lambda tx: links.unanswered(tx, now))

    async def link(self, key: SessionKey, action_id: int, address: Address | None = None) -> str | None:
        """A new link for a question that the nudge `action_id` puts to `address`; None without PUBLIC_URL.

        It can be answered for as long as the question may stand: CONTRADICTION_CAP_S and NUDGE_WINDOW_S from now.
        """
        if self._base is None:
            return None
        now, policy = self._clock(), self._reconciler.policy
        asked = Asked(key, action_id, address, now + policy.contradiction_cap_ms + policy.nudge_window_ms)
        token = secrets.token_urlsafe(24)
        digest = _digest(token)
        await self._writer(lambda tx: links.add(tx, digest, asked, now))
        self._open[digest] = asked
        return f"{self._base}{PATH}{token}"

    def asked(self, token: str) -> Asked | None:
        """What this token asks, None when it can't be answered: unknown, used, expired, or the session is over."""
        return self._standing(_digest(token))

    async def answer(self, token: str) -> Asked | None:
        """Takes the answer *still in the lesson*; None as with `asked`."""
        digest = _digest(token)
        asked = self._standing(digest)
        if asked is None:
            return None
        del self._open[digest]  # before anything is awaited: of two clicks one counts
        now, payload = self._clock(), {"by": "link", "action": asked.action_id}
        try:
            taken = await self._reconciler.still_here(
                asked.key, asked.address, payload, lambda tx: links.use(tx, digest, now)
            )
        except links.Used:
            return None
        except Exception:
            self._open[digest] = asked  # not stored: it may be said again
            raise
        if not taken:
            return None
        log.info("question.answered", session=asked.key.session_id, action=asked.action_id)
        return asked

    async def forget_expired(self) -> None:
        """To be called now and then."""
        now = self._clock()
        self._open = {digest: asked for digest, asked in self._open.items() if asked.expires_ms > now}
        await self._writer(lambda tx: links.forget(tx, now - KEPT_MS))

    def _standing(self, digest: str) -> Asked | None:
        asked = self._open.get(digest)
        if asked is None or asked.expires_ms <= self._clock():
            return None
        live = self._reconciler.about(asked.key)
        return asked if live is not None and not live.session.ended else None


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
