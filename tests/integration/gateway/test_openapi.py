"""The OpenAPI document, held against the running gateway: by schemathesis, and route by route."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
import schemathesis
from fastapi.openapi.utils import get_openapi
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from bot.chain.rpc import Rpc
from bot.chain.witness import Witness
from bot.feeds import wire
from bot.web.gateway import create_gateway
from bot.web.gateway.openapi import OPERATIONS
from bot.web.still_here import still_here_routes
from tests.support.anvil import World, langdao
from tests.support.gateway import SECRET, TOKEN, config, post, signal
from tests.support.servers import serving, until

# Not: that everything undescribed is refused. An odd optional field never costs a message, and that is meant.
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    unsupported_method,
    ignored_auth,
]
EXAMPLES = 40


class NoQuestions:
    """A keeper that asked nobody anything."""

    def asked(self, token: str) -> None:
        return None

    async def answer(self, token: str) -> None:
        return None


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """Session 1 runs."""
    with langdao(students=1, tutors=1) as one:
        one.start(0, 0)
        yield one


@pytest.fixture(scope="module")
def served(world: World) -> Iterator[str]:
    """A gateway with everything that it can serve, in a thread of its own: schemathesis doesn't await."""
    ready, stop, found = threading.Event(), threading.Event(), []

    async def serve() -> None:
        rpc = Rpc([world.node.url])
        given = config(http_requests_per_minute=10**6)
        app = create_gateway(given, Witness(rpc, world.contract), [still_here_routes(NoQuestions())])
        async with serving(app) as url:
            found.append(url)
            ready.set()
            await until(stop.is_set, timeout_s=600, every_s=0.1)
        await rpc.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(30)
    yield found[0]
    stop.set()
    thread.join()


@pytest.fixture(scope="module")
def schema(served: str) -> Any:
    return schemathesis.openapi.from_url(f"{served}/openapi.json")


# A stream of a session that is known doesn't end.
lazy = schemathesis.pytest.from_fixture("schema").exclude(path_regex="/events$")


@lazy.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_requests__made_of_the_document_and_against_it__documented_answers_only(case: Any) -> None:
    """no 5xx, documented statuses only"""
    case.call_and_validate(checks=CHECKS)


knowing = schemathesis.pytest.from_fixture("schema").include(path=[wire.HOOK_PATH, wire.RECORD_PATH, wire.ENDED_PATH])


@knowing.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_requests__with_the_secrets__documented_answers_only(case: Any) -> None:
    """The same, by those who know the secrets."""
    if "secret" in (case.path_parameters or {}):
        case.path_parameters["secret"] = SECRET
    checks = [check for check in CHECKS if check is not ignored_auth]
    case.call_and_validate(checks=checks, headers={"Authorization": f"Bearer {TOKEN}"})


def test_document__every_route_that_is_served__is_in_it() -> None:
    """it has every route that is served"""
    app = create_gateway(config(), None, [still_here_routes(NoQuestions())]).other_asgi_app
    frameworks = get_openapi(title="", version="", routes=app.routes)["paths"]
    by_framework = {(method, path) for path, item in frameworks.items() for method in item if method != "head"}
    documented = {(method, path) for path, item in app.openapi()["paths"].items() for method in item}
    assert by_framework == documented == set(OPERATIONS)


def test_document__without_the_keeper__has_no_answers_to_its_questions() -> None:
    app = create_gateway(config()).other_asgi_app
    assert "/v/{token}" not in app.openapi()["paths"]


async def test_stream__of_nobody__404_as_documented(served: str, http: aiohttp.ClientSession) -> None:
    async with http.get(f"{served}/api/sessions/nobody/events") as answer:
        assert (answer.status, answer.content_type) == (404, "application/problem+json")


async def test_statuses__that_take_an_accident__are_documented_too(http: aiohttp.ClientSession) -> None:
    """every status that each can answer with"""
    async with serving(create_gateway(config(http_requests_per_minute=1, token=None))) as url:
        first = await post(http, url, "/api/sessions/1/statements", {})
        assert first[0] == 503
        for method, path in OPERATIONS:
            if path in ("/health", "/v/{token}"):
                continue
            async with http.request(method, url + path.format(secret="x", name="x"), json=signal("x")) as answer:
                assert answer.status == 429
                assert "429" in OPERATIONS[method, path]["responses"]
                assert answer.headers.keys() >= {"Retry-After", "RateLimit-Limit", "RateLimit-Remaining"}
