"""The bundled backend's own record, `GET /api/sessions`: what was said while nobody listened.

Promises: hints in the order in which things happened. All are received now, by our clock, except signs of life
(heartbeats, returns, *still here*): one of a minute ago is none now, so it counts as received that long ago. The
sender's times are in `said_ms`.
Doesn't promise that the backend keeps a record: a plain one has none, and then the list is empty.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import aiohttp
import structlog

from bot.domain.facts import Hint, Source
from bot.domain.statement import Said
from bot.errors import TryAgain
from bot.feeds import wire
from bot.feeds.limits import retry_after_ms
from bot.values import shown

log = structlog.get_logger(__name__)

TIMEOUT_S = 10.0
MAX_RECORD_BYTES = 16 * 1024 * 1024


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


async def read_record(url: str, token: str, *, clock_ms: Callable[[], int] = _wall_ms) -> list[Hint]:
    """The record's hints, oldest first, or [] when this backend has no record for us.

    Raises TryAgain when it can't be reached, is too slow, or says itself that it can't just now (429, 5xx).
    """
    backend = shown(url)
    headers = {"Authorization": f"Bearer {token}"}
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as http:
            async with http.get(url.rstrip("/") + wire.RECORD_PATH, headers=headers, allow_redirects=False) as answer:
                if answer.status == 429 or answer.status >= 500:
                    asked_ms = retry_after_ms(answer.headers.get("Retry-After"), clock_ms()) or 0
                    raise TryAgain(f"the backend's record answered {answer.status}", after_s=asked_ms / 1000)
                if answer.status != 200:
                    log.info("record.none", backend=backend, status=answer.status)
                    return []
                body = await _bounded(answer)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise TryAgain(f"the backend's record can't be read ({type(error).__name__})") from None
    now_ms = clock_ms()
    try:
        rooms, their_now_ms = _rooms(body)
    except (ValueError, RecursionError):
        log.warning("record.refused", backend=backend, reason="not-a-record")
        return []
    hints: list[Hint] = []
    for room in rooms:
        try:
            hints.extend(_hints(room, now_ms, their_now_ms))
        except wire.Refused as refused:
            log.warning("record.refused", backend=backend, reason=refused.reason, detail=refused.detail)
    log.info("record.read", backend=backend, rooms=len(rooms), hints=len(hints))
    return hints


async def _bounded(answer: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in answer.content.iter_chunked(65_536):
        body += chunk
        if len(body) > MAX_RECORD_BYTES:
            raise TryAgain(f"the backend's record is larger than {MAX_RECORD_BYTES} bytes")
    return bytes(body)


def _rooms(body: bytes) -> tuple[list[Any], int | None]:
    """Raises ValueError for what is no record, a page of HTML for instance."""
    record = json.loads(body)
    if not isinstance(record, dict) or not isinstance(record.get("sessions"), list):
        raise ValueError("no sessions")
    return record["sessions"], wire.as_epoch_ms(record.get("now"))


def _hints(room: object, now_ms: int, their_now_ms: int | None) -> list[Hint]:
    if not isinstance(room, dict):
        raise wire.Refused("not-an-object", "a room of the record is not a JSON object")
    # What was said at no known time comes first, so that it contradicts nothing.
    happened = sorted(_said(room), key=lambda said: said[0] or 0)
    return [_from(event, {**payload, "timestamp": at}, at, now_ms, their_now_ms) for at, event, payload in happened]


def _said(room: dict[str, Any]) -> Iterator[tuple[int | None, str, dict[str, Any]]]:
    """What one room's entry tells: when by the backend's clock, and as which event with which payload."""
    about = {
        "sessionId": room.get("room"),
        "studentAddress": room.get("studentAddress"),
        "tutorAddress": room.get("tutorAddress"),
    }
    # `trust` absent would mean "as much as the record", so whatever is missing is said to be anonymous.
    trust = room.get("trust") or wire.ANONYMOUS
    ended = [
        (wire.as_epoch_ms(entry.get("at")), wire.SESSION_ENDED, {**about, **_ending(entry, trust)})
        for entry in _entries([room.get("ended")])
    ]
    for entry in _entries(room.get("statements")):
        event = wire.STILL_HERE if entry.get("action") == Said.STILL_HERE else wire.SESSION_ENDED
        said = {**about, "statement": entry, "signature": entry.get("signature"), "trust": wire.SIGNED}
        yield wire.as_epoch_ms(entry.get("at")), event, said
    if any(payload["trust"] != wire.ANONYMOUS for _, _, payload in ended):
        yield from ended
        return  # announced once more, the room of a call that is over could be taken for the next lesson's
    start = wire.as_epoch_ms(room.get("startTime"))
    yield start, wire.READY, {**about, "languageId": room.get("languageId"), "trust": trust}
    for field, event in (("here", wire.USER_CONNECTED), ("away", wire.USER_DISCONNECTED)):
        for entry in _entries(room.get(field)):
            said = {**about, "userRole": entry.get("role"), "trust": entry.get("trust") or trust}
            yield wire.as_epoch_ms(entry.get("at")), event, said
    for entry in _entries(room.get("beats")):
        last = wire.as_epoch_ms(entry.get("last"))
        if last is not None:  # of no known time it would be a sign of life now
            yield last, wire.SESSION_HEARTBEAT, {**about, "count": 1, "trust": entry.get("trust") or trust}
    yield from ended


def _ending(entry: dict[str, Any], trust: Any) -> dict[str, Any]:
    return {"endedBy": entry.get("endedBy"), "reason": entry.get("reason"), "trust": entry.get("trust") or trust}


def _entries(value: object) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _from(event: str, payload: dict[str, Any], at_ms: int | None, now_ms: int, their_now_ms: int | None) -> Hint:
    # A gateway reports returns, so a loss in its record can be taken back.
    hint = wire.from_socket(event, payload, now_ms, can_return=True)
    received_ms = now_ms
    if event in (wire.SESSION_HEARTBEAT, wire.USER_CONNECTED, wire.STILL_HERE) and at_ms is not None:
        received_ms = now_ms - max(0, (their_now_ms or now_ms) - at_ms)
    return replace(hint, source=Source.RECORD, received_ms=received_ms)
