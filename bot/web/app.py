"""The keeper's own HTTP server: the webhook, and whether it lives."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI


def keeper_app(webhook: APIRouter) -> FastAPI:
    """The app served at HTTP_BIND."""
    app = FastAPI(title="LangDAO keeper", docs_url=None, redoc_url=None)
    app.include_router(webhook)

    @app.get("/health")
    async def health() -> dict[str, bool]:
        """Answers as long as the loop lives."""
        return {"ok": True}

    return app
