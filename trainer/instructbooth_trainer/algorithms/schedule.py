"""Which prompts an epoch draws pictures for, which of them name the identifier, and which steps are trained.

Source: InstructBooth, arXiv 2312.03011: RL training uses prompts with and without the identifier.
Deliberate choice: the share is exact, not a coin per prompt. Over the first n prompts of a run, round(share * n) are
identifier-free. Prompts come round-robin from a reshuffled deck of as many cards as there are prompts, so none is left
out for long. With weights w, card k of a deck of N is the prompt in whose share of the line from 0 to W = sum w the
point (k + u) W / N lies (systematic sampling, u uniform in each deck): prompt i has N w_i / W cards on average, and
never a whole card more or less.

The window of steps: MixGRPO, arXiv 2507.21802 (noise and gradients in a window that moves on from the noisiest steps;
it has one of 4 steps that moves by 1 every 25 epochs), and Flow-GRPO-Fast of arXiv 2505.05470's authors.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ScheduledPrompt:
    """One prompt of an epoch: its number in the prompt list, and whether the identifier stands in it."""

    prompt: int
    identifier: bool


def _shuffled(count: int, *key: int | str) -> list[int]:
    order = list(range(count))
    random.Random(hashlib.sha256(repr(key).encode()).digest()).shuffle(order)
    return order


def _cards(weights: Sequence[float], seed: int, deck: int) -> list[int]:
    """The prompts on the cards of a deck, as many as there are prompts, in proportion to their weights."""
    ends = list(itertools.accumulate(weights))
    u = random.Random(hashlib.sha256(repr(("cards", seed, deck)).encode()).digest()).random()
    points = ((k + u) * ends[-1] / len(weights) for k in range(len(weights)))
    return [min(bisect.bisect_right(ends, point), len(weights) - 1) for point in points]


def schedule_prompts(
    weights: Sequence[float], per_epoch: int, identifier_free_share: float, seed: int, epoch: int
) -> list[ScheduledPrompt]:
    """The prompts of one epoch: a pure function of its arguments, so equal on all ranks and after a restart.

    Args:
        weights: of each prompt of the list, above 0; at least one.
        per_epoch: prompts to draw.
        identifier_free_share: in [0, 1].
        seed: of the stage.
        epoch: from 0.
    """
    first, count = epoch * per_epoch, len(weights)
    even = len(set(weights)) == 1
    chosen = []
    for position in range(first, first + per_epoch):
        deck, card = divmod(position, count)
        number = _shuffled(count, "deck", seed, deck)[card]
        chosen.append(number if even else _cards(weights, seed, deck)[number])
    before, after = (math.floor(identifier_free_share * n + 0.5) for n in (first, first + per_epoch))
    free = set(_shuffled(per_epoch, "free", seed, epoch)[: after - before])
    return [ScheduledPrompt(prompt, index not in free) for index, prompt in enumerate(chosen)]


def window_steps(num_steps: int, start: int, end: int, interval: int | None, epoch: int) -> range:
    """The steps of a trajectory that an epoch draws noise in: a window of end - start steps.

    It begins at `start`, moves on by one step every `interval` epochs, and begins again once it has been at the last
    steps but one: the very last may have no sigma.

    Args:
        num_steps: of the sampling run.
        start: first step of the window.
        end: the step after its last one, at most num_steps - 1.
        interval: epochs that it stays; for ever if None.
        epoch: from 0.
    """
    moved = 0 if interval is None else epoch // interval % (num_steps - end)
    return range(start + moved, end + moved)


def choose_timesteps(steps: range, count: int | None, seed: int, epoch: int, image: int) -> list[int]:
    """Indices into a trajectory that one picture is trained on, ascending: `count` of the steps that may be."""
    if count is None or count >= len(steps):
        return list(steps)
    return sorted(steps[n] for n in _shuffled(len(steps), "timesteps", seed, epoch, image)[:count])
