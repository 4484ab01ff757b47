"""A_i = clip((r_i - mean(r)) / max(std(r), floor), -c, c), over the pictures of one prompt.

Source: DDPO's per-prompt normalisation, arXiv 2305.13301, section 4.2, as group statistics (GRPO, arXiv 2402.03300,
eq. 4). Deliberate deviations: the group is the prompt's pictures of this epoch on all ranks, not a running buffer, so
that an epoch depends on nothing but itself; the standard deviation is the population's and has a floor, so that a group
without any difference gives zeros and one with hardly any does not shout.
"""

from __future__ import annotations

import torch
from torch import Tensor


def group_advantages(rewards: Tensor, groups: Tensor, clip: float, std_floor: float = 1e-3) -> Tensor:
    """Advantages of pictures compared within their group.

    Args:
        rewards: of all ranks, [num_images].
        groups: number of the prompt each picture was drawn for, [num_images], integers.
        clip: bound c > 0, in standard deviations.
        std_floor: smallest standard deviation divided by, in units of the reward.

    Returns:
        [num_images], float32.
    """
    advantages = torch.zeros_like(rewards, dtype=torch.float32)
    for group in set(groups.tolist()):
        members = groups == group
        reward = rewards[members].double()
        std = reward.std(correction=0).clamp(min=std_floor)
        advantages[members] = ((reward - reward.mean()) / std).float()
    return advantages.clamp(-clip, clip)
