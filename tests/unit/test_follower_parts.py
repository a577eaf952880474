"""The pure parts of the follower: page sizes, blooms, rows, the words of refusals."""

from __future__ import annotations

import pytest

from bot.chain import codec
from bot.chain.bloom import Bloom
from bot.chain.errors import RpcError, WrongAnswer, rate_limited, too_many
from bot.chain.pages import FIRST_BLOCKS, MOST_BLOCKS, TARGET_LOGS, Pages
from bot.chain.rows import check, rows_of
from bot.chain.wire import RawHeader, RawLog
from bot.store.chain_rows import Finality

CONTRACT = "0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512"


def raw_log(number: int = 5, index: int = 0, topics: tuple[str, ...] = ("0x" + "ab" * 32,), **other: object) -> RawLog:
    fields = {
        "address": CONTRACT.lower(),
        "block_hash": "0x" + "11" * 32,
        "block_number": hex(number),
        "transaction_hash": "0x" + "22" * 32,
        "transaction_index": "0x0",
        "log_index": hex(index),
        "topics": topics,
        "data": "0x" + "00" * 32,
        "block_timestamp": "0x10",
    }
    return RawLog(**(fields | other))  # type: ignore[arg-type]


def header(bloom: str | None) -> RawHeader:
    return RawHeader("0x5", "0x" + "11" * 32, "0x" + "10" * 32, "0x10", None, bloom)


@pytest.mark.parametrize(
    "message",
    [
        "query returned more than 10000 results",
        "eth_getLogs is limited to 1024 block range",
        "block range is too wide",
        "Log response size exceeded. You can make eth_getLogs requests with up to a 2K block range",
        "exceed maximum block range: 50000",
        "ranges over 10000 blocks are not supported on freetier",
        "query timeout exceeded",
    ],
)
def test_too_many__words_of_a_range_refusal__asks_for_less(message: str) -> None:
    error = RpcError(-32005, message)
    assert too_many(error)
    assert not rate_limited(error)


@pytest.mark.parametrize(
    ("code", "message"),
    [(-32005, "limit exceeded"), (429, "slow down"), (-32000, "Too Many Requests"), (-32016, "over rate limit")],
)
def test_rate_limited__words_of_a_rate_refusal__asks_less_often(code: int, message: str) -> None:
    error = RpcError(code, message)
    assert rate_limited(error)
    assert not too_many(error)


@pytest.mark.parametrize(
    ("code", "message"),
    [(3, "execution reverted: rate limit exceeded"), (-32000, "execution reverted: throttled"), (3, "over capacity")],
)
def test_rate_limited__words_of_a_contract_that_reverts__are_its_own(code: int, message: str) -> None:
    assert not rate_limited(RpcError(code, message))


def test_rate_limited__an_ordinary_error__is_an_answer() -> None:
    assert not rate_limited(RpcError(3, "execution reverted: Session not active", "0x08c379a0"))


def test_pages__refused__halves_at_once_and_grows_again() -> None:
    pages = Pages()
    assert pages.refused(FIRST_BLOCKS)
    assert pages.blocks == FIRST_BLOCKS // 2
    for _ in range(200):
        pages.answered(pages.blocks, 0)
    assert pages.blocks > FIRST_BLOCKS


def test_pages__refused_size__is_not_tried_again_at_once() -> None:
    pages = Pages()
    pages.refused(1_000)
    for _ in range(10):
        pages.answered(pages.blocks, 0)
        assert pages.blocks <= 500


def test_pages__dense_logs__aims_at_the_target() -> None:
    pages = Pages()
    pages.answered(1_000, 50_000)
    assert pages.blocks == 1_000 * TARGET_LOGS // 50_000


def test_pages__no_logs__grows_to_the_limit() -> None:
    pages = Pages()
    for _ in range(20):
        pages.answered(pages.blocks, 0)
    assert pages.blocks == MOST_BLOCKS


def test_pages__one_block_refused__cannot_be_smaller() -> None:
    assert not Pages().refused(1)


def test_bloom__never_seen_right__is_not_believed() -> None:
    assert Bloom(CONTRACT).may_have_logs(header("0x" + "00" * 256))


def test_bloom__seen_right__spares_blocks_without_the_contract() -> None:
    bloom = Bloom(CONTRACT)
    bloom.saw_logs_in(header("0x" + "ff" * 256))
    assert not bloom.may_have_logs(header("0x" + "00" * 256))
    assert bloom.may_have_logs(header("0x" + "ff" * 256))


@pytest.mark.parametrize("wrong", ["0x" + "00" * 256, None, "0x"])
def test_bloom__seen_wrong_once__is_never_believed_again(wrong: str | None) -> None:
    """Quotes: "once one was wrong, none is believed again"."""
    bloom = Bloom(CONTRACT)
    bloom.saw_logs_in(header("0x" + "ff" * 256))
    bloom.saw_logs_in(header(wrong))
    bloom.saw_logs_in(header("0x" + "ff" * 256))
    assert bloom.may_have_logs(header("0x" + "00" * 256))


def test_rows_of__unknown_event__is_kept_raw() -> None:
    """Quotes: "every log becomes a row ... kept raw where it isn't" one of the contract's."""
    rows = rows_of([raw_log(topics=("0x" + "ab" * 32, "0x" + "cd" * 32))], [], {})
    (row,) = rows.logs
    assert (row.name, row.session_id, row.address) == (None, None, None)
    assert row.topics == "0x" + "ab" * 32 + ",0x" + "cd" * 32
    assert row.data == "0x" + "00" * 32


def test_rows_of__event_of_the_contract__first_topic_is_left_to_its_name() -> None:
    topics = (codec.SESSION_STARTED, *("0x" + f"{number:064x}" for number in (7, 1, 2)))
    row = rows_of([raw_log(topics=topics, data="0x" + "00" * 32)], [], {}).logs[0]
    assert codec.TOPICS[str(row.name)] == topics[0]
    assert row.topics == ",".join(topics[1:])


def test_rows_of__log_without_topics__is_kept_raw() -> None:
    assert rows_of([raw_log(topics=())], [], {}).logs[0].topics == ""


def test_rows_of__logs_out_of_order__are_put_in_chain_order() -> None:
    rows = rows_of([raw_log(7, 1), raw_log(5, 3), raw_log(7, 0)], [], {})
    assert [(row.block_number, row.log_index) for row in rows.logs] == [(5, 3), (7, 0), (7, 1)]


def test_rows_of__id_that_no_counter_reaches__makes_no_session() -> None:
    word = "0x" + "00" * 32
    rows = rows_of([raw_log(topics=(codec.SESSION_STARTED, "0x" + "ff" * 32, word, word))], [], {})
    assert rows.starts == []
    assert len(rows.logs) == 1


def test_rows_of__log_without_a_time__takes_it_from_the_block() -> None:
    rows = rows_of([raw_log(5, block_timestamp=None)], [], {5: 99})
    assert rows.logs[0].timestamp_s == 99


@pytest.mark.parametrize("log", [raw_log(9), raw_log(3), raw_log(address="0x" + "00" * 20), raw_log(removed=True)])
def test_check__log_that_was_not_asked_for__is_a_wrong_answer(log: RawLog) -> None:
    with pytest.raises(WrongAnswer):
        check([raw_log(5), log], CONTRACT.lower(), 4, 8)


def test_finality__by_block__counts_down_from_seen_to_final() -> None:
    finality = Finality(confirmed_to=99, final_to=36)
    assert [finality.of(block) for block in (100, 99, 37, 36)] == ["seen", "confirmed", "confirmed", "final"]
