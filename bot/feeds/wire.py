"""Every name and shape that crosses the wire between backend, signalling server and keeper.

Promises: `from_socket`, `from_post` and `from_mapping` turn whatever arrived into a `Hint` or raise `Refused`,
never anything else. Addresses come out checksummed or None, times as our receive time, and the payload as it
was received. What is optional may be missing or odd; without a usable room id there is no hint.
Doesn't promise that a word of it is true, nor that the room exists. Sender's clocks are recorded, never used.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from bot.domain.address import Address, checksum
from bot.domain.facts import TRUST_OF, Hint, Kind, Role, Source, Trust
from bot.errors import KeeperError

# Socket.IO, the documented dialect.
SESSION_ENDED: Final = "webrtc:session-ended"
USER_DISCONNECTED: Final = "webrtc:user-disconnected"
HEARTBEAT_TIMEOUT: Final = "webrtc:heartbeat-timeout"
# Socket.IO, what the bundled backend says beyond it.
USER_CONNECTED: Final = "webrtc:user-connected"
SESSION_HEARTBEAT: Final = "webrtc:session-heartbeat"
STILL_HERE: Final = "webrtc:still-here"
GRACE_OVER: Final = "webrtc:grace-over"  # for pages; the keeper counts its own grace
# Socket.IO, the observed dialect.
READY: Final = "session:ready"
ENDED: Final = "session:ended"
# Socket.IO, towards the backend.
BIND: Final = "user:connect"
CREATE: Final = "session:create"
NUDGE: Final = "keeper:nudge"
PLAN: Final = "keeper:session"
CHAT: Final = "chat:message"
ERROR: Final = "error"

# HTTP.
EVENTS_PATH: Final = "/api/webrtc-events"
ENDED_PATH: Final = "/api/webrtc-session-ended"
RECORD_PATH: Final = "/api/sessions"
SESSION_PATH: Final = "/api/sessions/{name}"
SESSION_EVENTS_PATH: Final = "/api/sessions/{name}/events"
STATEMENTS_PATH: Final = "/api/sessions/{name}/statements"
HEALTH_PATH: Final = "/health"
GATEWAY_NAME: Final = "langdao-gateway"  # what the bundled backend calls itself in its health
HOOK_PATH: Final = "/hook/{secret}"

# Redis: a hash per room, all values strings.
MAPPING_PREFIX: Final = "session:"
MAPPING_TTL_S: Final = 86_400
MAPPING_FIELDS: Final = ("sessionId", "studentAddress", "tutorAddress", "languageId", "startTime")

MAX_PAYLOAD_BYTES: Final = 16 * 1024
MAX_ROOM_CHARS: Final = 200
MAX_BEATS: Final = 1000
MAX_CHAIN_ID: Final = 2**63 - 1

ANONYMOUS: Final = "anonymous"
SECRET: Final = "secret"
SIGNED: Final = "signed"

# A signature is worth something only where it is verified, and that isn't here: see `bot.feeds.statements`.
_CLAIMS: Final = {ANONYMOUS: Trust.ANONYMOUS, SECRET: Trust.CONFIGURED, SIGNED: Trust.ANONYMOUS}

_ZERO_ADDRESS: Final = "0x" + "0" * 40


class Refused(KeeperError):
    """A message that is no hint. `reason` is a constant slug for counters and logs, `detail` says it in words."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def claim_of(trust: Trust) -> str:
    """What the bundled backend writes under `trust` for a message believed this far."""
    if trust >= Trust.PROVEN:
        return SIGNED
    return SECRET if trust >= Trust.CONFIGURED else ANONYMOUS


def beat_count(payload: Mapping[str, Any]) -> int:
    """How many heartbeats a coalesced one stands for: 1 to MAX_BEATS, and 1 when it doesn't say so sensibly."""
    count = payload.get("count", 1)
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        return 1
    return min(count, MAX_BEATS)


# Optional fields. Each reader gives None for what it can't use, so that an odd field never costs the message.


def as_address(value: object) -> Address | None:
    """The checksummed address, or None for anything else; the zero address is nobody's."""
    if not isinstance(value, str):
        return None
    address = checksum(value.strip())
    return None if address == _ZERO_ADDRESS else address


def as_epoch_ms(value: object) -> int | None:
    """Epoch milliseconds of a number in s or ms, a numeric string or an ISO date; None when it is none of them."""
    if isinstance(value, str):
        text = value.strip()[:64]
        try:
            value = float(text)
        except ValueError:
            return _iso_ms(text)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if 1e8 <= value < 1e11:  # seconds: 1973 to 5138
        return int(value * 1000)
    if 1e11 <= value < 1e14:  # milliseconds: the same span
        return int(value)
    return None


def _iso_ms(text: str) -> int | None:
    try:
        said = datetime.fromisoformat(text)
        said = said if said.tzinfo else said.replace(tzinfo=UTC)
        return as_epoch_ms(said.timestamp() * 1000)
    except (ValueError, OverflowError):
        return None


def as_word(value: object) -> str | None:
    """A short text, stripped, or None for anything else."""
    return value.strip() if isinstance(value, str) and len(value) <= MAX_ROOM_CHARS else None


_Address = Annotated[Address | None, BeforeValidator(as_address)]
_Word = Annotated[str | None, BeforeValidator(as_word)]
_Time = Annotated[int | None, BeforeValidator(as_epoch_ms)]


class _Shape(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Lesson(_Shape):
    """The `session` object inside an end post."""

    student: _Address = Field(None, alias="studentAddress")
    tutor: _Address = Field(None, alias="tutorAddress")


_Inner = Annotated[_Lesson, BeforeValidator(lambda value: value if isinstance(value, dict) else {})]


class _Message(_Shape):
    """The optional fields of every message. Who is meant stands in a different field in each kind."""

    student: _Address = Field(None, alias="studentAddress")
    tutor: _Address = Field(None, alias="tutorAddress")
    said_ms: _Time = Field(None, alias="timestamp")

    def who(self) -> Iterable[str | None]:
        """What the message says about who is meant, roles and addresses, the most telling first."""
        return ()

    def addresses(self) -> tuple[Address | None, Address | None]:
        return self.student, self.tutor


class _About(_Message):
    user_role: _Word = Field(None, alias="userRole")
    user_address: _Word = Field(None, alias="userAddress")

    def who(self) -> Iterable[str | None]:
        return self.user_role, self.user_address


class _Ended(_About):
    ended_by: _Word = Field(None, alias="endedBy")
    session: _Inner = Field(default_factory=lambda: _Lesson.model_validate({}))

    def who(self) -> Iterable[str | None]:
        if self.ended_by == "system":
            return ()
        return self.ended_by, self.user_role, self.user_address

    def addresses(self) -> tuple[Address | None, Address | None]:
        return self.student or self.session.student, self.tutor or self.session.tutor


class _Left(_About):
    left: _Word = Field(None, alias="disconnectedUser")

    def who(self) -> Iterable[str | None]:
        return self.left, self.user_role, self.user_address


_SHAPES: Final[dict[Kind, type[_Message]]] = {
    Kind.READY: _Message,
    Kind.CONNECTED: _About,
    Kind.HEARTBEAT: _About,
    Kind.ENDED: _Ended,
    Kind.DISCONNECTED: _Left,
    Kind.TIMEOUT: _Message,
    Kind.STILL_HERE: _About,
}

EVENTS: Final[dict[str, Kind]] = {
    SESSION_ENDED: Kind.ENDED,
    USER_DISCONNECTED: Kind.DISCONNECTED,
    HEARTBEAT_TIMEOUT: Kind.TIMEOUT,
    USER_CONNECTED: Kind.CONNECTED,
    SESSION_HEARTBEAT: Kind.HEARTBEAT,
    STILL_HERE: Kind.STILL_HERE,
    READY: Kind.READY,
    ENDED: Kind.ENDED,
}

POST_TYPES: Final[dict[str, Kind]] = {
    "session-ended": Kind.ENDED,
    "user-disconnected": Kind.DISCONNECTED,
    "session-heartbeat": Kind.HEARTBEAT,
    "user-connected": Kind.CONNECTED,
}


def events_with(more: Mapping[str, str]) -> dict[str, Kind]:
    """The events of both dialects and `more`: name to kind, an empty kind for one that is to be ignored.

    Raises ValueError for a kind that no event has.
    """
    kinds = {kind.value: kind for kind in EVENTS.values() if kind is not Kind.STILL_HERE}  # that one has to be signed
    named = dict(EVENTS)
    for name, kind in more.items():
        if not kind:
            named.pop(name, None)
        elif kind in kinds:
            named[name] = kinds[kind]
        else:
            raise ValueError(f"{kind} is none of {', '.join(kinds)}")
    return named


def from_socket(
    event: str,
    payload: object,
    received_ms: int,
    *,
    can_return: bool,
    events: Mapping[str, Kind] = EVENTS,
    says_trust: bool = False,
) -> Hint:
    """The hint in a Socket.IO event of either dialect, or of `events` instead. Raises Refused.

    `can_return` says whether this backend has shown that it reports a participant's return; `says_trust`, that it is
    the bundled one, whose every event carries `trust`: what carries none was said by nobody we know.
    """
    kind = events.get(event) if isinstance(event, str) else None
    if kind is None:
        raise Refused("unknown-event", "not an event of either dialect")
    # Of the two dialects only the observed one calls the room `requestId`; of a third one nothing is known.
    spare = "requestId" if event in (READY, ENDED) or event not in EVENTS else None
    hint = _hint(kind, payload, received_ms, Source.SOCKET, can_return=can_return, spare_id=spare)
    claimed = hint.payload.get("trust", ANONYMOUS if says_trust else None)
    return replace(hint, trust=_at_most(hint.trust, claimed))


def from_post(body: object, received_ms: int, source: Source) -> Hint:
    """The hint in a post of the signalling server. Raises Refused.

    The server that posts a loss also posts returns and heartbeats, so a loss it reports can be taken back. What a
    page put into it as `trust` is no claim of the server's: how it came in decides.
    """
    fields = _object(body)
    named = fields.get("type")
    kind = POST_TYPES.get(named) if isinstance(named, str) else None
    if kind is None:
        raise Refused("unknown-type", f"type is none of {', '.join(POST_TYPES)}")
    return _hint(kind, body, received_ms, source, can_return=True)


def from_mapping(room: object, fields: object, received_ms: int) -> Hint:
    """The hint in a Redis hash `session:<room>`. Raises Refused, also when it names no address."""
    said = measured(fields)
    name, session_id = room_of(room)
    student, tutor = as_address(said.get("studentAddress")), as_address(said.get("tutorAddress"))
    if student is None and tutor is None:
        raise Refused("no-address", "the mapping names neither student nor tutor")
    return Hint(
        kind=Kind.MAPPING,
        source=Source.REDIS,
        trust=TRUST_OF[Source.REDIS],
        received_ms=received_ms,
        room=name,
        session_id=session_id,
        student=student,
        tutor=tutor,
        said_ms=as_epoch_ms(said.get("startTime")),
        payload=said,
    )


def room_of(value: object) -> tuple[str, int | None]:
    """The room's name, and the chain id that it may be. Raises Refused."""
    match value:
        case None:
            raise Refused("no-session-id", "sessionId is missing")
        case bool():
            raise Refused("bad-session-id", "sessionId is a boolean")
        case float() if not (value.is_integer() and abs(value) < 2**53):
            raise Refused("bad-session-id", "sessionId is not a whole number")
        case int() | float():
            if value < 0:
                raise Refused("bad-session-id", "sessionId is negative")
            if value >= 10**MAX_ROOM_CHARS:
                raise Refused("bad-session-id", f"sessionId is longer than {MAX_ROOM_CHARS} characters")
            name = str(int(value))
        case str():
            name = value.strip()
        case _:
            raise Refused("bad-session-id", "sessionId is neither text nor a number")
    if not name:
        raise Refused("no-session-id", "sessionId is empty")
    if len(name) > MAX_ROOM_CHARS:
        raise Refused("bad-session-id", f"sessionId is longer than {MAX_ROOM_CHARS} characters")
    if not name.isprintable():
        raise Refused("bad-session-id", "sessionId has unprintable characters")
    return name, _chain_id(name)


def _chain_id(name: str) -> int | None:
    # Only as JSON would write it: `007` is somebody's room, not session 7. Ids start at 1.
    if not (name.isascii() and name.isdigit()) or name[0] == "0":
        return None
    number = int(name)
    return number if number <= MAX_CHAIN_ID else None


def _object(payload: object) -> dict[str, Any]:
    if not isinstance(payload, dict) or not all(isinstance(key, str) for key in payload):
        raise Refused("not-an-object", "the payload is not a JSON object")
    return payload


def measured(payload: object) -> dict[str, Any]:
    """The payload, if it is a JSON object of at most MAX_PAYLOAD_BYTES. Raises Refused."""
    fields = _object(payload)
    try:
        # surrogatepass: a lone surrogate is legal JSON, and refusing it here would say nothing useful.
        text = json.dumps(fields, allow_nan=False, ensure_ascii=False).encode("utf-8", "surrogatepass")
    except (TypeError, ValueError, RecursionError, OverflowError):
        raise Refused("not-json", "the payload holds what JSON can't") from None
    if len(text) > MAX_PAYLOAD_BYTES:
        raise Refused("oversized", f"the payload is larger than {MAX_PAYLOAD_BYTES} bytes")
    return fields


def _hint(
    kind: Kind, payload: object, received_ms: int, source: Source, *, can_return: bool, spare_id: str | None = None
) -> Hint:
    fields = measured(payload)
    named = fields.get("sessionId")
    if named is None and spare_id is not None:
        named = fields.get(spare_id)
    room, session_id = room_of(named)
    try:
        said = _SHAPES[kind].model_validate(fields)
    except ValidationError:
        raise Refused("bad-shape", "the payload's fields can't be read") from None
    student, tutor = said.addresses()
    role = _role(said.who(), student, tutor)
    if isinstance(said, _About) and role is not None:
        student, tutor = _completed(role, as_address(said.user_address), student, tutor)
    return Hint(
        kind=kind,
        source=source,
        trust=TRUST_OF[source],
        received_ms=received_ms,
        room=room,
        session_id=session_id,
        student=student,
        tutor=tutor,
        role=role,
        said_ms=said.said_ms,
        can_return=can_return and kind is Kind.DISCONNECTED,
        payload=_with_sane_count(fields, source) if kind is Kind.HEARTBEAT else fields,
    )


def _at_most(trust: Trust, claimed: object) -> Trust:
    """This trust, or less if the message says so. A claim that we don't know is worth nothing."""
    if claimed is None:
        return trust
    return min(trust, _CLAIMS.get(claimed, Trust.ANONYMOUS) if isinstance(claimed, str) else Trust.ANONYMOUS)


def _role(words: Iterable[str | None], student: Address | None, tutor: Address | None) -> Role | None:
    for word in words:
        if word is None:
            continue
        if word.lower() in (Role.STUDENT, Role.TUTOR):
            return Role(word.lower())
        address = as_address(word)
        # One person may be both, and then the address tells nothing.
        if address is not None and student != tutor:
            if address == student:
                return Role.STUDENT
            if address == tutor:
                return Role.TUTOR
    return None


def _completed(
    role: Role, address: Address | None, student: Address | None, tutor: Address | None
) -> tuple[Address | None, Address | None]:
    """Fills in the one address that the message gives as `userAddress` of the role it names."""
    if role is Role.STUDENT:
        return student or address, tutor
    return student, tutor or address


def _with_sane_count(fields: dict[str, Any], source: Source) -> dict[str, Any]:
    if "count" not in fields:
        return fields
    # Only the gateway coalesces. A post is one heartbeat, whatever the page put into it.
    count = beat_count(fields) if source is Source.SOCKET else 1
    return {**fields, "count": count}
