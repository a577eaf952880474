"""Which channels reach participants, in words.

Promises: the same channels that `run` makes of these settings. Connects nowhere; no URL and no secret is in it.
Doesn't promise that anybody is at the other end: what came of each nudge is in `explain`.
"""

from __future__ import annotations

from bot.settings import Settings
from bot.values import shown


def ways(settings: Settings) -> list[str]:
    """One text for each channel, none when nobody can be reached. Raises Misconfigured."""
    found: list[str] = []
    if settings.socket_url is not None:
        if settings.gateway_token is not None:
            found.append("the bundled backend's sockets (GATEWAY_TOKEN)")
        if settings.nudge_event is not None:
            found.append(f"the event {settings.nudge_event} at {shown(settings.socket_url)}")
        if settings.nudge_chat:
            found.append(f"chat:message at {shown(settings.socket_url)}, to everybody where its target isn't connected")
    if settings.nudge_webhook_url is not None:
        settings.webhook_key()
        found.append(f"the webhook at {shown(settings.nudge_webhook_url)}")
    if settings.contacts_file is not None:
        from bot.nudges.contacts import read

        people = sum(1 for contact in read(settings.contacts_file).values() if contact.urls)
        found.append(f"Apprise for {people} participants in {settings.contacts_file.name}")
    return found
