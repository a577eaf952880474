"""The keeper's own HTTP server: the webhook, the answers of participants, what operators look at."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI


def keeper_app(*routers: APIRouter) -> FastAPI:
    """The app served at HTTP_BIND, with these routes."""
    app = FastAPI(title="LangDAO keeper", docs_url=None, redoc_url=None)
    for router in routers:
        app.include_router(router)
    return app
