"""What happens to a job in a simulated day, decided by its number alone, so that a run can be repeated."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.operator.measures import percentile

TTL_SECONDS = 3600


@dataclass(frozen=True)
class Fate:
    """What is done to a job: seconds after its creation, None for never."""

    deleted_after: float | None = None
    suspended_after: float | None = None
    resumed_after: float | None = None


def fate(number: int) -> Fate:
    """One job in ten is deleted while it runs, one in ten is suspended for half an hour."""
    dice = random.Random(number)
    after = dice.uniform(60, 5400)
    kind = dice.random()
    if kind < 0.1:
        return Fate(deleted_after=after)
    if kind < 0.2:
        return Fate(suspended_after=after, resumed_after=after + 1800)
    return Fate()


def growth(samples: Sequence[dict[str, Any]], field: str) -> float:
    """How much more of something there was in the last quarter of the samples than in the second, by their medians."""
    quarter = max(1, len(samples) // 4)
    early, late = samples[quarter : 2 * quarter], samples[-quarter:]
    return percentile([s[field] for s in late], 0.5) - percentile([s[field] for s in early], 0.5)
