"""The contacts file: how participants can be reached outside of the lesson's page, and in which language.

    # address                                    language  Apprise URLs
    0x70997970C51812dc3A010C7d01b50e0d17dc79C8   de        mailto://user:password@example.org
    0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC             tgram://bottoken/chatid  mailto://…

Promises: what can't be right is refused with the number of its line and what to do, never quoting a URL; a file that
others may read is refused, since the URLs are passwords. A change is taken up at the next look. A change for the worse
isn't: the contacts stay as they were, `on_refused` hears why, once, and `on_mended` when that is over.
Doesn't promise that a URL leads anywhere: Apprise says only whether it is one.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from bot.domain.address import Address, checksum
from bot.errors import Misconfigured
from bot.nudges import texts

log = structlog.get_logger("nudges")

MAX_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Contact:
    """`locale` is None where none was chosen; `urls` are secrets."""

    locale: str | None = None
    urls: tuple[str, ...] = field(default=(), repr=False)


class Contacts:
    """The file at `path`, as it is now. `hide` is told of every URL before anything can log it."""

    def __init__(
        self,
        path: Path,
        *,
        hide: Callable[[str], None] = lambda _: None,
        on_refused: Callable[[str], None] = lambda _: None,
        on_mended: Callable[[], None] = lambda: None,
    ) -> None:
        self._path = path
        self._hide = hide
        self._on_refused = on_refused
        self._on_mended = on_mended
        self._refused = False
        self._known: Mapping[Address, Contact] = {}
        self._stamp: tuple[int, int, int] | None = None
        self._load()

    def __len__(self) -> int:
        self._look()
        return sum(1 for contact in self._known.values() if contact.urls)

    def of(self, address: Address) -> Contact:
        """What is known of a participant; an empty contact for a stranger."""
        self._look()
        return self._known.get(address, Contact())

    def _look(self) -> None:
        if self._stamp_now() == self._stamp:
            return
        try:
            self._load()
            log.info("contacts.read", contacts=len(self._known))
            if self._refused:
                self._refused = False
                self._on_mended()
        except Misconfigured as error:
            # Said once: the stamp is that of the bad file.
            self._refused = True
            log.warning("contacts.refused", reason=str(error))
            self._on_refused(f"{error} The contacts stay as they were")

    def _load(self) -> None:
        self._stamp = self._stamp_now()
        known = read(self._path)
        for contact in known.values():
            for url in contact.urls:
                self._hide(url)
        self._known = known

    def _stamp_now(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino


def read(path: Path) -> dict[Address, Contact]:
    """All contacts in the file. Raises Misconfigured."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(path.stat().st_mode)
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise Misconfigured(f"CONTACTS_FILE {path}: {why}. Name a file that can be read") from None
    if mode & 0o077:
        raise Misconfigured(f"CONTACTS_FILE {path}: others may read it, and it holds passwords. chmod 600 {path}")
    if len(raw) > MAX_BYTES:
        raise Misconfigured(f"CONTACTS_FILE {path}: is larger than {MAX_BYTES} bytes. Is it the right file?")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise _refused(path, raw[: error.start].count(b"\n") + 1, "is not UTF-8. Save it as that") from None
    known: dict[Address, Contact] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        address = checksum(words[0])
        if address is None:
            raise _refused(path, number, "does not begin with an address (0x and 40 hex digits)")
        if address in known:
            raise _refused(path, number, f"{address} is there already. Put all its URLs in one line")
        known[address] = _contact(path, number, words[1:])
    return known


def _contact(path: Path, number: int, words: list[str]) -> Contact:
    locale: str | None = None
    urls: list[str] = []
    for word in words:
        if word.startswith("#"):
            break
        if "://" in word:
            if not _is_apprise(word):
                # The scheme is no secret, the rest may be.
                scheme = word.partition("://")[0]
                raise _refused(path, number, f"its {scheme[:20]}:// URL is none that Apprise knows. See docs/nudges.md")
            urls.append(word)
        elif urls or locale is not None:
            raise _refused(path, number, "has a word that is no URL. Write: address, language, URLs")
        else:
            locale = texts.known(word)
            if locale is None:
                there = ", ".join(texts.LOCALES)
                raise _refused(path, number, f"its language is none of {there}. Leave it out for English")
    return Contact(locale, tuple(urls))


def _is_apprise(url: str) -> bool:
    import apprise  # late: a hundred plug-ins

    return apprise.Apprise.instantiate(url) is not None


def _refused(path: Path, line: int, why: str) -> Misconfigured:
    return Misconfigured(f"CONTACTS_FILE {path}, line {line}: {why}.")
