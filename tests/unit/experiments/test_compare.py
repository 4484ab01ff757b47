"""Differences in pairs, and what is said of them. The numbers are worked out by hand."""

from __future__ import annotations

import pytest

from experiments.cells import Cell
from experiments.compare import Row, difference, effect, effect_line, goal_line, points, reaches, signed
from experiments.records import Record
from experiments.tables import Interval

ONE, OTHER = "one", "other"


def book(values: dict[str, dict[tuple[str, int], float]]):
    """A way to find records with one number, by recipe and (subject, seed)."""

    def find(cell: Cell) -> Record | None:
        value = values.get(cell.recipe, {}).get((cell.subject, cell.seed))
        if value is None:
            return None
        numbers = {"reinforced": {"m": {"trained": value}}}
        return Record(key="k", code="c", made="", minutes=1, numbers=numbers, curve={})

    return find


def row(recipe: str, *places: tuple[str, int]) -> Row:
    return Row(recipe, recipe, "reinforced", tuple(Cell(subject, seed, recipe) for subject, seed in places))


PLACES = [("demo", 0), ("demo", 1), ("patch", 0)]


def test_differences_are_taken_in_pairs():
    # Cells differ much among each other (0.1 to 0.9) and their pairs not at all: the interval is a point.
    find = book(
        {ONE: dict(zip(PLACES, (0.3, 0.5, 0.9), strict=True)), OTHER: dict(zip(PLACES, (0.1, 0.3, 0.7), strict=True))}
    )
    found = difference(row(ONE, *PLACES), row(OTHER, *PLACES), find, "m", "trained")
    assert found is not None
    assert [found.mean, found.low, found.high] == pytest.approx([0.2, 0.2, 0.2])
    assert found.cells == 3


def test_only_pairs_that_both_have_count():
    find = book({ONE: {("demo", 0): 1.0, ("demo", 1): 0.5}, OTHER: {("demo", 1): 0.25, ("patch", 0): 0.0}})
    found = difference(row(ONE, *PLACES), row(OTHER, *PLACES), find, "m", "trained")
    assert found == Interval(0.25, 0.25, 0.25, 1)
    assert difference(row(ONE, *PLACES), row(OTHER, *PLACES), find, "m", "held out") is None
    assert difference(row(ONE, *PLACES), row("neither", *PLACES), find, "m", "trained") is None


def test_interval_of_two_pairs_by_hand():
    # Differences 0 and 1: a resample's mean is 0, 1/2 and 1 with chances 1/4, 1/2 and 1/4; both ends are beyond 2.5 %.
    find = book({ONE: {("demo", 0): 0.5, ("demo", 1): 1.0}, OTHER: {("demo", 0): 0.5, ("demo", 1): 0.0}})
    found = difference(row(ONE, *PLACES), row(OTHER, *PLACES), find, "m", "trained")
    assert found == Interval(0.5, 0.0, 1.0, 2)


def test_the_mean_of_a_row():
    find = book({ONE: {("demo", 0): 0.5, ("patch", 0): 1.0}})
    mean = row(ONE, *PLACES).mean(find, "m", "trained")
    assert mean == Interval(0.75, 0.5, 1.0, 2)
    assert row(OTHER, *PLACES).mean(find, "m", "trained") is None


def of(mean: float, low: float, high: float, cells: int = 25) -> Interval:
    return Interval(mean, low, high, cells)


def test_reached_is_said_of_the_lower_end():
    assert reaches(of(0.35, 0.30, 0.40), 0.30) == "reached"
    assert reaches(of(0.35, 0.29, 0.40), 0.30) == "not reached"
    assert reaches(of(0.9, 0.9, 0.9, cells=2), 0.30) == "open"
    assert reaches(None, 0.30) == "open"
    # No loss above .02: a loss of .01 that may be .03 is not shown to be none.
    assert reaches(of(-0.01, -0.019, 0.0), -0.02) == "reached"
    assert reaches(of(-0.01, -0.03, 0.01), -0.02) == "not reached"


def test_effect_needs_the_whole_interval():
    assert effect(of(0.1, 0.01, 0.2)) == "it helps"
    assert effect(of(-0.1, -0.2, -0.01)) == "it harms"
    assert effect(of(0.1, -0.01, 0.2)) == "no effect established"
    assert effect(of(0.1, 0.1, 0.1, cells=2)) == "open"


def test_lines():
    assert points(of(0.157, 0.1, 0.2145)) == "+15.7 [+10.0, +21.4] points"
    assert points(of(-0.157, 0, 0, cells=1)) == "-15.7 points"
    assert signed(of(-0.0126, -0.02, 0.005)) == "-0.013 [-0.020, +0.005]"
    line = goal_line("at least +30", of(0.35, 0.29, 0.40), 0.30, points)
    assert line == (
        "| at least +30 | +35.0 [+29.0, +40.0] points, 25 pairs | "
        "**not reached (the mean does, the interval's lower end does not)** |"
    )
    assert goal_line("x", None, 0.3, points) == "| x | no pair of cells yet | **open** |"
    assert goal_line("x", of(0.5, 0.5, 0.5, 1), 0.3, points) == (
        "| x | +50.0 points, 1 pair | **open (1 of at least 3 pairs)** |"
    )
    found = [of(0.1, 0.05, 0.15), of(-0.1, -0.15, -0.05), None]
    assert effect_line("what", found).endswith("| - | 25 | **it harms** | open |")
