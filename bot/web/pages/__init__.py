"""What a student or tutor sees: `/s/<id>`, and the script that shows the same on a host page.

Served by the gateway. The pages hold no state of their own: what they show is `GET /api/sessions/{id}`, what they do is
a wallet's transaction or a signed statement.
"""

from bot.web.pages.routes import page_routes

__all__ = ["page_routes"]
