"""When each feed could be heard."""

from __future__ import annotations

import pytest

from bot.domain.feeds import SOCKET, WEBHOOK, FeedBoard

SILENCE_MS = 45_000


@pytest.fixture
def board() -> FeedBoard:
    return FeedBoard(1_000_000, SILENCE_MS)


def test_span__nothing_heard_yet__both_down_since_the_start(board: FeedBoard) -> None:
    for name in (SOCKET, WEBHOOK):
        assert board.span(name, 2_000_000) == (1_000_000, 1_000_000)
        assert not board.up(name, 2_000_000)


def test_socket__up_and_lost__up_since_and_until(board: FeedBoard) -> None:
    assert board.socket(True, 1_010_000)
    assert board.span(SOCKET, 9_000_000) == (1_010_000, None)
    assert board.socket(False, 1_020_000)
    assert board.span(SOCKET, 9_000_000) == (1_010_000, 1_020_000)


def test_socket__said_twice__is_no_news(board: FeedBoard) -> None:
    assert not board.socket(False, 1_001_000)
    assert board.socket(True, 1_002_000)
    assert not board.socket(True, 1_003_000)
    assert board.span(SOCKET, 1_003_000) == (1_002_000, None)


def test_socket__returned__silence_starts_afresh(board: FeedBoard) -> None:
    for up, at in ((True, 1_010_000), (False, 1_020_000), (True, 1_030_000)):
        board.socket(up, at)
    assert board.span(SOCKET, 1_030_000) == (1_030_000, None)


def test_post__regular__up_without_a_break(board: FeedBoard) -> None:
    assert board.post(1_010_000)
    assert not board.post(1_010_000 + SILENCE_MS)
    assert board.span(WEBHOOK, 1_010_000 + 2 * SILENCE_MS) == (1_010_000, None)


def test_post__silence_for_longer__down_until_the_silence_was_too_long(board: FeedBoard) -> None:
    """the webhook feed [is up] while any authenticated post arrived within `FEED_SILENCE_S`"""
    board.post(1_010_000)
    assert board.span(WEBHOOK, 1_010_000 + SILENCE_MS + 1) == (1_010_000, 1_010_000 + SILENCE_MS)
    assert board.post(2_000_000)
    assert board.span(WEBHOOK, 2_000_000) == (2_000_000, None)


def test_outage__feeds_up__start_afresh(board: FeedBoard) -> None:
    """The keeper's own downtime, or a stall over 5 s, is an outage of every feed."""
    board.socket(True, 1_010_000)
    board.post(1_010_000)
    board.outage(1_300_000)
    assert board.span(SOCKET, 1_300_000) == (1_300_000, None)
    assert board.span(WEBHOOK, 1_300_000) == (1_300_000, 1_300_000)


def test_outage__socket_down__nothing_is_proven_before_it_returns(board: FeedBoard) -> None:
    board.socket(True, 1_010_000)
    board.socket(False, 1_020_000)
    board.outage(1_300_000)
    assert board.span(SOCKET, 1_400_000) == (1_300_000, 1_300_000)


def test_up__either_feed__while_it_is_heard(board: FeedBoard) -> None:
    board.socket(True, 1_010_000)
    assert (board.up(SOCKET, 1_011_000), board.up(WEBHOOK, 1_011_000)) == (True, False)
    board.socket(False, 1_012_000)
    board.post(1_012_000)
    assert (board.up(SOCKET, 1_013_000), board.up(WEBHOOK, 1_013_000)) == (False, True)
    assert not board.up(WEBHOOK, 1_012_001 + SILENCE_MS)
