"""The gateway's OpenAPI document: `GET /openapi.json`.

Promises: it has every route that is served, and every status that each can answer with. Doesn't promise to refuse all
that it doesn't describe: an odd optional field never costs a message.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from bot.domain.statement import NONCE, Said
from bot.feeds import wire

Json = dict[str, Any]

STILL_HERE_PATH = "/v/{token}"

_LIMITS = {
    "RateLimit-Policy": "the limit and its window: `100;w=60`",
    "RateLimit-Limit": "requests that this address may make in a minute",
    "RateLimit-Remaining": "how many it may make at once now",
    "RateLimit-Reset": "seconds until it may make all of them again",
}
_PROBLEMS = {
    400: "malformed",
    401: "the shared token is missing or wrong",
    403: "not a participant, or not signed by that address",
    404: "not there",
    408: "the body came too slowly",
    409: "used before, or the session is over",
    413: "the body is larger than 16 KiB",
    422: "the transaction holds no SessionEnded of this session",
    429: "too many requests from this address",
    503: "can't be done now; the same request may be sent again",
}
_NULL = {"type": "null"}
_TEXT, _NUMBER, _FLAG = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
_ID = {
    "oneOf": [{"type": "string", "minLength": 1, "maxLength": wire.MAX_ROOM_CHARS}, {"type": "integer", "minimum": 0}]
}
_ADDRESS = {"type": "string", "pattern": "^0x[0-9a-fA-F]{40}$"}
_EVENT = {"description": "events named `state`, whose data is a SessionState"}
_HASH = {"type": "string", "pattern": "^0x[0-9a-fA-F]{64}$"}
_TRUST = {"enum": [wire.ANONYMOUS, wire.SECRET, wire.SIGNED]}


def document(routes: Iterable[BaseRoute], title: str) -> Json:
    """The document of these routes; one that isn't described here is left out."""
    paths: Json = {}
    for route in routes:
        if not isinstance(route, APIRoute) or not route.include_in_schema:
            continue
        for method in sorted((route.methods or set()) - {"HEAD"}):
            operation = OPERATIONS.get((method.lower(), route.path))
            if operation is not None:
                paths.setdefault(route.path, {})[method.lower()] = _with_parameters(operation, route.path)
    about = "The documented LangDAO backend integration, over HTTP. Its events are Socket.IO's, at /socket.io/."
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": "1", "description": about},
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "GATEWAY_TOKEN"}},
        },
    }


def _with_parameters(operation: Json, path: str) -> Json:
    names = [part.partition("}")[0] for part in path.split("{")[1:]]
    parameters = [{"name": name, "in": "path", "required": True, "schema": _TEXT} for name in names]
    return {**operation, **({"parameters": parameters} if parameters else {})}


def _object(required: Json, optional: Json | None = None) -> Json:
    return {"type": "object", "required": [*required], "properties": {**required, **(optional or {})}}


def _or_null(schema: Json) -> Json:
    return {"oneOf": [schema, _NULL]}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _many(schema: Json) -> Json:
    return {"type": "array", "items": schema}


def _operation(
    name: str, summary: str, good: dict[int, str], problems: Iterable[int], *, body: str | None = None, **more: Any
) -> Json:
    """`good` names the schema of each good answer, or its media type where it isn't JSON."""
    headers = {title: {"description": text, "schema": _TEXT} for title, text in _LIMITS.items()}
    responses: Json = {}
    for status, said in good.items():
        media = said if "/" in said else "application/json"
        schema = _EVENT if media == "text/event-stream" else _TEXT if media == said else _ref(said)
        content = {media: {"schema": schema}}
        responses[str(status)] = {
            "description": "taken" if status < 300 else "gone",
            "headers": headers,
            "content": content,
        }
    for status in problems:
        retry = {"Retry-After": {"description": "seconds", "schema": _TEXT, "required": True}}
        responses[str(status)] = {
            "description": _PROBLEMS[status],
            "headers": headers | (retry if status in (429, 503) else {}),
            "content": {"application/problem+json": {"schema": _ref("Problem")}},
        }
    operation: Json = {"operationId": name, "summary": summary, "responses": responses, **more}
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": _ref(body)}}}
    return operation


_BODY = (400, 408, 413)  # what can be wrong with any body

SCHEMAS: Json = {
    "Problem": _object(
        {"type": _TEXT, "title": _TEXT, "status": _NUMBER, "detail": _TEXT},
        {"reason": {"type": "string", "description": "a constant word for programs"}},
    ),
    "Taken": _object({"ok": {"const": True}}),
    "Verdict": _object(
        {"ok": {"const": True}, "verified": {"type": "boolean", "description": "by the chain"}},
        {"why": {"type": "string", "description": "why it wasn't verified"}},
    ),
    "Signal": _object(
        {"type": {"enum": [*wire.POST_TYPES]}, "sessionId": _ID},
        {name: {} for name in ("userRole", "userAddress", "endedBy", "reason", "timestamp", "session")},
    ),
    "EndReport": _object(
        {
            "sessionId": _ID,
            "userAddress": _ADDRESS,
            "transactionHash": {"type": "string", "pattern": "^0x[0-9a-fA-F]{64}$"},
        }
    ),
    "Statement": _object(
        {
            "action": {"enum": [*Said]},
            "address": _ADDRESS,
            "expires": {"type": "integer", "description": "epoch seconds, at most an hour from now"},
            "nonce": {"type": "string", "pattern": f"^{NONCE.pattern}$"},
            "signature": {"type": "string", "pattern": "^0x([0-9a-fA-F]{2})+$"},
        }
    ),
    "Seen": _object({"role": _or_null({"enum": ["student", "tutor"]}), "at": _NUMBER, "trust": _TRUST}),
    "End": _object({"at": _NUMBER, "endedBy": _TEXT, "reason": _TEXT, "trust": _TRUST}),
    "RoomView": _object(
        {
            "room": _TEXT,
            "studentAddress": _or_null(_ADDRESS),
            "tutorAddress": _or_null(_ADDRESS),
            "languageId": _or_null(_NUMBER),
            "startTime": _or_null(_NUMBER),
            "ended": _or_null(_ref("End")),
            "here": _many(_ref("Seen")),
            "away": _many(_ref("Seen")),
        }
    ),
    "Beats": _object({"trust": _TRUST, "count": _NUMBER, "first": _NUMBER, "last": _NUMBER}),
    "Room": {
        "allOf": [
            _ref("RoomView"),
            _object(
                {
                    "trust": _TRUST,
                    "lastHeartbeat": _or_null(_NUMBER),
                    "heartbeats": _NUMBER,
                    "beats": _many(_ref("Beats")),
                    "statements": _many({"type": "object"}),
                }
            ),
        ]
    },
    "Record": _object({"now": _NUMBER, "sessions": _many(_ref("Room"))}),
    "ChainSession": _object(
        {
            "sessionId": _NUMBER,
            "studentAddress": _ADDRESS,
            "tutorAddress": _ADDRESS,
            "token": _ADDRESS,
            "startTime": _NUMBER,
            "endTime": _or_null(_NUMBER),
            "ratePerSecond": _TEXT,
            "totalPaid": _TEXT,
            "languageId": _NUMBER,
            "isActive": _FLAG,
        }
    ),
    "Chain": _object(
        {
            "state": {"enum": ["read", "away", "not-configured"]},
            "chainId": _or_null(_NUMBER),
            "contract": _or_null(_ADDRESS),
            "session": _or_null(_ref("ChainSession")),
        }
    ),
    "SessionState": _object(
        {
            "id": _TEXT,
            "nowMs": _NUMBER,
            "chainNow": _or_null(_NUMBER),
            "keeper": {"enum": ["up", "down"]},
            "session": {"oneOf": [{"type": "object"}, _NULL], "description": "what the keeper plans"},
            "chain": _ref("Chain"),
            "rooms": _many(_ref("RoomView")),
        }
    ),
    "Health": _object(
        {
            "ok": {"const": True},
            "name": {"const": wire.GATEWAY_NAME},
            "rooms": _NUMBER,
            "sockets": _NUMBER,
            "plans": _NUMBER,
            "watching": _NUMBER,
            "mappings": _TEXT,
            "kept": _TEXT,
            "counters": {"type": "object", "additionalProperties": _NUMBER},
        }
    ),
}

OPERATIONS: dict[tuple[str, str], Json] = {
    ("post", wire.HOOK_PATH): _operation(
        "hook",
        "A message of the signalling server, which knows the secret",
        {200: "Taken"},
        (*_BODY, 404, 429),
        body="Signal",
    ),
    ("post", wire.EVENTS_PATH): _operation(
        "events",
        "The same message from anybody, held against the chain",
        {200: "Verdict", 202: "Verdict"},
        (*_BODY, 403, 404, 429),
        body="Signal",
    ),
    ("post", wire.ENDED_PATH): _operation(
        "ended",
        "A page's report that its session was ended on chain",
        {200: "Verdict", 202: "Verdict"},
        (*_BODY, 403, 404, 422, 429),
        body="EndReport",
        security=[{}, {"token": []}],
    ),
    ("get", wire.RECORD_PATH): _operation(
        "record",
        "All rooms of the last day, for the keeper",
        {200: "Record"},
        (401, 404, 429),
        security=[{"token": []}],
    ),
    ("get", wire.SESSION_PATH): _operation(
        "session", "One session, by its id on chain or by its room", {200: "SessionState"}, (404, 429)
    ),
    ("get", wire.SESSION_EVENTS_PATH): _operation(
        "live", "The same, anew at each change, as Server-Sent Events", {200: "text/event-stream"}, (404, 429, 503)
    ),
    ("post", wire.STATEMENTS_PATH): _operation(
        "statement",
        "A participant's signed word: end the session now, or it goes on",
        {202: "Taken"},
        (*_BODY, 403, 404, 409, 429, 503),
        body="Statement",
    ),
    ("get", wire.HEALTH_PATH): _operation(
        "health", "Whether the gateway runs, and what it has seen", {200: "Health"}, ()
    ),
    ("get", STILL_HERE_PATH): _operation(
        "question", "The page of a nudge's link; changes nothing", {200: "text/html", 410: "text/html"}, (429,)
    ),
    ("post", STILL_HERE_PATH): _operation(
        "answer", "The lesson goes on; good once", {200: "text/html", 410: "text/html"}, (429,)
    ),
}
