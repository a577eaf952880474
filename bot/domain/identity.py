"""Which chain and contract something belongs to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Identity:
    """All five must agree: yesterday's devnet has the same chain id and the same address as today's."""

    chain_id: int
    genesis_hash: str
    contract: str
    deploy_block: int
    deploy_hash: str
