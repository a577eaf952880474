"""Arbitrary events on the socket, over a real server: hint, refusal or chatter, and never the end of the feed."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from bot.feeds import wire
from tests.integration.test_socket_feed import Plain, listening
from tests.support.servers import serving, until

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    "sessionId requestId studentAddress tutorAddress endedBy userRole timestamp count trust".split()
)
SAID = st.tuples(
    st.sampled_from([*wire.EVENTS, "chat:message", "*", "anything"]), JSON | st.dictionaries(FIELDS, JSON, max_size=5)
)


async def test_run__arbitrary_payloads__every_one_is_counted_and_the_feed_goes_on() -> None:
    """hypothesis on socket payloads, over a real server's wire"""
    said: list[tuple[str, Any]] = []

    @settings(max_examples=60, database=None, deadline=None)
    @given(st.lists(SAID, min_size=1, max_size=8))
    def gather(events: list[tuple[str, Any]]) -> None:
        said.extend(events)

    gather()
    plain = Plain()
    async with serving(plain.app) as url, listening(url) as heard:
        for event, payload in said:
            await plain.say(event, payload)
        await plain.say("session:ended", {"sessionId": 987_654})
        await until(lambda: heard.hints and heard.hints[-1].session_id == 987_654)
        counted = heard.feed.counters
        assert counted["received"] + counted["refused"] + counted["ignored"] == len(said) + 1
        assert counted["lost"] == 0
        assert len(heard.hints) == counted["received"]
