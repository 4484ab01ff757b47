"""Who looks at pictures while they are drawn: the rewards, and what the guards measure.

All of it is a column of numbers per picture, so that one sum over the ranks gathers everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from instructbooth.spec.scores import Guards, RewardSpec
from instructbooth_trainer.algorithms.diversity import SIDE, group_diversity, thumbnails
from instructbooth_trainer.rewards import RewardContext, WeightedReward
from instructbooth_trainer.rewards.base import Reward, load_reward, score

IDENTITY, DIVERSITY = "guard/identity", "guard/diversity"  # names in the curve and among the metrics


@dataclass(frozen=True)
class Verdict:
    """What all ranks' pictures got.

    Attributes:
        scores: raw scores of the reward's parts, [parts, num_images]; NaN where a part does not look.
        measured: what guards look at, by name; without identity where no picture's prompt has the identifier.
    """

    scores: Tensor
    measured: dict[str, float]


class Judges:
    """The reward, the identity guard's score and thumbnails, as far as they are asked for.

    Attributes:
        reward: what the policy is trained on.
        rows: numbers that a picture gets.
    """

    def __init__(self, reward: WeightedReward, identity: tuple[str, Reward] | None, *, diversity: bool) -> None:
        """Take the reward, the guard's name and score, and whether diversity is measured."""
        self.reward, self._identity, self._diversity = reward, identity, diversity
        self._parts = len(reward.names)
        self.rows = self._parts + (identity is not None) + 3 * SIDE * SIDE * diversity

    @classmethod
    def load(cls, rewards: Sequence[RewardSpec], guards: Guards, context: RewardContext) -> Judges:
        """Load every score. Raises UserError as `load_reward` does."""
        spec = guards.identity
        identity = None if spec is None else (spec.name, load_reward(spec, context))
        return cls(WeightedReward.load(rewards, context), identity, diversity=guards.diversity_floor is not None)

    def reward_alone(self) -> Judges:
        """The same without what guards measure."""
        return Judges(self.reward, None, diversity=False)

    def __call__(self, images: Tensor, prompts: Sequence[str], asked: Sequence[bool]) -> Tensor:
        """The columns of a batch, [rows, batch], float32 on the CPU; arguments and errors are the reward's."""
        rows = [self.reward(images, prompts, asked)]
        if self._identity is not None:
            rows.append(score(*self._identity, images, prompts)[None])
        if self._diversity:
            rows.append(thumbnails(images).cpu().T)
        return torch.cat(rows)

    def verdict(self, columns: Tensor, groups: Tensor, identified: Sequence[bool]) -> Verdict:
        """What the columns of all ranks say.

        Args:
            columns: [rows, num_images].
            groups: number of each picture's prompt, [num_images].
            identified: whether each picture's prompt holds the identifier.
        """
        measured = {}
        if self._identity is not None and any(identified):
            measured[IDENTITY] = float(columns[self._parts, torch.tensor(identified)].mean())
        if self._diversity:
            measured[DIVERSITY] = group_diversity(columns[-3 * SIDE * SIDE :].T, groups)
        return Verdict(columns[: self._parts], measured)
