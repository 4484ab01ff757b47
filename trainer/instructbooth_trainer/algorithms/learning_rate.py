"""The learning rate of a step: it rises linearly over the warm-up, then stays or falls to 0.

With t = (step - warmup) / (steps - warmup): cosine is (1 + cos(pi t)) / 2 (SGDR without restarts, arXiv 1608.03983,
eq. 5), linear is 1 - t, as diffusers' scripts have it: the step after the last one would have rate 0. Deliberately
different from those: step 0 of a warm-up of w steps has 1 / (w + 1) of the peak and not 0, so that none is wasted.
"""

from __future__ import annotations

import math


def learning_rate(peak: float, schedule: str, step: int, steps: int, warmup: int) -> float:
    """The rate of a step.

    Args:
        peak: the rate after warm-up, > 0.
        schedule: `constant`, `cosine` or `linear`.
        step: counted from 0.
        steps: of the whole training.
        warmup: steps of the warm-up, at most `steps`.

    Raises:
        ValueError: for any other schedule.
    """
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    if schedule == "constant":
        return peak
    t = (step - warmup) / (steps - warmup)
    if schedule == "cosine":
        return peak * (1 + math.cos(math.pi * t)) / 2
    if schedule == "linear":
        return peak * (1 - t)
    raise ValueError(f"schedule {schedule!r} is not constant, cosine or linear")
