"""The keeper's own HTTP server: the webhook, the answers of participants, and whether it lives."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI


def keeper_app(*routers: APIRouter) -> FastAPI:
    """The app served at HTTP_BIND, with these routes and `/health`."""
    app = FastAPI(title="LangDAO keeper", docs_url=None, redoc_url=None)
    for router in routers:
        app.include_router(router)

    @app.get("/health")
    async def health() -> dict[str, bool]:
        """Answers as long as the loop lives."""
        return {"ok": True}

    return app
