"""The wire module turns whatever arrives into a hint or a refusal, never anything else."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.domain.address import checksum
from bot.domain.facts import Hint, Kind, Role, Source, Trust
from bot.feeds import wire

NOW_MS = 1_790_000_000_000
STUDENT = checksum("0x94c5" + "a1" * 18)
TUTOR = checksum("0x48c8" + "b2" * 18)
BOTH = {"studentAddress": STUDENT, "tutorAddress": TUTOR}


def from_socket(event: str, payload: object, can_return: bool = False) -> Hint:
    return wire.from_socket(event, payload, NOW_MS, can_return=can_return)


def from_post(body: object, source: Source = Source.WEBHOOK) -> Hint:
    return wire.from_post(body, NOW_MS, source)


def refusal(call: Any, *args: Any) -> str:
    with pytest.raises(wire.Refused) as refused:
        call(*args)
    return refused.value.reason


# The shapes of the protocol


def test_from_socket__documented_session_ended__ended_by_the_tutor() -> None:
    payload = {"sessionId": "req_qn8g", **BOTH, "endedBy": "tutor", "reason": "hangup"}
    hint = from_socket("webrtc:session-ended", payload)
    assert (hint.kind, hint.source, hint.trust) == (Kind.ENDED, Source.SOCKET, Trust.CONFIGURED)
    assert (hint.room, hint.session_id) == ("req_qn8g", None)
    assert (hint.student, hint.tutor, hint.role) == (STUDENT, TUTOR, Role.TUTOR)
    assert hint.received_ms == NOW_MS
    assert hint.payload == payload


def test_from_socket__documented_user_disconnected__names_the_role() -> None:
    payload = {"sessionId": "r", "disconnectedUser": "student", "reason": "connection-lost"}
    hint = from_socket("webrtc:user-disconnected", payload)
    assert (hint.kind, hint.role, hint.can_return) == (Kind.DISCONNECTED, Role.STUDENT, False)


def test_from_socket__disconnected_by_a_source_that_reports_returns__can_return() -> None:
    assert from_socket("webrtc:user-disconnected", {"sessionId": "r"}, can_return=True).can_return


def test_from_socket__ended_by_a_source_that_reports_returns__cannot_return() -> None:
    assert not from_socket("webrtc:session-ended", {"sessionId": "r"}, can_return=True).can_return


def test_from_socket__documented_heartbeat_timeout__times_stay_in_the_payload() -> None:
    payload = {"sessionId": "r", "lastHeartbeat": NOW_MS - 60_000, "timeoutDuration": 60_000}
    hint = from_socket("webrtc:heartbeat-timeout", payload)
    assert (hint.kind, hint.said_ms, hint.payload) == (Kind.TIMEOUT, None, payload)


def test_from_socket__user_connected__connected_with_role() -> None:
    hint = from_socket("webrtc:user-connected", {"sessionId": "r", "userRole": "tutor"})
    assert (hint.kind, hint.role) == (Kind.CONNECTED, Role.TUTOR)


def test_from_socket__coalesced_heartbeat__count_is_kept() -> None:
    hint = from_socket("webrtc:session-heartbeat", {"sessionId": "r", "count": 7})
    assert (hint.kind, hint.payload["count"], wire.beat_count(hint.payload)) == (Kind.HEARTBEAT, 7, 7)


def test_from_socket__observed_session_ready__room_and_addresses() -> None:
    payload = {
        "requestId": "req_qn8g",
        "sessionId": "req_qn8g",
        "studentAddress": STUDENT.lower(),
        "tutorAddress": TUTOR.upper(),
        "studentUrl": "x",
        "tutorUrl": "y",
        "languageId": 1,
    }
    hint = from_socket("session:ready", payload)
    assert (hint.kind, hint.room, hint.student, hint.tutor) == (Kind.READY, "req_qn8g", STUDENT, TUTOR)


def test_from_socket__session_ready_with_request_id_only__request_id_is_the_room() -> None:
    assert from_socket("session:ready", {"requestId": "req_1", **BOTH}).room == "req_1"


def test_from_socket__documented_event_with_request_id_only__refused() -> None:
    assert refusal(from_socket, "webrtc:session-ended", {"requestId": "req_1"}) == "no-session-id"


def test_from_socket__observed_session_ended__number_is_a_chain_id() -> None:
    payload = {
        "sessionId": 5,
        "duration": 62,
        "cost": 0.062,
        "transactionHash": "0x4880",
        **BOTH,
        "endedBy": "tutor",
        "roomDestroyed": True,
    }
    hint = from_socket("session:ended", payload)
    assert (hint.kind, hint.room, hint.session_id, hint.role) == (Kind.ENDED, "5", 5, Role.TUTOR)


def test_from_socket__session_ended_when_the_chain_was_unreadable__request_id_is_the_room() -> None:
    hint = from_socket("session:ended", {"sessionId": "req_qn8g", "transactionHash": None, "endedBy": "system"})
    assert (hint.room, hint.session_id, hint.role) == ("req_qn8g", None, None)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (Kind.CONNECTED, {"type": "user-connected", "sessionId": "R", "userRole": "student", "timestamp": NOW_MS}),
        (Kind.HEARTBEAT, {"type": "session-heartbeat", "sessionId": "R", "timestamp": NOW_MS, "foo": [1, {}]}),
        (Kind.ENDED, {"type": "session-ended", "sessionId": "R", "endedBy": "student", "timestamp": NOW_MS}),
        (
            Kind.DISCONNECTED,
            {"type": "user-disconnected", "sessionId": "R", "userRole": "user", "reason": "connection-closed"},
        ),
    ],
)
def test_from_post__each_type_of_the_signalling_server__its_kind(kind: Kind, body: dict[str, Any]) -> None:
    hint = from_post(body)
    assert (hint.kind, hint.source, hint.trust, hint.room) == (kind, Source.WEBHOOK, Trust.CONFIGURED, "R")
    assert hint.said_ms == body.get("timestamp")


def test_from_post__session_object__addresses_are_taken_from_it() -> None:
    session = {"startTime": 1, "durationSeconds": 2, "tutorAddress": TUTOR, "studentAddress": STUDENT, "language": 1}
    hint = from_post({"type": "session-ended", "sessionId": "R", "userAddress": STUDENT, "session": session})
    assert (hint.student, hint.tutor, hint.role) == (STUDENT, TUTOR, Role.STUDENT)


def test_from_post__loss__can_be_taken_back() -> None:
    assert from_post({"type": "user-disconnected", "sessionId": "R"}).can_return


def test_from_post__role_and_own_address_only__fills_in_that_address() -> None:
    hint = from_post({"type": "session-ended", "sessionId": "R", "endedBy": "tutor", "userAddress": TUTOR})
    assert (hint.student, hint.tutor) == (None, TUTOR)


# Odd optional fields cost nothing


@pytest.mark.parametrize(
    "odd", [None, 5, True, [], {}, "", "user", "0x12", "0x" + "g" * 40, "x" * 5000, "0x" + "0" * 40]
)
def test_from_socket__odd_addresses__are_none(odd: object) -> None:
    hint = from_socket("session:ready", {"sessionId": "r", "studentAddress": odd, "tutorAddress": odd})
    assert (hint.room, hint.student, hint.tutor) == ("r", None, None)


@pytest.mark.parametrize("odd", [None, 5, True, [], "text", ["studentAddress"]])
def test_from_post__odd_session_object__is_ignored(odd: object) -> None:
    assert from_post({"type": "session-ended", "sessionId": "R", "session": odd}).tutor is None


@pytest.mark.parametrize(
    ("said", "role"),
    [
        ("student", Role.STUDENT),
        ("TUTOR", Role.TUTOR),
        (" tutor ", Role.TUTOR),
        ("user", None),
        ("system", None),
        (STUDENT, Role.STUDENT),
        (TUTOR.lower(), Role.TUTOR),
        ("0x" + "cc" * 20, None),
        (5, None),
        (None, None),
        (["student"], None),
    ],
)
@pytest.mark.parametrize(
    ("event", "field"), [("webrtc:session-ended", "endedBy"), ("webrtc:user-disconnected", "disconnectedUser")]
)
def test_from_socket__who_is_meant__role_word_or_address(event: str, field: str, said: object, role: Role) -> None:
    assert from_socket(event, {"sessionId": "r", **BOTH, field: said}).role == role


def test_from_socket__address_of_one_who_is_student_and_tutor__no_role() -> None:
    payload = {"sessionId": "r", "studentAddress": TUTOR, "tutorAddress": TUTOR, "endedBy": TUTOR}
    assert from_socket("session:ended", payload).role is None


def test_from_socket__ended_by_system_about_a_student__no_role() -> None:
    assert from_socket("session:ended", {"sessionId": 5, "endedBy": "system", "userRole": "student"}).role is None


def test_from_post__ended_by_user_with_address__role_of_the_address() -> None:
    hint = from_post({"type": "session-ended", "sessionId": "R", "endedBy": "user", "userAddress": TUTOR, **BOTH})
    assert hint.role is Role.TUTOR


@pytest.mark.parametrize(
    ("timestamp", "said_ms"),
    [
        (NOW_MS, NOW_MS),
        (NOW_MS // 1000, NOW_MS),
        (NOW_MS / 1000 + 0.5, NOW_MS + 500),
        (str(NOW_MS), NOW_MS),
        ("2026-01-02T03:04:05Z", 1_767_323_045_000),
        ("2026-01-02T03:04:05.250+00:00", 1_767_323_045_250),
        ("2026-01-02T03:04:05", 1_767_323_045_000),
        (None, None),
        ("", None),
        ("soon", None),
        (0, None),
        (-NOW_MS, None),
        (True, None),
        ([], None),
        ({}, None),
        (10**30, None),
        ("1e999", None),
        ("9" * 5000, None),
        ("0001-01-01", None),
    ],
)
def test_from_post__timestamp__said_where_it_can_be_read_and_never_trusted(timestamp: object, said_ms: int) -> None:
    hint = from_post({"type": "session-heartbeat", "sessionId": "R", "timestamp": timestamp})
    assert (hint.said_ms, hint.received_ms) == (said_ms, NOW_MS)


@pytest.mark.parametrize(
    ("said", "count"), [(1, 1), (1000, 1000), (10**9, 1000), (0, 1), (-3, 1), (True, 1), ("7", 1), (None, 1), ([], 1)]
)
def test_from_socket__heartbeat_count__is_between_1_and_1000(said: object, count: int) -> None:
    hint = from_socket("webrtc:session-heartbeat", {"sessionId": "r", "count": said})
    assert hint.payload["count"] == wire.beat_count(hint.payload) == count


def test_from_post__heartbeat_of_a_page_that_counts_itself__is_one() -> None:
    hint = from_post({"type": "session-heartbeat", "sessionId": "R", "count": 500})
    assert wire.beat_count(hint.payload) == 1


def test_beat_count__without_a_count__is_1() -> None:
    assert wire.beat_count({}) == 1


# Ids


@pytest.mark.parametrize(
    ("given_id", "room", "session_id"),
    [
        ("req_1", "req_1", None),
        (" req_1 ", "req_1", None),
        (5, "5", 5),
        ("5", "5", 5),
        (5.0, "5", 5),
        (0, "0", None),
        ("007", "007", None),
        ("٣", "٣", None),
        (2**63 - 1, str(2**63 - 1), 2**63 - 1),
        (2**63, str(2**63), None),
        (str(2**63), str(2**63), None),
        ("-5", "-5", None),
        ("r" * 200, "r" * 200, None),
        ("комната 5", "комната 5", None),
    ],
)
def test_room_of__usable_ids__room_and_perhaps_chain_id(given_id: object, room: str, session_id: int | None) -> None:
    assert wire.room_of(given_id) == (room, session_id)


@pytest.mark.parametrize(
    ("given_id", "reason"),
    [
        (None, "no-session-id"),
        ("", "no-session-id"),
        ("   ", "no-session-id"),
        (True, "bad-session-id"),
        (False, "bad-session-id"),
        ([], "bad-session-id"),
        (["r"], "bad-session-id"),
        ({"id": 1}, "bad-session-id"),
        (-1, "bad-session-id"),
        (-1.0, "bad-session-id"),
        (1.5, "bad-session-id"),
        (float("inf"), "bad-session-id"),
        (float("nan"), "bad-session-id"),
        (1e300, "bad-session-id"),
        (10**200, "bad-session-id"),
        pytest.param(10**5000, "bad-session-id", id="more digits than str() takes"),
        ("r" * 201, "bad-session-id"),
        ("a\x00b", "bad-session-id"),
        ("a\nb", "bad-session-id"),
        ("\ud800", "bad-session-id"),
        (b"r", "bad-session-id"),
    ],
)
def test_room_of__unusable_ids__refused(given_id: object, reason: str) -> None:
    assert refusal(wire.room_of, given_id) == reason


# Refusals of the whole


@pytest.mark.parametrize("payload", [None, 5, True, "text", [], [{"sessionId": "r"}], {1: 2}])
def test_from_socket__payload_is_no_object__refused(payload: object) -> None:
    assert refusal(from_socket, "session:ready", payload) == "not-an-object"


@pytest.mark.parametrize("body", [None, 5, True, "text", [], [{"type": "session-ended"}]])
def test_from_post__body_is_no_object__refused(body: object) -> None:
    assert refusal(from_post, body) == "not-an-object"


@pytest.mark.parametrize("event", ["", "chat:message", "student:in-room", "Session:Ready", None, 5])
def test_from_socket__unknown_event__refused(event: Any) -> None:
    assert refusal(from_socket, event, {"sessionId": "r"}) == "unknown-event"


@pytest.mark.parametrize("named", [None, "", "session-started", "SESSION-ENDED", 5, True, ["session-ended"], {}])
def test_from_post__unknown_type__refused(named: object) -> None:
    assert refusal(from_post, {"type": named, "sessionId": "R"}) == "unknown-type"


def test_from_socket__payload_of_more_than_16_kib__refused() -> None:
    assert refusal(from_socket, "session:ready", {"sessionId": "r", "x": "y" * 16_384}) == "oversized"


def test_from_socket__payload_counted_in_bytes_not_characters__refused() -> None:
    assert refusal(from_socket, "session:ready", {"sessionId": "r", "x": "ж" * 9_000}) == "oversized"


def test_from_socket__payload_of_just_under_16_kib__taken() -> None:
    assert from_socket("session:ready", {"sessionId": "r", "x": "y" * 16_000}).room == "r"


@pytest.mark.parametrize("value", [b"bytes", float("nan"), float("-inf"), pytest.param(10**5000, id="huge"), {1, 2}])
def test_from_socket__what_json_cannot_hold__refused(value: object) -> None:
    assert refusal(from_socket, "session:ready", {"sessionId": "r", "x": value}) == "not-json"


def test_from_socket__nested_beyond_reason__refused() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    reason = refusal(from_socket, "session:ready", {"sessionId": "r", "x": deep})
    assert reason in ("not-json", "oversized")
    while deep:  # take it apart by hand: freeing it would recurse as deep
        deep = deep.pop()


def test_refused__text__never_quotes_the_payload() -> None:
    with pytest.raises(wire.Refused) as refused:
        from_socket("session:ready", {"sessionId": ["hunter2"], "password": "hunter2"})
    assert "hunter2" not in str(refused.value)


# Trust


@pytest.mark.parametrize(
    ("source", "claim", "trust"),
    [
        (Source.WEBHOOK, None, Trust.CONFIGURED),
        (Source.WEBHOOK, "anonymous", Trust.CONFIGURED),
        (Source.WEBHOOK, "signed", Trust.CONFIGURED),
        (Source.WEBHOOK, ["secret"], Trust.CONFIGURED),
        (Source.OPEN_WEBHOOK, None, Trust.ANONYMOUS),
        (Source.OPEN_WEBHOOK, "secret", Trust.ANONYMOUS),
        (Source.OPEN_WEBHOOK, "signed", Trust.ANONYMOUS),
    ],
)
def test_from_post__claimed_trust__is_no_claim_of_the_servers(source: Source, claim: object, trust: Trust) -> None:
    body = {"type": "session-ended", "sessionId": "R"}
    assert from_post(body if claim is None else {**body, "trust": claim}, source).trust is trust


@pytest.mark.parametrize(
    ("claim", "trust"),
    [
        (None, Trust.ANONYMOUS),
        ("anonymous", Trust.ANONYMOUS),
        ("secret", Trust.CONFIGURED),
        ("signed", Trust.ANONYMOUS),
        ("proven", Trust.ANONYMOUS),
        (3, Trust.ANONYMOUS),
        (["secret"], Trust.ANONYMOUS),
    ],
)
def test_from_socket__of_the_gateway__its_trust_and_never_the_sockets_row(claim: object, trust: Trust) -> None:
    said = {"sessionId": "R"} | ({} if claim is None else {"trust": claim})
    hint = wire.from_socket("webrtc:session-ended", said, NOW_MS, can_return=False, says_trust=True)
    assert hint.trust is trust


@pytest.mark.parametrize(("claim", "trust"), [(None, Trust.CONFIGURED), ("anonymous", Trust.ANONYMOUS)])
def test_from_socket__of_another_backend__the_sockets_row_or_less(claim: object, trust: Trust) -> None:
    said = {"sessionId": "R"} | ({} if claim is None else {"trust": claim})
    assert from_socket("webrtc:session-ended", said).trust is trust


@pytest.mark.parametrize("trust", [Trust.ANONYMOUS, Trust.CONFIGURED])
def test_claim_of__each_level_the_gateway_has__reads_back_as_itself(trust: Trust) -> None:
    hint = from_socket("webrtc:session-ended", {"sessionId": "R", "trust": wire.claim_of(trust)})
    assert hint.trust is trust


# Mappings


def test_from_mapping__documented_hash__hint_with_mapping_trust() -> None:
    fields = {
        "sessionId": "req_1",
        "studentAddress": STUDENT.lower(),
        "tutorAddress": TUTOR.lower(),
        "languageId": "1",
        "startTime": str(NOW_MS),
    }
    hint = wire.from_mapping("req_1", fields, NOW_MS + 5)
    assert (hint.kind, hint.source, hint.trust) == (Kind.MAPPING, Source.REDIS, Trust.MAPPING)
    assert (hint.room, hint.student, hint.tutor, hint.said_ms) == ("req_1", STUDENT, TUTOR, NOW_MS)


def test_from_mapping__one_address_only__is_enough() -> None:
    assert wire.from_mapping("5", {"tutorAddress": TUTOR}, NOW_MS).session_id == 5


@pytest.mark.parametrize("fields", [{}, {"studentAddress": "nobody"}, {"studentAddress": "", "tutorAddress": ""}])
def test_from_mapping__no_address__refused(fields: dict[str, str]) -> None:
    assert refusal(wire.from_mapping, "r", fields, NOW_MS) == "no-address"


# Totality

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
FIELDS = st.sampled_from(
    """type sessionId requestId studentAddress tutorAddress endedBy disconnectedUser userRole userAddress timestamp
    session count trust reason lastHeartbeat""".split()
)
LIKELY = st.sampled_from([STUDENT, TUTOR, "student", "tutor", "system", "r", "5", 5, "session-ended", "secret", NOW_MS])
PAYLOADS = JSON | st.dictionaries(FIELDS, LIKELY | JSON)


def check(hint: Hint) -> None:
    assert hint.room
    assert len(hint.room) <= wire.MAX_ROOM_CHARS
    assert hint.session_id is None or 0 < hint.session_id < 2**63
    for address in (hint.student, hint.tutor):
        assert address is None or address == checksum(address)
    assert hint.role in (None, Role.STUDENT, Role.TUTOR)
    assert hint.trust <= Trust.CONFIGURED
    assert hint.received_ms == NOW_MS
    json.dumps(dict(hint.payload), allow_nan=False)


@given(event=st.sampled_from(sorted(wire.EVENTS)) | st.text(), payload=PAYLOADS, can_return=st.booleans())
def test_from_socket__arbitrary_json__hint_or_refused(event: str, payload: object, can_return: bool) -> None:
    with contextlib.suppress(wire.Refused):
        check(from_socket(event, payload, can_return))


@given(body=PAYLOADS, named=st.sampled_from(sorted(wire.POST_TYPES)))
def test_from_post__arbitrary_json__hint_or_refused(body: object, named: str) -> None:
    for one in (body, {**body, "type": named} if isinstance(body, dict) else body):
        with contextlib.suppress(wire.Refused):
            check(from_post(one))


@given(room=JSON, fields=PAYLOADS)
def test_from_mapping__arbitrary_values__hint_or_refused(room: object, fields: object) -> None:
    with contextlib.suppress(wire.Refused):
        check(wire.from_mapping(room, fields, NOW_MS))
