"""How long an endpoint that fails is left alone, by a clock and chance of the test's own."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest

from bot.chain import endpoint
from bot.chain.endpoint import FIRST_REST_S, LONGEST_REST_S, LONGEST_RETRY_AFTER_S, EndpointFailed, HttpEndpoint

URL = "https://user:word@node.example/v3/secret-key"
NO_ANSWER = EndpointFailed("no answer")


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    stands = SimpleNamespace(now_s=100.0)
    stands.monotonic = lambda: stands.now_s
    monkeypatch.setattr(endpoint, "time", stands)
    return stands


def rests(chance: str, monkeypatch: pytest.MonkeyPatch, failures: int = 12) -> list[float]:
    """The rest after each of so many failures in a row, with chance always at its `least` or its `most`."""
    pick = {"least": lambda low, _: low, "most": lambda _, high: high}[chance]
    monkeypatch.setattr(endpoint, "random", SimpleNamespace(uniform=pick))
    one, found = HttpEndpoint(URL, 1), []
    for _ in range(failures):
        one.failed(NO_ANSWER)
        found.append(one.rest_s())
    return found


@pytest.mark.parametrize("chance", ["least", "most"])
def test_failed__again_and_again__rests_longer_each_time_up_to_the_longest(
    chance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Quotes: "A failing endpoint rests: longer each time"."""
    found = rests(chance, monkeypatch)
    grows = [rest_s for rest_s in found if rest_s < found[-1]]
    assert grows == sorted(set(grows))
    assert len(grows) >= 4
    assert found[: len(grows)] == grows
    assert found[0] == pytest.approx(FIRST_REST_S, rel=0.5)
    assert found[-1] == pytest.approx(LONGEST_REST_S, rel=0.5)


def test_failed__many_endpoints_at_once__dont_come_back_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quotes: "with jitter"."""
    assert rests("least", monkeypatch)[0] < rests("most", monkeypatch)[0]
    monkeypatch.setattr(endpoint, "random", random.Random(1))
    many = [HttpEndpoint(URL, 1) for _ in range(20)]
    for one in many:
        one.failed(NO_ANSWER)
    assert len({one.rest_s() for one in many}) == len(many)


@pytest.mark.parametrize("asked_s", [5.0, 60.0, LONGEST_RETRY_AFTER_S])
def test_failed__retry_after__rests_at_least_as_long(asked_s: float, clock: SimpleNamespace) -> None:
    """Quotes: "and at least as long as its Retry-After asks"."""
    one = HttpEndpoint(URL, 1)
    one.failed(EndpointFailed("HTTP 429", retry_after_s=asked_s))
    assert asked_s <= one.rest_s() <= asked_s * 1.1
    clock.now_s += asked_s * 1.1
    assert one.rest_s() == 0


def test_failed__retry_after_of_a_day__isnt_believed() -> None:
    one = HttpEndpoint(URL, 1)
    one.failed(EndpointFailed("HTTP 503", retry_after_s=86_400))
    assert one.rest_s() <= LONGEST_RETRY_AFTER_S * 1.1


def test_worked__after_failures__is_ready_and_the_next_rest_is_a_first_one(monkeypatch: pytest.MonkeyPatch) -> None:
    first_s = rests("most", monkeypatch)[0]
    one = HttpEndpoint(URL, 1)
    for _ in range(6):
        one.failed(NO_ANSWER)
    one.worked()
    assert one.rest_s() == 0
    one.failed(NO_ANSWER)
    assert one.rest_s() == first_s


def test_name__of_a_url_with_secrets__is_scheme_and_host() -> None:
    """Quotes: "of the URL only scheme and host show"."""
    assert HttpEndpoint(URL, 1).name == "https://node.example"
