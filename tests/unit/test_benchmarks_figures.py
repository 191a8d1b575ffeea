# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks make of their runs: best, ratio, budget."""

import pytest

from benchmarks.figures import Budget, Figure, Peer, Unit, table
from benchmarks.timing import percentile


def test_less_time_is_better():
    figure = Figure("f", Unit.MICROSECONDS, (30.0, 20.0, 50.0), Peer("p", (80.0, 100.0)))
    assert (figure.best, figure.median, figure.times_better) == (20, 30, 4)


def test_more_per_second_is_better():
    figure = Figure("f", Unit.PER_SECOND, (30.0, 20.0, 50.0), Peer("p", (80.0, 100.0)))
    assert (figure.best, figure.times_better) == (50, 0.5)


@pytest.mark.parametrize(
    ("unit", "run", "budget", "kept"),
    [
        pytest.param(Unit.MILLISECONDS, 100, Budget(limit=100), True, id="at-the-limit"),
        pytest.param(Unit.MILLISECONDS, 101, Budget(limit=100), False, id="above-the-limit"),
        pytest.param(Unit.PER_SECOND, 3000, Budget(limit=3000), True, id="fast-enough"),
        pytest.param(Unit.PER_SECOND, 2999, Budget(limit=3000), False, id="not-fast-enough"),
        pytest.param(Unit.MICROSECONDS, 20, Budget(times_better=5), True, id="ratio-kept"),
        pytest.param(Unit.MICROSECONDS, 21, Budget(times_better=5), False, id="ratio-missed"),
        pytest.param(Unit.MICROSECONDS, 20, Budget(limit=10, times_better=5), False, id="both-count"),
        pytest.param(Unit.MICROSECONDS, 20, None, None, id="no-budget"),
    ],
)
def test_a_budget_is_kept_or_not(unit, run, budget, kept):
    assert Figure("f", unit, (float(run),), Peer("p", (100.0,)), budget).within_budget is kept


def cells(figure):
    return [cell.strip() for cell in table([figure]).splitlines()[-1].strip("|").split("|")]


def test_the_table_marks_what_is_over():
    over = Figure("slow one", Unit.MILLISECONDS, (200.0,), Peer("Go", (100.0,)), Budget(limit=150))
    assert cells(over) == ["slow one", "200", "200", "ms", "Go", "100", "0.50", "150", "over"]


def test_a_peer_that_is_not_there_is_said_and_not_compared():
    alone = Figure("f", Unit.MILLISECONDS, (2.0,), Peer("Go", absent="not built"), Budget(times_better=0.5))
    assert alone.within_budget is None
    assert cells(alone) == ["f", "2", "2", "ms", "Go", "not built", "", "0.5 x peer", ""]


def test_a_limit_holds_without_its_peer():
    alone = Figure("f", Unit.MILLISECONDS, (9.0,), Peer("Go", absent="not built"), Budget(limit=5, times_better=0.5))
    assert alone.within_budget is False


def test_what_was_not_measured_says_why():
    missing = Figure("f", Unit.MILLISECONDS, absent="needs root", budget=Budget(limit=5))
    assert missing.within_budget is None
    assert missing.as_dict()["best"] is None
    assert cells(missing) == ["f", "needs root", "", "ms", "", "", "", "5", ""]


def test_percentile_of_a_single_value():
    assert percentile([7.0], 0.99) == 7


def test_percentile_leaves_the_share_below():
    assert percentile([float(number) for number in range(100)], 0.99) == 99
