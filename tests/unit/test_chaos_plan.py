"""What `make chaos` draws from its seed."""

from __future__ import annotations

from scripts.chaos.__main__ import FAULTS, summary
from scripts.chaos.lane import Result
from scripts.chaos.plan import Restart, Window, plan


def test_plan__same_seed_and_number__is_the_same() -> None:
    """ "the same seed and number give the same plan"."""
    assert [plan(7, number, 4) for number in range(50)] == [plan(7, number, 4) for number in range(50)]
    assert [plan(7, number, 4) for number in range(50)] != [plan(8, number, 4) for number in range(50)]


def test_plan__fifty_runs__meet_every_window_with_every_restart_in_both_modes() -> None:
    drawn = [plan(1, number, 4) for number in range(50)]
    met = {(one.guarded, one.kill.window, one.restart) for one in drawn}
    assert met == {(mode, window, restart) for mode in (False, True) for window in Window for restart in Restart}
    assert {one.lessons for one in drawn} == {1, 2, 3, 4}
    assert any(one.again for one in drawn)


def test_summary__has_its_keys__and_counts_faults() -> None:
    good, bad = Result(plan(1, 0, 4), decided=2, ended=2), Result(plan(1, 1, 4), decided=3, ended=2)
    bad.lost.append("session 5 hasn't ended")
    counted = summary([good, bad])
    assert counted == {
        "runs": 2,
        "decided": 5,
        "ended": 4,
        "lost": 1,
        "double": 0,
        "wrong_session": 0,
        "unexplained": 0,
    }
    assert set(FAULTS) < set(counted)
    assert bad.faults == ["lost: session 5 hasn't ended"]
