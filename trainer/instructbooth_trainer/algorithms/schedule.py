"""Which prompts an epoch draws pictures for, and which of them name the identifier.

Source: InstructBooth, arXiv 2312.03011: RL training uses prompts with and without the identifier.
Deliberate choice: the share is exact, not a coin per prompt. Over the first n prompts of a run, round(share * n) are
identifier-free. Prompts come round-robin from a reshuffled deck, so none is left out for long.
"""

from __future__ import annotations

import hashlib
import math
import random
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


def schedule_prompts(
    num_prompts: int, per_epoch: int, identifier_free_share: float, seed: int, epoch: int
) -> list[ScheduledPrompt]:
    """The prompts of one epoch: a pure function of its arguments, so equal on all ranks and after a restart.

    Args:
        num_prompts: length of the prompt list, at least 1.
        per_epoch: prompts to draw.
        identifier_free_share: in [0, 1].
        seed: of the stage.
        epoch: from 0.
    """
    first = epoch * per_epoch
    chosen = []
    for position in range(first, first + per_epoch):
        deck, card = divmod(position, num_prompts)
        chosen.append(_shuffled(num_prompts, "deck", seed, deck)[card])
    before, after = (math.floor(identifier_free_share * n + 0.5) for n in (first, first + per_epoch))
    free = set(_shuffled(per_epoch, "free", seed, epoch)[: after - before])
    return [ScheduledPrompt(prompt, index not in free) for index, prompt in enumerate(chosen)]


def choose_timesteps(num_steps: int, count: int | None, seed: int, epoch: int, image: int) -> list[int]:
    """Indices into a trajectory that one picture is trained on, ascending: `count` of the first num_steps - 1.

    The last step is never among them: its sigma may be 0, and then it has no log-probability.
    """
    trainable = num_steps - 1
    if count is None or count >= trainable:
        return list(range(trainable))
    return sorted(_shuffled(trainable, "timesteps", seed, epoch, image)[:count])
