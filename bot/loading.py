"""Reading the settings, and saying what is wrong with them.

Promises: an error names the setting and the remedy in one line, and never a value.
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from bot.errors import Misconfigured
from bot.settings import Settings


def load() -> Settings:
    """Settings from the environment and `.env`. Raises Misconfigured, one line naming the setting and the remedy."""
    try:
        return Settings()
    except ValidationError as error:
        raise Misconfigured(f"{in_words(error)}. Mend it in the environment or in .env") from None
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(_unreadable(error)) from None


def load_usable() -> tuple[Settings, dict[str, str]]:
    """The same with whatever can't be left at its default, and what is wrong with each of those, by name."""
    wrong: dict[str, str] = {}
    given: dict[str, Any] = {}
    while True:
        try:
            return Settings(**given), wrong
        except ValidationError as error:
            found = each_in_words(error)
            given |= {name.lower(): Settings.model_fields[name.lower()].default for name in found}
        except (OSError, UnicodeDecodeError) as error:
            found = {".env": _unreadable(error)}
            given["_env_file"] = None
        wrong |= found


def _unreadable(error: Exception) -> str:
    return f".env can't be read ({type(error).__name__}): it has to be UTF-8 text that this user may read"


def in_words(error: ValidationError) -> str:
    """What is wrong with the first setting that is, in one line, without its value."""
    return next(iter(each_in_words(error).values()))


def each_in_words(error: ValidationError) -> dict[str, str]:
    """What is wrong with each setting that is, by name."""
    found = {}
    for one in error.errors(include_input=False, include_url=False):
        text = one["msg"].removeprefix("Value error, ")
        if one["loc"]:
            name = str(one["loc"][0]).upper()
            found[name] = f"{name} {text[0].lower()}{text[1:]}"
        else:
            found["NEXT_PUBLIC_BACKEND_URL"] = text  # the one thing that concerns two
    return found
