"""Which of a nudge's texts a page gets: the one that its browser likes best (`Accept-Language`)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

MAX_HEADER_CHARS = 500


def spoken(message: dict[str, Any], header: str | None) -> dict[str, Any]:
    """The message in the reader's language, if its sender left that open, and with one text only."""
    texts = message.get("texts")
    if not isinstance(texts, dict):
        return message
    alone = {name: value for name, value in message.items() if name != "texts"}
    best = preferred(header or "", texts)
    return alone if best is None else alone | {"text": texts[best], "locale": best}


def preferred(header: str, offered: Collection[str]) -> str | None:
    """The language of `offered` that an `Accept-Language` header likes best, None when it names none of them."""
    wanted: list[tuple[float, int, str]] = []
    for place, part in enumerate(header[:MAX_HEADER_CHARS].split(",")):
        tag, _, parameter = part.partition(";")
        language = tag.strip().replace("_", "-").partition("-")[0].lower()
        quality = _quality(parameter)
        if language in offered and quality > 0:
            wanted.append((-quality, place, language))
    return min(wanted)[2] if wanted else None


def _quality(parameter: str) -> float:
    name, _, value = parameter.strip().partition("=")
    if name != "q":
        return 1.0
    try:
        return float(value)
    except ValueError:
        return 0.0
