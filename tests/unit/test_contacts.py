"""The contacts file: what is refused, with its line; what is taken up; what is never shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from bot.errors import Misconfigured
from bot.nudges.contacts import Contact, Contacts, read
from bot.ops.logging import Redactor

ANN = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
BOB = "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC"
MAIL = "mailto://user:hunter2222@example.org"
CHAT = "json://127.0.0.1:9/abcdefghijklmnop1234"

FILE = f"""
# address   language   URLs
{ANN.lower()}  de-AT  {MAIL}  {CHAT}   # home and work

{BOB}\t{CHAT}
0x90F79bf6EB2c4f870365E785982E1f101E93b906 es
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return written(tmp_path / "contacts", FILE)


def written(path: Path, text: str | bytes, mode: int = 0o600) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)
    return path


def test_read__addresses_languages_and_urls__as_written(path: Path) -> None:
    found = read(path)
    assert found[ANN] == Contact("de", (MAIL, CHAT))
    assert found[BOB] == Contact(None, (CHAT,))
    assert found["0x90F79bf6EB2c4f870365E785982E1f101E93b906"] == Contact("es", ())


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("nobody mailto://a:b@c.de", "line 3: does not begin with an address"),
        (f"{BOB[:-1]} {CHAT}", "line 3: does not begin with an address"),
        (f"{ANN} {CHAT}", f"line 3: {ANN} is there already"),
        (f"{BOB} klingon {CHAT}", "line 3: its language is none of de, en, es, fr, pt, zh"),
        (f"{BOB} de es {CHAT}", "line 3: has a word that is no URL"),
        (f"{BOB} {CHAT} de", "line 3: has a word that is no URL"),
        (f"{BOB} pigeon://secretsecret/loft", "line 3: its pigeon:// URL is none that Apprise knows"),
        (b"\xff\xfe", "line 3: is not UTF-8"),
    ],
)
def test_read__bad_line__refused_with_its_number_and_no_secret(tmp_path: Path, line: str | bytes, words: str) -> None:
    """what can't be right is refused with the number of its line and what to do, never quoting a URL"""
    raw = line.encode() if isinstance(line, str) else line
    path = written(tmp_path / "contacts", f"# mine\n{ANN} de {MAIL}\n".encode() + raw + b"\n")
    with pytest.raises(Misconfigured) as refused:
        read(path)
    assert words in str(refused.value)
    assert "CONTACTS_FILE" in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_read__others_may_read_it__refused(tmp_path: Path, mode: int) -> None:
    """a file that others may read is refused, since the URLs are passwords"""
    with pytest.raises(Misconfigured, match="chmod 600"):
        read(written(tmp_path / "contacts", FILE, mode))


def test_read__no_such_file__refused(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"CONTACTS_FILE .*No such file"):
        read(tmp_path / "none")


def test_read__far_too_large__refused(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="larger than"):
        read(written(tmp_path / "contacts", b"#" * (4 * 1024 * 1024 + 1)))


def test_contacts__file_changes__taken_up_at_the_next_look(path: Path) -> None:
    """A change is taken up at the next look."""
    people = Contacts(path)
    assert people.of(BOB).locale is None
    written(path, FILE.replace(f"{BOB}\t", f"{BOB} fr "))
    assert people.of(BOB) == Contact("fr", (CHAT,))
    assert len(people) == 2


def test_contacts__replaced_by_another_file_of_equal_size__taken_up(path: Path, tmp_path: Path) -> None:
    people = Contacts(path)
    other = written(tmp_path / "new", FILE.replace("es", "pt"))
    stamp = path.stat()
    os.utime(other, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    other.rename(path)
    assert people.of("0x90F79bf6EB2c4f870365E785982E1f101E93b906").locale == "pt"


@pytest.mark.parametrize("worse", ["nobody mailto://a:b@c.de\n", None])
def test_contacts__change_for_the_worse__stays_as_it_was_and_is_said_once(path: Path, worse: str | None) -> None:
    """A change for the worse isn't: the contacts stay as they were, and `on_refused` hears why, once."""
    heard: list[str] = []
    mended: list[int] = []
    people = Contacts(path, on_refused=heard.append, on_mended=lambda: mended.append(1))
    if worse is None:
        path.unlink()
    else:
        written(path, worse)
    for _ in range(3):
        assert people.of(ANN) == Contact("de", (MAIL, CHAT))
    assert len(heard) == 1
    assert "CONTACTS_FILE" in heard[0]
    written(path, FILE + f"{'0x' + '11' * 20} en {CHAT}\n")
    assert mended == []
    assert people.of("0x" + "11" * 20).urls == (CHAT,)
    assert mended == [1]


def test_contacts__stranger__no_way_and_no_language(path: Path) -> None:
    assert Contacts(path).of("0x" + "22" * 20) == Contact()


def test_contacts__any_text_of_them__shows_no_url(path: Path) -> None:
    """secrets redacted"""
    redactor = Redactor()
    with capture_logs() as logs:
        people = Contacts(path, hide=redactor.add_opaque)
        written(path, FILE + "\n")
        shown = repr(people.of(ANN))
    assert "hunter2222" not in str(logs) + shown
    line = redactor(f"a library says {MAIL}, or hunter2222, or {CHAT}, or /abcdefghijklmnop1234")
    assert line == "a library says mailto://***, or ***, or json://***, or /***"
