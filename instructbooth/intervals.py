"""Percentile bootstrap: how far a mean could have come out otherwise, had other units been drawn.

With x_1 ... x_n one number per unit (a prompt, a subject, a cell of an experiment): draw n of them with replacement,
take the mean, RESAMPLES times; the interval is from the 2.5th to the 97.5th percentile of these means. Source: Efron
and Tibshirani, An Introduction to the Bootstrap (1993), section 13.3. Seeded; no NumPy, for the
command has none.
Why the units are what they are: docs/decisions/0017-dreambench.md.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

RESAMPLES = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean over units and its 95 % interval; the ends are the mean itself for a single unit.

    Attributes:
        cells: how many units.
    """

    mean: float
    low: float
    high: float
    cells: int

    def __str__(self) -> str:
        return f"{self.mean:.3f}" + (f" [{self.low:.3f}, {self.high:.3f}]" if self.cells > 1 else "")


def interval(values: Sequence[float], seed: int = 0) -> Interval:
    """Mean and interval of one number per unit. Raises ValueError for no values."""
    n = len(values)
    if not n:
        raise ValueError("no cells, no mean")
    draw = random.Random(seed).random
    means = sorted(sum([values[int(draw() * n)] for _ in range(n)]) / n for _ in range(RESAMPLES))
    tail = (1 - LEVEL) / 2
    return Interval(math.fsum(values) / n, percentile(means, tail), percentile(means, 1 - tail), n)


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which a share of the sorted values lies, interpolated between neighbours."""
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
