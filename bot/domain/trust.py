"""Who is believed how far: the one table.

Promises: each level may do all that the levels below it may, but MAPPING, which links and no more. `docs/operate.md`
shows this table, and a test holds every cell of it against what the keeper does.
"""

from __future__ import annotations

from enum import StrEnum

from bot.domain.facts import Trust


class Right(StrEnum):
    """What a word may bring about."""

    LOOK = "look, link"
    NUDGE = "nudge"
    LIFE = "sign of life"
    END = "end after grace and window"
    END_AT_ONCE = "end at once"


class Allowed(StrEnum):
    """How far."""

    YES = "yes"
    NO = "no"
    LIMITED = "yes, limited"  # once a session, and so many posts a minute for each address
    ARMS = "yes; heartbeats arm the timeout (≥ 3 over ≥ 30 s)"
    DELAYS = "delays only, never arms"  # by CONTRADICTION_CAP_S at most
    UNLESS_ALIVE = "yes, unless signs of life contradict"


SPEAKERS: dict[Trust, str] = {
    Trust.PROVEN: "chain; a participant's signature or single-use link; operator",
    Trust.CONFIGURED: "the configured backend's socket and its record; webhook posts with the secret",
    Trust.MAPPING: "Redis mapping",
    Trust.ANONYMOUS: "anonymous webhook posts",
}

TABLE: dict[Trust, dict[Right, Allowed]] = {
    Trust.PROVEN: {
        Right.LOOK: Allowed.YES,
        Right.NUDGE: Allowed.YES,
        Right.LIFE: Allowed.YES,
        Right.END: Allowed.YES,
        Right.END_AT_ONCE: Allowed.YES,
    },
    Trust.CONFIGURED: {
        Right.LOOK: Allowed.YES,
        Right.NUDGE: Allowed.YES,
        Right.LIFE: Allowed.ARMS,
        Right.END: Allowed.UNLESS_ALIVE,
        Right.END_AT_ONCE: Allowed.NO,
    },
    Trust.MAPPING: {
        Right.LOOK: Allowed.YES,
        Right.NUDGE: Allowed.NO,
        Right.LIFE: Allowed.NO,
        Right.END: Allowed.NO,
        Right.END_AT_ONCE: Allowed.NO,
    },
    Trust.ANONYMOUS: {
        Right.LOOK: Allowed.YES,
        Right.NUDGE: Allowed.LIMITED,
        Right.LIFE: Allowed.DELAYS,
        Right.END: Allowed.NO,
        Right.END_AT_ONCE: Allowed.NO,
    },
}


def allowed(trust: Trust, right: Right) -> Allowed:
    return TABLE[trust][right]


def fully(trust: Trust, right: Right) -> bool:
    """May a word of this trust bring this about as a believed one does, and not only in a limited way?"""
    return TABLE[trust][right] in (Allowed.YES, Allowed.ARMS, Allowed.UNLESS_ALIVE)


def as_markdown() -> str:
    """The table as the guide shows it."""
    rows = [["source", *Right], ["---"] * (1 + len(Right))]
    rows += [[SPEAKERS[trust], *(TABLE[trust][right] for right in Right)] for trust in TABLE]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
