"""When a curve reaches a level, worked out by hand, and what is made of it."""

from __future__ import annotations

import json

import pytest

from benchmarks.trainer.equal.__main__ import Notebook, compare
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


def test_seconds_to_the_same_alignment_are_compared(tmp_path):
    book = Notebook(tmp_path / "curves.jsonl", subject="demo", seed=0)
    Notebook(tmp_path / "curves.jsonl", subject="demo", seed=1).add("kl-10", Curve([0], [0]))
    book.add("ours", RISING)
    book.add("trl", Curve([0, 30, 60, 90, 120], RISING.alignment))  # the same, three times as slowly
    book.add("trl-own-rate", Curve([0, 100], [0.3, 0.3]))
    curves = book.curves()
    assert list(curves) == ["ours", "trl", "trl-own-rate"]
    rows = [json.loads(measure.line()) for measure in compare(curves, "ours", "trl")]
    assert [row["ratio"] for row in rows] == [pytest.approx(3)] * 3
    (never, *_) = compare(curves, "ours", "trl-own-rate")
    assert (never.peer, never.reason) == (None, "the peer did not reach it in 100 s")
