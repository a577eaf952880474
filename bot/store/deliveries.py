"""Which nudge was said to whom by which channel.

Promises: `begin` returns when it is stored that it will be said; what had been stored for the same before comes back,
so that after a crash nothing is said twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import update
from sqlmodel import col, select

from bot.store.db import Writer
from bot.store.tables import DeliveryRow


class Deliveries:
    """The table `deliveries`, by the one writer."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def begin(self, action_id: int, channel: str, to: Sequence[str], at_ms: int) -> Mapping[str, str]:
        """Of those that were begun before: what came of it, "" when that isn't known."""

        def change(tx: Any) -> dict[str, str]:
            rows = tx.exec(
                select(DeliveryRow).where(DeliveryRow.action_id == action_id, DeliveryRow.channel == channel)
            ).all()
            before = {row.address: row.how for row in rows}
            for address in to:
                if address not in before:
                    tx.add(DeliveryRow(action_id=action_id, channel=channel, address=address, begun_ms=at_ms))
            return before

        return await self._writer(change)

    async def done(self, action_id: int, channel: str, to: str, how: str, at_ms: int) -> None:
        mine = (
            col(DeliveryRow.action_id) == action_id,
            col(DeliveryRow.channel) == channel,
            col(DeliveryRow.address) == to,
        )
        await self._writer(lambda tx: tx.execute(update(DeliveryRow).where(*mine).values(how=str(how), done_ms=at_ms)))
