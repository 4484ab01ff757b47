"""A_i = clip((r_i - m) / max(s, floor), -c, c), where m is the mean of its prompt's pictures, s a standard deviation.

s is either the prompt's own or that of all deviations r_i - m of the epoch. By its own every prompt pushes alike, even
one whose pictures are all right and differ by the reward's noise alone; by the epoch's a prompt pushes as much as its
pictures differ in reward.

Source: DDPO's per-prompt normalisation, arXiv 2305.13301, section 4.2, as group statistics (GRPO, arXiv 2402.03300,
eq. 4); the epoch's spread as in Flow-GRPO, arXiv 2505.05470. Deliberate deviations: the group is the prompt's pictures
of this epoch on all ranks, not a running buffer, so that an epoch depends on nothing but itself; the standard deviation
is the population's and has a floor, so that a group without any difference gives zeros and one with hardly any does not
shout.
"""

from __future__ import annotations

import torch
from torch import Tensor


def group_advantages(
    rewards: Tensor, groups: Tensor, clip: float, std_floor: float = 1e-3, *, shared_std: bool = False
) -> Tensor:
    """Advantages of pictures compared within their group.

    Args:
        rewards: of all ranks, [num_images].
        groups: number of the prompt each picture was drawn for, [num_images], integers.
        clip: bound c > 0, in standard deviations.
        std_floor: smallest standard deviation divided by, in units of the reward.
        shared_std: divide by the standard deviation of all groups' deviations, not by each group's own.

    Returns:
        [num_images], float32.
    """
    index: Tensor = torch.unique(groups, return_inverse=True)[1]
    size = index.bincount().double()

    def group_means(values: Tensor) -> Tensor:
        return torch.zeros_like(size).index_add(0, index, values) / size

    reward = rewards.double()
    deviation = reward - group_means(reward)[index]
    square = deviation.square()
    variance = square.mean() if shared_std else group_means(square)[index]
    advantages: Tensor = (deviation / variance.sqrt().clamp(min=std_floor)).clamp(-clip, clip).float()
    return advantages
