"""What a nudge says, as data: words and languages are `bot.nudges.texts`.

Promises: pure; amounts are base units, times epoch ms or seconds as named. Nothing in a `Message` is secret: what is
(a participant's own link) is in the `Note` that goes to that participant alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from bot.domain.address import Address
from bot.domain.facts import Role, SessionKey
from bot.nudges import texts


class Purpose(StrEnum):
    """What a message wants."""

    PAY = "pay"  # end the session and pay
    ASK = "ask"  # say whether the lesson goes on
    BILL = "bill"  # nothing: it is over, and this is what it has cost


@dataclass(frozen=True, slots=True)
class Message:
    """What there is to say to both participants."""

    action_id: int
    key: SessionKey
    purpose: Purpose
    reason: str  # the rule's name, as decided
    room: str | None
    elapsed_s: int
    cost: int | None  # so far; in a bill: what was paid
    per_minute: int | None = None
    due_ms: int | None = None  # when the keeper ends it, if it will
    tx_hash: str | None = None  # of the end, in a bill
    page: str | None = None  # the session's page

    @property
    def id(self) -> str:
        """The same whenever the same is said again, and never that of something else."""
        return f"{'bill' if self.purpose is Purpose.BILL else 'nudge'}-{self.key.session_id}-{self.action_id}"

    @property
    def answerable(self) -> bool:
        """Would "still in the lesson" be an answer? Not to a bill, a used-up balance or somebody's order."""
        return self.purpose is not Purpose.BILL and self.reason not in ("drain-warning", "drained", "told")

    def recipients(self) -> tuple[tuple[Address, Role], ...]:
        """Both participants; one who teaches himself is told once."""
        student, tutor = (self.key.student, Role.STUDENT), (self.key.tutor, Role.TUTOR)
        return (student,) if self.key.student == self.key.tutor else (student, tutor)


@dataclass(frozen=True, slots=True)
class Note:
    """A message on its way to one participant. `id` is its idempotency key on every channel.

    `locale` is what this reader chose, None if that isn't known. `link` is this participant's own, to answer a
    question by; it is set only on channels that nobody else reads.
    """

    id: str
    message: Message
    to: Address
    role: Role
    locale: str | None
    link: str | None
    now_ms: int

    @property
    def subject(self) -> str:
        return texts.subject(self.message.key.session_id, self.locale)

    @property
    def text(self) -> str:
        return self._in(self.locale)

    def payload(self) -> dict[str, object]:
        """The note as JSON, for channels that carry it to a program.

        `text` is in the reader's language. Where that isn't known it is English, and `texts` has all there are, for
        a program that knows better: a browser does.
        """
        message = self.message
        said: dict[str, object] = {
            "id": self.id,
            "sessionId": message.key.session_id,
            "room": message.room,
            "to": [self.to],
            "role": self.role.value,
            "studentAddress": message.key.student,
            "tutorAddress": message.key.tutor,
            "kind": message.purpose.value,
            "reason": message.reason,
            "elapsedSeconds": message.elapsed_s,
            "cost": None if message.cost is None else str(message.cost),
            "costPerMinute": None if message.per_minute is None else str(message.per_minute),
            "endsAt": message.due_ms,
            "transactionHash": message.tx_hash,
            "text": self.text,
            "locale": self.locale or texts.DEFAULT,
            "page": message.page,
            "link": self.link or message.page,
        }
        return said if self.locale else said | {"texts": self._in_all()}

    def _in_all(self) -> Mapping[str, str]:
        return {locale: self._in(locale) for locale in texts.LOCALES}

    def _in(self, locale: str | None) -> str:
        message = self.message
        if message.purpose is Purpose.BILL:
            return texts.bill(
                locale,
                session_id=message.key.session_id,
                elapsed_s=message.elapsed_s,
                paid=message.cost or 0,
                tx_hash=message.tx_hash,
                page=message.page,
            )
        return texts.nudge(
            locale,
            reason=message.reason,
            asks=message.purpose is Purpose.ASK,
            session_id=message.key.session_id,
            elapsed_s=message.elapsed_s,
            cost=message.cost,
            per_minute=message.per_minute,
            due_ms=message.due_ms,
            now_ms=self.now_ms,
            answer=self.link,
            page=message.page,
        )
