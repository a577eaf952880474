"""A key in an encrypted file: geth's keystore, version 3, and a file with its password.

Promises: whatever is wrong with either file raises Misconfigured, one line that names the setting and the file; the
password and the key are in no message. A file that others can read or write is refused, as ssh does it.
Doesn't promise to be quick: the usual scrypt parameters take a second or two and 256 MB, once at start.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bot.chain.signer import KeySigner
from bot.domain.address import checksum
from bot.errors import Misconfigured

MAX_BYTES = 64 * 1024


def open_keystore(file: Path, password_file: Path, hide: Callable[[str], None] = lambda _: None) -> KeySigner:
    """The signer with the key in `file`. `hide` is told the password and the key. Raises Misconfigured."""
    # As geth reads it: the first line, whatever ends it.
    password = (_read("KEYSTORE_PASSWORD_FILE", password_file).splitlines() or [""])[0]
    hide(password)
    document = _document(file)
    from web3 import Account

    try:
        key = Account.decrypt(document, password)
    except (ValueError, TypeError, KeyError, LookupError, AssertionError, NotImplementedError) as error:
        if "MAC" in str(error):
            raise Misconfigured(
                f"KEYSTORE_PASSWORD_FILE {password_file}: not the password of {file}. Its first line is the password"
            ) from None
        raise Misconfigured(f"KEYSTORE_FILE {file} can't be decrypted: not a keystore that geth would read") from None
    hide(key.hex())
    signer = KeySigner(bytes(key))
    said = document.get("address")
    if said is not None and checksum("0x" + str(said).removeprefix("0x")) != signer.address:
        raise Misconfigured(f"KEYSTORE_FILE {file} says it is for {said}, but its key is for {signer.address}")
    return signer


def address_in(file: Path) -> str | None:
    """The address that the file says it is for, without its password. Raises Misconfigured."""
    return checksum("0x" + str(_document(file).get("address", "")).removeprefix("0x"))


def _document(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(_read("KEYSTORE_FILE", file))
    except ValueError:
        document = None
    if not isinstance(document, dict) or document.get("version") != 3:
        raise Misconfigured(f"KEYSTORE_FILE {file} is not a keystore of version 3 (JSON, as geth writes it)")
    return document


def _read(setting: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise Misconfigured(f"{setting} {path} is not a file")
            if status.st_mode & 0o077:
                mode = stat.S_IMODE(status.st_mode)
                raise Misconfigured(f"{setting} {path} is open to others (mode {mode:04o}). Do: chmod 600 {path}")
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise Misconfigured(f"{setting} {path}: {why}. Name a file that the keeper can read") from None
    if len(content) > MAX_BYTES:
        raise Misconfigured(f"{setting} {path} is too large for what it should be")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise Misconfigured(f"{setting} {path} is not text") from None
