"""What the chain's answers prove, and what they don't."""

from __future__ import annotations

from typing import Any

import pytest

from bot.chain import codec
from bot.chain.errors import RpcError
from bot.chain.sender.proof import ended_in, holds, mined_by, why_refused
from bot.domain.facts import SessionKey

LANGDAO, OTHER = "0x" + "1d" * 20, "0x" + "2e" * 20
KEY = SessionKey(5, "0x" + "51" * 20, "0x" + "71" * 20)


def receipt(**more: Any) -> dict[str, Any]:
    topics = [codec.SESSION_ENDED, f"0x{KEY.session_id:064x}", "0x" + KEY.tutor[2:].rjust(64, "0")]
    entry = {"address": LANGDAO, "topics": topics, "data": "0x" + f"{60:064x}{60_000:064x}"}
    return {"status": "0x1", "logs": [entry], "blockNumber": "0xa"} | more


@pytest.mark.parametrize(
    ("said", "mined"),
    [
        (receipt(), True),
        (receipt(blockNumber="0xb"), False),  # above the head that everything else is of
        (receipt(blockNumber=None), False),  # pending, as some nodes say it
        (None, False),
        ("0x1", False),
    ],
)
def test_mined_by__receipt__only_of_a_block_up_to_the_head(said: Any, mined: bool) -> None:
    """Only the receipt of the transaction itself, in a block up to the head, makes it mined"""
    assert mined_by(said, 10) is mined


def test_ended_in__receipt__only_the_contracts_own_event_with_status_1() -> None:
    """only the contract's own `SessionEnded`, in a receipt with status 1, is an end"""
    assert ended_in(receipt(), LANGDAO) == [5]
    assert ended_in(receipt(), LANGDAO.upper().replace("0X", "0x")) == [5]
    assert ended_in(receipt(), OTHER) == []
    assert ended_in(receipt(status="0x0"), LANGDAO) == []
    assert ended_in(receipt(status=None), LANGDAO) == []
    assert ended_in(receipt(logs=[]), LANGDAO) == []


def active(**more: Any) -> codec.OnChainSession:
    fields = {"student": KEY.student, "tutor": KEY.tutor, "token": OTHER, "start_s": 1, "end_s": 0, "rate": 1}
    fields |= {"paid": 0, "language": 1, "id": KEY.session_id, "active": True}
    return codec.OnChainSession(**(fields | more))


def test_holds__slot__only_the_id_with_its_student_and_tutor_active() -> None:
    """only the id with its student and its tutor, active, is the session"""
    assert holds(active(), KEY)
    for other in ({"id": 6}, {"student": OTHER}, {"tutor": OTHER}, {"active": False}):
        assert not holds(active(**other), KEY)
    assert not holds(None, KEY)


@pytest.mark.parametrize(
    ("message", "outcome"),
    [
        ("execution reverted: Session not active", "over"),
        ("execution reverted: Caller is not the student, tutor nor owner", "refused"),
        ("execution reverted", "failed"),
    ],
)
def test_why_refused__simulation__what_it_means(message: str, outcome: str) -> None:
    assert why_refused(RpcError(3, message))[0] == outcome
