"""What a decision saw that the facts before it don't say, so that it can be made again.

Promises: `session_of(pack(session, world), …)` given the facts that were known then, and the marks given before, is a
session of which `decide` makes the same; both ways are pure. What an older keeper didn't keep has its default.
Doesn't promise the order in which heartbeats and other words came: they are coalesced, and only their times count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from typing import Any

from bot.domain.facts import Beats, Fact, SessionKey
from bot.domain.policy import Hints, Policy
from bot.domain.rules import Feed, World
from bot.domain.session import Session, fold, gave

_PLAIN = ("started_ms", "ended", "counts_from_ms", "reported", "rate", "drained_ms")  # given by the chain and the start


def pack(session: Session, world: World) -> dict[str, Any]:
    """As JSON."""
    said: dict[str, Any] = {name: getattr(session, name) for name in _PLAIN}
    beats = session.beats
    said["beats"] = [beats.count, beats.first_ms, beats.last_ms]
    said["world"] = asdict(world)
    return said


def session_of(saw: Mapping[str, Any], key: SessionKey, facts: Iterable[Fact], marks: Mapping[str, int]) -> Session:
    """The session as it was: `facts` in order, and the marks of nudges and alerts given before."""
    session = Session(key, **{name: saw[name] for name in _PLAIN if name in saw})
    know_beats(session, saw)
    for fact in facts:
        fold(session, fact)
    for mark, at_ms in marks.items():
        gave(session, mark, at_ms)
    return session


def know_beats(session: Session, saw: Mapping[str, Any]) -> None:
    """The heartbeats as they were."""
    beats = Beats(*saw.get("beats", ()))
    if beats.count:
        session.beats, session.heard = beats, True


def know_chain(session: Session, saw: Mapping[str, Any]) -> None:
    """What the chain had said of it."""
    for name in _PLAIN:
        if name in saw:
            setattr(session, name, saw[name])


def world_of(saw: Mapping[str, Any]) -> World:
    """The world that it was decided in."""
    said: dict[str, Any] = dict(saw["world"])
    feed = Feed(**_known(Feed, said.pop("feed")))
    lists = {name: tuple(value) for name, value in said.items() if isinstance(value, list)}
    return World(feed=feed, **_known(World, said | lists))


def policy_of(said: Mapping[str, Any]) -> Policy:
    """A policy from its JSON, `dataclasses.asdict`."""
    known = _known(Policy, said)
    return Policy(**known | {"hints": Hints(known.get("hints", Policy().hints))})


def _known(kind: type, said: Mapping[str, Any]) -> dict[str, Any]:
    names = {one.name for one in fields(kind)}
    return {name: value for name, value in said.items() if name in names}
