"""R_i = sum_k w_k q_k,i, where q_k,i is r_k,i itself, or (r_k,i - m_k) / s_k for a part k that is normalised.

m_k and s_k are mean and population standard deviation of the part over the pictures of an epoch on all ranks, so that
weights compare parts of any unit: a PickScore moves by whole points, a cosine by hundredths. A part without a spread
has no unit: its s_k is 1, so that a constant part gives zeros and rounding is not blown up to a signal.

Advantages compare within a prompt afterwards (advantages.py) and divide by the spread of the sum: what normalising
changes is only how much each part has to say in it.

Source: none is needed for a sum of z-scores. Deliberately more than the paper (arXiv 2312.03011), which has one reward:
one part with w_1 = 1 that is not normalised is that reward itself.

A part that does not look at a picture says so by NaN: it adds nothing there, and such pictures are left out of m_k and
s_k. Advantages compare within a prompt, and a part looks at all pictures of a prompt or at none.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SPREAD_FLOOR = 1e-6  # standard deviations below it are rounding


def part_scale(parts: Tensor) -> Tensor:
    """(m_k, s_k) of each part, [num_parts, 2], float64.

    Args:
        parts: raw rewards of all ranks, [num_parts, num_images]; NaN where a part does not look.
    """
    exact = parts.double()
    mean = exact.nanmean(dim=1, keepdim=True)
    std = (exact - mean).square().nanmean(dim=1).sqrt()
    # A part that looks at nothing has mean and spread NaN, and any unit.
    return torch.stack([mean[:, 0].nan_to_num(), torch.where(std > SPREAD_FLOOR, std, torch.ones_like(std))], dim=1)


def weighted_sum(
    parts: Tensor, weights: Sequence[float], normalized: Sequence[bool], scale: Tensor | None = None
) -> Tensor:
    """The reward of each picture.

    Args:
        parts: raw rewards of all ranks, [num_parts, num_images], float32; NaN where a part does not look.
        weights: w_k.
        normalized: whether part k is normalised.
        scale: (m_k, s_k) to normalise by, [num_parts, 2]; of these very pictures when left out.

    Returns:
        [num_images], float32.
    """
    total = torch.zeros(parts.shape[1])
    by = part_scale(parts) if scale is None else scale
    for part, weight, wanted, (mean, std) in zip(parts, weights, normalized, by, strict=True):
        total += weight * (((part.double() - mean) / std).float() if wanted else part).nan_to_num(nan=0.0)
    return total
