"""When a curve reaches a level: worked out by hand."""

from __future__ import annotations

import pytest

from benchmarks.trainer.equal.crossing import Curve, level

RISING = Curve([0, 10, 20, 30, 40], [0.3, 0.3, 0.6, 0.9, 0.9])


def test_the_running_mean_looks_back_over_three_snapshots():
    assert RISING.smooth() == pytest.approx([0.3, 0.3, 0.4, 0.6, 0.8])


@pytest.mark.parametrize(("goal", "seconds"), [(0.3, 0), (0.35, 15), (0.5, 25), (0.7, 35), (0.81, None)])
def test_between_snapshots_it_is_a_straight_line(goal: float, seconds: float | None):
    assert RISING.reaches(goal) == (None if seconds is None else pytest.approx(seconds))


def test_levels_are_shares_of_the_gain():
    assert level(RISING, 1) == pytest.approx(0.8)
    assert level(RISING, 0.5) == pytest.approx(0.55)  # halfway from the start, .3
