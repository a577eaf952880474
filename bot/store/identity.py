"""To which chain and contract a database belongs.

Promises: a database remembers chain id, genesis hash, contract and deployment block with its hash at its first use,
and refuses any other afterwards: yesterday's devnet has the same chain id and the same address as today's.
"""

from __future__ import annotations

from dataclasses import asdict

from sqlmodel import Session, select

from bot.domain.identity import Identity
from bot.errors import Misconfigured
from bot.store.tables import Meta


def known(session: Session) -> Identity | None:
    """The identity that the database remembers, None when it is new."""
    rows = {row.name: row.value for row in session.exec(select(Meta)).all()}
    if "chain_id" not in rows:
        return None
    return Identity(
        chain_id=int(rows["chain_id"]),
        genesis_hash=rows["genesis_hash"],
        contract=rows["contract"],
        deploy_block=int(rows["deploy_block"]),
        deploy_hash=rows["deploy_hash"],
    )


def claim(session: Session, identity: Identity) -> None:
    """Remembers `identity`, or raises Misconfigured when the database is another one's."""
    remembered = known(session)
    if remembered is None:
        session.add_all(Meta(name=name, value=str(value)) for name, value in asdict(identity).items())
        return
    if remembered == identity:
        return
    if remembered.chain_id != identity.chain_id:
        said = f"chain {remembered.chain_id}, but RPC_URL is chain {identity.chain_id}"
    elif remembered.contract != identity.contract:
        said = f"contract {remembered.contract}, but CONTRACT_ADDRESS is {identity.contract}"
    elif remembered.genesis_hash != identity.genesis_hash:
        ours, theirs = remembered.genesis_hash[:10], identity.genesis_hash[:10]
        said = f"a chain {remembered.chain_id} that began with block {ours}…, but the node's began with {theirs}…"
    else:
        said = f"a deployment in block {remembered.deploy_block}, but that is now another block"
    raise Misconfigured(
        f"The database is for {said}. Another chain needs another DATABASE_URL (or move the old file away)"
    )


def get(session: Session, name: str) -> str | None:
    """A single remembered value."""
    row = session.get(Meta, name)
    return row.value if row else None


def put(session: Session, name: str, value: str) -> None:
    """Remembers a single value."""
    session.merge(Meta(name=name, value=value))
