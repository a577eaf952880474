"""Where the key is: environment, keystore or remote signer, by the settings.

Promises: `open_signer` gives the one signer that is configured, or None when none is; what only a person can mend
raises Misconfigured, one line, before anything is signed.
Doesn't promise that a remote signer is up: the daemon starts without it, follows and nudges, and settlements wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from bot.chain.signer import KeySigner, Signer
from bot.errors import Misconfigured, TryAgain
from bot.settings import Settings

log = structlog.get_logger("signer")


async def open_signer(settings: Settings, hide: Callable[[str], None], *, must_answer: bool = False) -> Signer | None:
    """The signer; `hide` is told every secret that was read on the way. Raises Misconfigured.

    `must_answer`: a remote signer that doesn't answer raises TryAgain; else that is a line in the log.
    """
    match settings.key_source():
        case "BACKEND_PRIVATE_KEY":
            try:
                return KeySigner(settings.key() or "")
            except ValueError:
                raise Misconfigured("BACKEND_PRIVATE_KEY is no private key: zero, or above the curve's order") from None
        case "KEYSTORE_FILE":
            from bot.chain.keystore import open_keystore

            # In a thread: scrypt is slow on purpose, and the loop has a head to follow.
            return await asyncio.to_thread(open_keystore, *settings.keystore(), hide)
        case "REMOTE_SIGNER_URL":
            from bot.chain.remote_signer import RemoteSigner

            url, address = settings.remote_signer()
            signer = RemoteSigner(url, address, timeout_s=settings.remote_signer_timeout_s)
            try:
                await signer.check()
            except TryAgain as error:
                if must_answer:
                    await signer.close()
                    raise
                log.warning("signer.unreachable", reason=str(error), text="Settlements wait until it answers")
            except BaseException:
                await signer.close()
                raise
            return signer
    return None
