"""x_t = (1 - t) x_0 + t noise, t in [0, 1]; what the model should predict is the velocity v = noise - x_0.

Source: rectified flow, arXiv 2209.03003, eq. 1. Training times are logit-normal, t = sigmoid(u) with u ~ N(0, 1), and
shifted to s t / (1 + (s - 1) t) for models of high resolution (Stable Diffusion 3, arXiv 2403.03206, section 3.1 and
eq. 23). All rows weigh alike: the density of the times takes the place of a weighting.
"""

from __future__ import annotations

import torch
from torch import Tensor


def interpolate(latents: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """x_t. latents, noise: [batch, ...]; time: t, [batch]."""
    time = time.view(-1, *[1] * (latents.dim() - 1))
    return (1 - time) * latents + time * noise


def velocity(latents: Tensor, noise: Tensor) -> Tensor:
    """v = dx_t / dt, [batch, ...]."""
    return noise - latents


def logit_normal_times(count: int, shift: float, generator: torch.Generator) -> Tensor:
    """Training times in (0, 1), [count], float32.

    Args:
        count: how many.
        shift: s > 0; 1 leaves them where they are, more moves them towards noise.
        generator: of the CPU.
    """
    time = torch.randn(count, generator=generator).sigmoid()
    return shift * time / (1 + (shift - 1) * time)
