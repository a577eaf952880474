"""The sender's one task: at every head what is under way, then what is asked for. The promises are the package's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from bot.chain.errors import RpcError, SignerFailed
from bot.chain.langdao import LangDAO
from bot.chain.rpc import Rpc
from bot.chain.sender.carrier import Carrier
from bot.chain.sender.flight import Flight
from bot.chain.sender.former import Former
from bot.chain.sender.funds import Funds
from bot.chain.sender.look import Looks, Standing
from bot.chain.sender.outbox import Outbox
from bot.chain.sender.requests import Requests
from bot.chain.sender.terms import At, Hooks, SenderConfig
from bot.chain.sender.unmined import Unmined
from bot.chain.signer import Signer
from bot.domain.facts import SessionKey
from bot.errors import TryAgain
from bot.store.db import Writer

log = structlog.get_logger("sender")

AGAIN_S = 0.5
WARN_EVERY_MS = 600_000


class Sender:
    """Works off requests and watches what is in flight."""

    def __init__(
        self,
        rpc: Rpc,
        writer: Writer,
        langdao: LangDAO,
        carrier: Carrier,
        signer: Signer,
        config: SenderConfig,
        hooks: Hooks,
        clock_ms: Callable[[], int],
    ) -> None:
        self._config = config
        self._clock = clock_ms
        self._outbox = Outbox(rpc, writer, carrier, signer, config, hooks, clock_ms)
        self._funds = Funds(self._outbox, writer, config, lambda: self._former.under_way_wei, clock_ms)
        self._looks = Looks(rpc, langdao, carrier, signer.address, config)
        unmined = Unmined(rpc, langdao, carrier, self._outbox, self._funds, config, hooks)
        self._flight = Flight(rpc, langdao, self._outbox, config, hooks, unmined)
        self._former = Former(rpc, writer, langdao, carrier, config, hooks, clock_ms)
        self._requests = Requests(
            self._looks, carrier, self._outbox, self._funds, config, hooks, lambda: self._former.held
        )
        self._recovered = False
        self._head: At | None = None
        self._seen: At | None = None
        self._wake = asyncio.Event()
        self._probe_ms = 0
        self._warn_ms = 0
        self.address = signer.address
        self.mode = carrier.mode
        self.trouble: str | None = None  # why the key couldn't sign, the last time it was asked to

    @property
    def balance_wei(self) -> int | None:
        """The key's balance at the newest head that was looked at."""
        return self._looks.known.balance if self._looks.known else None

    @property
    def in_flight(self) -> int:
        """Nonces that were signed for and aren't used yet."""
        return self._outbox.unmined

    @property
    def busy(self) -> bool:
        return bool(self._requests.open) or self.in_flight > 0

    async def expect(self, keys: Sequence[SessionKey]) -> None:
        """Says that `settle` is about to be asked for these, so that they may be looked at meanwhile."""
        if self._recovered and self._head is not None and self._head == self._seen:
            await self._requests.expect(keys, self._head)

    def settle(self, action_id: int, key: SessionKey) -> None:
        """Asks for `key` to be ended. The outcome comes by `Hooks.report`."""
        self._requests.open[key] = action_id
        self._wake.set()

    def head(self, number: int, block_hash: str) -> None:
        """The follower's newest head: everything in flight is looked at again."""
        self._head = At(number, block_hash)
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled. What fails for the moment is tried again at the next head."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                if self._head is None:
                    continue
                try:
                    await self._round(self._head)
                    self.trouble = None
                except (TryAgain, RpcError) as error:
                    self.trouble = str(error) if isinstance(error, SignerFailed) else self.trouble
                    log.warning("sender.later", reason=str(error)[:200])
                    await asyncio.sleep(AGAIN_S)
                    self._wake.set()
        finally:
            self._looks.close()
            await self._outbox.close()

    async def _round(self, at: At) -> None:
        if not self._recovered:
            await self._outbox.load()
            await self._former.load(self.address)
            if self._outbox.live:
                log.info("sender.recovering", transactions=len(self._outbox.live))
        fresh = self._seen != at
        standing = await self._looks.standing(at)
        if self._outbox.live and (fresh or not self._recovered):
            await self._flight.watch(standing, self._requests.open)
        if fresh or not self._recovered:
            await self._former.watch(standing, self._requests.open)
        if fresh:
            await self._funds.count()
            await self._say_if_nothing_can_be_ended(standing.why_not)
        self._recovered = True
        self._seen = at
        await self._requests.work_off(standing)
        if fresh:
            await self._now_and_then(standing)

    async def _say_if_nothing_can_be_ended(self, why_not: str | None) -> None:
        """At once, and not only when a session is due."""
        if why_not is None:
            self._outbox.gone("delegation")
            return
        log.warning("sender.cant-end", reason=why_not)
        await self._outbox.alert_once("delegation", "alert.delegation", why_not, None)

    async def _now_and_then(self, standing: Standing) -> None:
        now = self._clock()
        if now >= self._probe_ms:
            self._probe_ms = now + self._config.probe_every_ms
            await self._requests.probe(standing.at)
        if now >= self._warn_ms:
            self._warn_ms = now + WARN_EVERY_MS
            await self._funds.warn(standing.balance, standing.market)
