"""What a nudge says.

Promises: pure; amounts are base units with 6 decimals shown as PYUSD; the text says why, what it costs, and what
happens next and when. Nothing in it is secret.
"""

from __future__ import annotations

from dataclasses import dataclass

from bot.domain.facts import SessionKey

DECIMALS = 6

WHY = {
    "ended": "The lesson was reported as ended.",
    "contradiction": "The lesson was reported as ended, but somebody still seems to be in it.",
    "silence": "Nothing has been heard of the call for a while.",
    "timeout": "The backend lost the call.",
    "drained": "The student's balance is (nearly) used up.",
    "anonymous-end": "Somebody said that the lesson has ended.",
    "told": "A participant or the operator asked to end it.",
    "orphan": "Nothing was ever heard of the call.",
}
LOST = "A participant's connection was lost."


def why(reason: str) -> str:
    """The rule's name in words."""
    return WHY.get(reason, LOST)


@dataclass(frozen=True, slots=True)
class Message:
    """A nudge, ready for any channel. Amounts in base units, times in epoch ms or seconds as named."""

    id: str
    key: SessionKey
    room: str | None
    reason: str
    ask: bool
    elapsed_s: int
    cost: int | None
    per_minute: int | None
    due_ms: int | None
    link: str | None

    def text(self, now_ms: int) -> str:
        """The message in English."""
        lines = [why(self.reason)]
        running = f"Session {self.key.session_id} has run for {duration(self.elapsed_s)} and is still being billed"
        if self.per_minute is not None and self.cost is not None:
            running += f", {pyusd(self.per_minute)} PYUSD a minute, {pyusd(self.cost)} PYUSD so far"
        lines.append(running + ".")
        if self.ask:
            lines.append("Is the lesson still going on? If not, please end it and pay.")
        elif self.due_ms is not None:
            left = duration(max(0, self.due_ms - now_ms) // 1000)
            lines.append(f"Please end it and pay; in {left} the keeper ends it.")
        else:
            lines.append("Please end it and pay.")
        if self.link:
            lines.append(self.link)
        return " ".join(lines)

    def payload(self, now_ms: int) -> dict[str, object]:
        """The message as JSON, for channels that carry it to a program."""
        return {
            "id": self.id,
            "sessionId": self.key.session_id,
            "room": self.room,
            "to": [self.key.student, self.key.tutor],
            "studentAddress": self.key.student,
            "tutorAddress": self.key.tutor,
            "kind": "ask" if self.ask else "pay",
            "reason": self.reason,
            "elapsedSeconds": self.elapsed_s,
            "cost": None if self.cost is None else str(self.cost),
            "costPerMinute": None if self.per_minute is None else str(self.per_minute),
            "endsAt": self.due_ms,
            "text": self.text(now_ms),
            "link": self.link,
        }


def duration(seconds: int) -> str:
    """`1 h 4 min`, `12 min 4 s`, `9 s`."""
    hours, rest = divmod(seconds, 3600)
    minutes, left = divmod(rest, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {left} s" if minutes else f"{left} s"


def pyusd(amount: int) -> str:
    """Base units as PYUSD: `0.724`."""
    whole, part = divmod(amount, 10**DECIMALS)
    return f"{whole}.{part:06d}".rstrip("0").ljust(len(str(whole)) + 4, "0")
