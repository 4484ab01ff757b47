"""Rows of the results, differences between them cell by cell, and what follows: sentences made of the numbers.

Every recipe has the same subjects and seeds, and pictures of all models are drawn from the same noise: rows are
compared as pairs, and the interval is of the mean of the differences (tables.interval).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from experiments.cells import Cell
from experiments.records import Record
from experiments.tables import Interval, Key, interval

ORACLE, REWARD, LIKENESS = "miniature-oracle", "clip-score", "subject-identity"
Find = Callable[[Cell], Record | None]
"""The record of a cell, if there is one of this experiment."""

REACHED, NOT_REACHED, OPEN = "reached", "not reached", "open"
ENOUGH: Final = 3
"""Pairs without which nothing is judged."""


@dataclass(frozen=True)
class Row:
    """One of a cell's models: `recipe` and one of report.evaluation.MODELS; `cells` are those compared."""

    title: str
    recipe: str
    model: str
    cells: tuple[Cell, ...]

    def values(self, find: Find, metric: str, group: str) -> dict[tuple[str, int], float]:
        """The metric's mean in a group of prompts, by (subject, seed), of the cells that are there."""
        key: Key = (self.model, metric, group)
        found = {(cell.subject, cell.seed): find(cell) for cell in self.cells}
        numbers = {place: record.number(key) for place, record in found.items() if record}
        return {place: number for place, number in numbers.items() if number is not None}

    def mean(self, find: Find, metric: str, group: str) -> Interval | None:
        """Over the cells that are there; None for none."""
        values = self.values(find, metric, group)
        return interval(list(values.values())) if values else None


def difference(one: Row, other: Row, find: Find, metric: str, group: str) -> Interval | None:
    """one - other, over the (subject, seed) that both have; None without any."""
    first, second = one.values(find, metric, group), other.values(find, metric, group)
    pairs = [value - second[place] for place, value in first.items() if place in second]
    return interval(pairs) if pairs else None


def counted(found: Interval) -> str:
    """How many pairs a difference is the mean of."""
    return "1 pair" if found.cells == 1 else f"{found.cells} pairs"


def reaches(found: Interval | None, goal: float) -> str:
    """Whether a difference is at least a goal: its interval's lower end counts, not its mean."""
    if found is None or found.cells < ENOUGH:
        return OPEN
    return REACHED if found.low >= goal else NOT_REACHED


def effect(found: Interval | None) -> str:
    """What an interval says of a difference's sign."""
    if found is None or found.cells < ENOUGH:
        return OPEN
    if found.low > 0:
        return "it helps"
    return "it harms" if found.high < 0 else "no effect established"


def points(found: Interval) -> str:
    """A difference of shares in points of 100, with its interval."""
    ends = f" [{100 * found.low:+.1f}, {100 * found.high:+.1f}]" if found.cells > 1 else ""
    return f"{100 * found.mean:+.1f}{ends} points"


def signed(found: Interval) -> str:
    """A difference with its interval."""
    ends = f" [{found.low:+.3f}, {found.high:+.3f}]" if found.cells > 1 else ""
    return f"{found.mean:+.3f}{ends}"


def goal_line(text: str, found: Interval | None, goal: float, shown: Callable[[Interval], str]) -> str:
    """A line of the goals' table: what is asked, what was found, the verdict."""
    verdict = reaches(found, goal)
    if found is None:
        return f"| {text} | no pair of cells yet | **{OPEN}** |"
    if verdict == NOT_REACHED and found.mean >= goal:
        verdict += " (the mean does, the interval's lower end does not)"
    if verdict == OPEN:
        verdict += f" ({found.cells} of at least {ENOUGH} pairs)"
    return f"| {text} | {shown(found)}, {counted(found)} | **{verdict}** |"


def effect_line(text: str, found: Sequence[Interval | None]) -> str:
    """A line of the techniques' table: alignment on trained and unseen prompts, likeness; verdicts on the last two."""
    shown = [points(found[0]) if found[0] else "-", points(found[1]) if found[1] else "-"]
    shown.append(signed(found[2]) if found[2] else "-")
    pairs = found[1].cells if found[1] else 0
    return f"| {text} | {' | '.join(shown)} | {pairs} | **{effect(found[1])}** | {effect(found[2])} |"
