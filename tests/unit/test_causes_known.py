"""Each alert, each reason of /ready and each check of `doctor` has a test that brings it about by its real cause.

The tables name that test. A new name fails here until it has one.
"""

from __future__ import annotations

import ast
from functools import lru_cache
from pathlib import Path

import pytest

from bot.ops import doctor
from bot.ops.catalogue import ALERTS
from bot.ops.readiness import NAMES

TESTS = Path(__file__).resolve().parents[1] / "integration"

CALLED_FOR = "test_causes.py::test_alert__called_for_by_the_service_manager_or_a_person__arrives"
NODE = "test_node_commands.py::test_doctor__"
HERE = "test_causes.py::test_doctor__"

BY_ALERT = {
    "alert.wrong-session": "test_sender.py::test_mined__next_lesson_began_in_the_same_block__alert_wrong_session",
    "alert.balance": "test_sender_others.py::"
    "test_unmined__funds_taken_by_another_user_of_the_key__alert_and_said_again",
    "alert.balance-low": "test_sender_others.py::test_head__balance_good_for_few_settlements__warned_once",
    "alert.gas-budget": "test_sender.py::test_settle__daily_budget_used_up__refused",
    "alert.fee-cap": "test_sender.py::test_settle__fee_above_every_cap__bids_the_cap_and_waits",
    "alert.set-aside": "test_causes.py::test_set_aside__token_is_paused__is_told_and_ended_when_it_isnt_any_more",
    "alert.foreign-nonce": "test_sender.py::test_unmined__nonce_used_by_a_foreign_transaction__lost_and_named",
    "alert.delegation": "test_guarded.py::test_delegation__revoked_while_nothing_is_due__told_at_the_next_head",
    "alert.former-key": "test_guarded_switch.py::test_to_guarded__direct_one_is_stuck__alert_names_the_way_out",
    "alert.orphan": "test_run.py::test_run__orphan__alert_is_a_row_a_line_and_a_message",
    "alert.finality": "test_follower_nodes.py::test_violation__is_told_when_it_begins_and_when_it_is_over",
    "alert.finality-still": "test_follower_nodes.py::"
    "test_finality__stands_still_for_hours__is_said_once_and_stops_nothing",
    "alert.logs-differ": "test_follower_nodes.py::test_second_look__logs_were_left_out__are_taken_and_said",
    "alert.backend-limit": "test_tee.py::"
    "test_tee__more_rooms_than_the_limit_carries__alerts_once_and_keeps_a_part_for_ends",
    "alert.contacts": "test_run_nudges.py::"
    "test_run__one_channel_hangs__both_are_nudged_by_the_others_then_ended_and_billed",
    "alert.first-start": "test_first_start.py::"
    "test_first_start__sessions_are_open__one_digest_to_the_operator_and_nothing_else",
    "alert.mass-end": "test_breaker.py::"
    "test_backend_says_that_all_are_over__nothing_is_ended_and_an_operator_is_told_once",
    "alert.uncorroborated": "test_causes.py::"
    "test_uncorroborated__only_the_backend_says_that_it_is_over__is_told_and_nothing_is_ended",
    "alert.canary": "test_canary.py::test_canary__server_stops_posting__is_down_and_tells_once_each_time",
    "alert.contradiction": "test_run_nudges.py::"
    "test_run__stranger_binds_both_addresses_and_acknowledges__gets_no_link_and_the_silence_ends_nothing",
    "alert.head": "test_causes.py::test_head__node_gone__alerts_once_it_lasted",
    "alert.database": "test_database_care.py::"
    "test_run__disk_full_for_a_while__signs_nothing_alerts_and_goes_on_without_loss",
    "alert.key": "test_causes.py::test_key__remote_signer_gone__isnt_ready_alerts_and_signs_when_it_is_back",
    "alert.feeds": "test_operator_site.py::test_ready__backend_out_of_reach__says_feeds_and_alerts_once",
    "alert.backup": "test_database_care.py::test_backups__folder_that_cant_be_made__raises_an_alert",
    "alert.stopped": CALLED_FOR,
    "alert.test": CALLED_FOR,
}
BY_REASON = {
    "not-at-head": "test_operator_site.py::test_ready__read_only_without_a_token_and_node_gone__says_not_at_head",
    "log-lag": "test_causes.py::test_readiness__no_block_for_minutes_then_many_at_once__says_each_until_it_is_over",
    "head-old": "test_causes.py::test_readiness__no_block_for_minutes_then_many_at_once__says_each_until_it_is_over",
    "finality": "test_causes.py::test_readiness__final_blocks_taken_back__says_finality",
    "database": "test_operator_site.py::test_ready__database_that_takes_nothing__says_database",
    "key": "test_causes.py::test_key__remote_signer_gone__isnt_ready_alerts_and_signs_when_it_is_back",
    "balance": "test_operator_site.py::test_ready__balance_below_the_floor__says_balance",
    "feeds": "test_operator_site.py::test_ready__backend_out_of_reach__says_feeds_and_alerts_once",
}
BY_CHECK = {
    "settings": NODE + "setting_of_the_wrong_kind__is_the_first_check",
    "names": NODE + "slip_in_a_name__is_named_with_the_right_one",
    "rpc": NODE + "one_endpoint_of_two_down__warns",
    "sync": NODE + "one_endpoint_far_behind__warns",
    "websocket": HERE + "websocket_that_nobody_serves__fails",
    "contract": NODE + "no_contract_there__fails_and_skips_what_needs_it",
    "clock": HERE + "chain_ahead_of_this_clock__warns",
    "finality": HERE + "node_without_a_finalized_block__warns",
    "owner": HERE + "contract_of_another_kind__fails",
    "ranges": HERE + "node_that_gives_no_logs__fails",
    "guard": "test_run_guarded.py::test_doctor__owner_delegates_to_something_else__warns",
    "key": NODE + "somebody_elses_key__fails_and_exits_1",
    "balance": NODE + "balance_below_the_minimum__fails",
    "nonce": HERE + "transactions_of_the_key_wait_in_the_pool__warns",
    "backend": NODE + "backend_and_redis_out_of_reach__fail",
    "redis": NODE + "backend_and_redis_out_of_reach__fail",
    "signalling": NODE + "signalling_server__opens_a_room_or_fails",
    "nudges": HERE + "nothing_set_for_people__warns_each",
    "public-url": HERE + "nothing_set_for_people__warns_each",
    "alerts": HERE + "nothing_set_for_people__warns_each",
    "hints": HERE + "each_trust_in_hints__is_told_with_its_risk",
    "database": HERE + "database_server_out_of_reach__fails",
    "disk": NODE + "little_room_on_the_disk__warns",
    "schema": HERE + "database_of_a_newer_keeper__fails",
    "identity": NODE + "database_of_another_chain__fails",
    "keeper": NODE + "own_database__is_ok_and_nobody_runs",
    "webhook": NODE + "webhook_secret_others_may_read__fails",
    "ends": NODE + "nothing_can_report_an_end__warns_with_the_way_out",
}


@lru_cache
def names_in(file: str) -> set[str]:
    tree = ast.parse((TESTS / file).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize(
    ("known", "named"),
    [
        (set(BY_ALERT), set(ALERTS)),
        (set(BY_REASON), set(NAMES)),
        (set(BY_CHECK), {name for stage in doctor.STAGES for name in stage}),
    ],
    ids=["alerts", "reasons", "checks"],
)
def test_causes__each_name__has_a_test(known: set[str], named: set[str]) -> None:
    assert known == named


@pytest.mark.parametrize("test", sorted({*BY_ALERT.values(), *BY_REASON.values(), *BY_CHECK.values()}))
def test_causes__test_that_is_named__exists(test: str) -> None:
    file, _, name = test.partition("::")
    assert name in names_in(file)
