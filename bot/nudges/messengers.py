"""Mail, chat apps and whatever else Apprise reaches, by the contacts file.

Promises: one message at a time to one participant, in a thread of its own that never keeps the process from ending;
a service that hangs holds up nobody but its own participant.
Doesn't promise that it arrives: a mail server that took a mail says nothing of its reader.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from bot.domain.address import Address
from bot.errors import TryAgain
from bot.nudges.channel import How, Receipt
from bot.nudges.contacts import Contacts
from bot.nudges.message import Note

MAX_THREADS = 64


def notify(urls: tuple[str, ...], subject: str, text: str) -> bool:
    """Blocks. True when one of the services took it: then it isn't sent again, or the others would get it twice."""
    import apprise  # late: a hundred plug-ins

    taken = False
    for url in urls:
        sender = apprise.Apprise()
        taken |= bool(sender.add(url)) and bool(sender.notify(title=subject, body=text))
    return taken


class Messengers:
    name = "apprise"
    private = True
    repeatable = False

    def __init__(self, contacts: Contacts, send: Callable[[tuple[str, ...], str, str], bool] = notify) -> None:
        self._contacts = contacts
        self._send = send
        self._busy: set[Address] = set()

    def reaches(self, to: Address) -> bool:
        return bool(self._contacts.of(to).urls)

    async def send(self, note: Note) -> Receipt:
        if note.to in self._busy:
            raise TryAgain("an earlier message to this participant is still under way")
        if len(self._busy) >= MAX_THREADS:
            raise TryAgain("too many messages are under way")
        if not await self._in_thread(note.to, self._contacts.of(note.to).urls, note.subject, note.text):
            raise TryAgain("no service of the participant's took the message")
        return Receipt(How.SENT)

    async def _in_thread(self, to: Address, urls: tuple[str, ...], subject: str, text: str) -> bool:
        # Not a pool: its threads are waited for when the process ends, and a hanging one would be for ever.
        loop = asyncio.get_running_loop()
        done: asyncio.Future[bool] = loop.create_future()

        def finish(sent: bool) -> None:
            self._busy.discard(to)
            if not done.done():
                done.set_result(sent)

        def work() -> None:
            try:
                sent = self._send(urls, subject, text)
            except Exception:  # whatever a plug-in raises: it wasn't sent
                sent = False
            if not loop.is_closed():
                loop.call_soon_threadsafe(finish, sent)

        self._busy.add(to)
        threading.Thread(target=work, name="apprise", daemon=True).start()
        return await done
