"""What is around the keeper: backend, Redis, participants, operators."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit, urlunsplit

import aiohttp

from bot.domain.policy import RISK_OF_HINTS
from bot.errors import Misconfigured
from bot.feeds.canary import PREFIX, with_room
from bot.ops.doctor.patient import REMEDIES, REQUEST_S, Check, Patient, Skip, said_of
from bot.values import shown

LIMITED = "Wait a minute and look again; raise the backend's limit for the keeper's address"
LIMITS = ("ratelimit-limit", "x-ratelimit-limit")


async def backend(patient: Patient) -> Check:
    url = patient.settings.socket_url
    if url is None:
        raise Skip("SOCKET_URL is not set")
    address = url.get_secret_value().rstrip("/") + "/socket.io/?EIO=4&transport=polling"
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=REQUEST_S)) as http,
            http.get(address.replace("ws://", "http://", 1).replace("wss://", "https://", 1)) as answer,
        ):
            opening = (await answer.content.read(200)).decode(errors="replace")
            status = answer.status
            dialect = await _dialect(http, url.get_secret_value())
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        return Check("backend", "failed", f"{shown(url)}: {said_of(error)}", REMEDIES["backend"])
    if status == 429:
        return Check("backend", "warning", f"{shown(url)} refuses requests from here (HTTP 429): too many", LIMITED)
    if status != 200 or not opening.startswith("0{"):
        return Check(
            "backend", "failed", f"{shown(url)}: no Socket.IO 4 (HTTP {status})", "SOCKET_URL: is it the backend?"
        )
    return Check("backend", "ok", f"{shown(url)} speaks Socket.IO; {dialect}")


async def _dialect(http: aiohttp.ClientSession, url: str) -> str:
    """Which backend it is, as far as that shows, and its limit."""
    base = urlunsplit(urlsplit(url)._replace(path="", query=""))
    async with http.get(f"{base}/api/sessions") as answer:
        problem = answer.headers.get("Content-Type", "").startswith("application/problem+json")
        limit = next((value for name, value in answer.headers.items() if name.lower() in LIMITS), None)
    known = "the bundled backend" if problem else "another backend: both dialects are heard"
    return f"{known}; {limit} requests a minute" if limit else f"{known}; its limit isn't told (the observed ones: 100)"


async def signalling(patient: Patient) -> Check:
    """Does the signalling server open a room for the canary?"""
    url = patient.settings.signalling_url
    if url is None:
        raise Skip("SIGNALLING_URL is not set: a silent room can't be told from a silent feed")
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=REQUEST_S)
    try:
        async with asyncio.timeout(REQUEST_S), aiohttp.ClientSession(timeout=timeout) as http:
            socket = await http.ws_connect(with_room(url.get_secret_value().strip(), f"{PREFIX}doctor"))
            await socket.close()
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        remedy = "Start the signalling server or mend SIGNALLING_URL"
        return Check("signalling", "failed", f"{shown(url)}: {said_of(error)}", remedy)
    return Check("signalling", "ok", f"{shown(url)} opens a room; whether its post comes back, `status` tells")


async def redis(patient: Patient) -> Check:
    url = patient.settings.redis_url
    if url is None:
        raise Skip("REDIS_URL is not set")
    from redis.asyncio import Redis
    from redis.exceptions import RedisError

    client = Redis.from_url(url.get_secret_value(), socket_timeout=REQUEST_S, socket_connect_timeout=REQUEST_S)
    try:
        await client.ping()
    except (RedisError, OSError) as error:
        return Check("redis", "failed", f"{shown(url)}: {said_of(error)}", REMEDIES["redis"])
    finally:
        await client.aclose()
    return Check("redis", "ok", shown(url))


async def nudges(patient: Patient) -> Check:
    from bot.ops.reach import ways

    try:
        found = await asyncio.to_thread(ways, patient.settings)
    except Misconfigured as error:
        return Check("nudges", "failed", str(error), "See docs/nudges.md")
    if not found:
        value = "no channel reaches a participant: there is no nudge window, and the grace alone is given"
        remedy = (
            "Set GATEWAY_TOKEN, if the backend at SOCKET_URL is the bundled one; other backends pass on no nudges. "
            "Other ways: docs/nudges.md"
        )
        return Check("nudges", "warning", value, remedy)
    return Check("nudges", "ok", "; ".join(found))


async def public_url(patient: Patient) -> Check:
    if patient.settings.public_url is None:
        return Check(
            "public-url", "warning", "not set: nudges have no link", "Set PUBLIC_URL to the address others reach"
        )
    return Check("public-url", "ok", shown(patient.settings.public_url))


async def hints(patient: Patient) -> Check:
    hints = patient.settings.policy().hints
    return Check("hints", "ok", f"TRUST_BACKEND_HINTS={hints}: {RISK_OF_HINTS[hints]}")


async def silence(patient: Patient) -> Check:
    feed_s, session_s = patient.settings.feed_silence_s, patient.settings.heartbeat_timeout_s
    value = f"a session's heartbeats for {session_s:g} s, the webhook feed's posts for {feed_s:g} s"
    if feed_s < session_s:
        return Check("silence", "ok", value)
    value += ": when the feed stops, each session looks silent before the feed counts as down"
    return Check("silence", "warning", value, "Set FEED_SILENCE_S below HEARTBEAT_TIMEOUT_S")


async def alerts(patient: Patient) -> Check:
    if patient.settings.apprise_urls is None:
        return Check("alerts", "warning", "go to the log and the database only", "Set APPRISE_URLS to be told")
    from bot.ops.alerts import APPRISE_GUIDE, unknown

    urls = patient.settings.apprise_urls.get_secret_value()
    if strange := await asyncio.to_thread(unknown, urls):
        value = f"APPRISE_URLS: {', '.join(strange)} is nothing that Apprise knows: no alert goes there"
        return Check("alerts", "failed", value, APPRISE_GUIDE)
    count = len(urls.replace(",", " ").split())
    return Check("alerts", "ok", f"{count} address{'es' if count != 1 else ''} in APPRISE_URLS")
