"""Anything at all on a page's socket: the gateway answers, refuses or ignores, and goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.web.gateway import create_gateway
from tests.support.gateway import MAPPING, STUDENT, TOKEN, TUTOR, client, config, page, record
from tests.support.servers import serving

NAMES = ["user:connect", "session:create", "keeper:nudge", "keeper:session", "webrtc:session-ended", "connect", "*", ""]
FIELDS = ["address", "requestId", "studentAddress", "tutorAddress", "languageId", "to", "sessionId", "trust", "nowMs"]
FIELDS += ["proof", "expires", "nonce", "signature", "own"]

text = st.text(max_size=40)
leaf = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | text
leaf |= st.sampled_from([STUDENT, TUTOR.lower(), STUDENT[:-1], "req_1", "0", "1"])
anything = st.recursive(
    leaf, lambda one: st.lists(one, max_size=4) | st.dictionaries(st.sampled_from(FIELDS) | text, one, max_size=6)
)
likely = st.dictionaries(st.sampled_from(FIELDS), anything, max_size=9)
events = st.lists(st.tuples(st.sampled_from(NAMES) | text, likely | anything), min_size=1, max_size=6)


@settings(max_examples=30)
@given(said=st.lists(events, min_size=1, max_size=3), keepers=st.booleans())
def test_events__of_anybody__acknowledged_or_ignored_and_the_gateway_goes_on(
    said: list[list[tuple[str, Any]]], keepers: bool
) -> None:
    asyncio.run(spoken(said, {"token": TOKEN} if keepers else None))


async def spoken(said: list[list[tuple[str, Any]]], auth: Any) -> None:
    app = create_gateway(config(socket_events_per_minute=1_000))
    async with serving(app) as url, client(url) as listener:
        for sequence in said:
            async with client(url, auth=auth) as one:
                for name, payload in sequence:
                    answer = await _said(one, name, payload)
                    assert answer is None or isinstance(answer, dict)
                    if name.startswith("webrtc:") or name not in NAMES:
                        assert answer is None
        for event, payload in listener.events:
            assert event == "session:ready", "a client made the gateway say something"
            assert payload["trust"] == "anonymous"
        async with page(url, STUDENT) as student, aiohttp.ClientSession() as http:
            made = await student.call("session:create", {**MAPPING, "requestId": "a room of our own"})
            assert made["ok"]
            assert "a room of our own" in await record(http, url)


async def _said(one: Any, name: str, payload: Any) -> Any:
    if name in ("connect", "*"):  # the client library keeps these names to itself
        await one.sio._send_packet(one.sio.packet_class(2, namespace="/", data=[name, payload]))
        return None
    return await one.sio.call(name, payload, timeout=5) if name in NAMES[:4] else await one.sio.emit(name, payload)
