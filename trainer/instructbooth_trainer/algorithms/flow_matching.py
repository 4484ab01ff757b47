"""x_t = (1 - t) x_0 + t noise, t in [0, 1]; what the model should predict is the velocity v = noise - x_0.

Source: rectified flow, arXiv 2209.03003, eq. 1; times and weights of Stable Diffusion 3, arXiv 2403.03206, section 3.1,
under the names that diffusers' scripts have for them:

logit_normal  t = sigmoid(m + s u), u ~ N(0, 1); weight 1
mode          t = 1 - u - s (cos^2(pi u / 2) - 1 + u), u ~ U(0, 1); weight 1
cosmap        t ~ U(0, 1); weight 2 / (pi (1 - 2 t + 2 t^2)), the density of the paper's CosMap
sigma_sqrt    t ~ U(0, 1); weight t^-2
none          t ~ U(0, 1); weight 1

Times are then shifted to s t / (1 + (s - 1) t) for models of high resolution (eq. 23); weights are of the shifted ones.
Deliberate deviations:
- t is the share of noise, as in the paper. diffusers' scripts count times from the noisy end: their logit_mean of 1 is
  ours of -1. The other schemes are symmetric.
- t^-2 has no mean over (0, 1): times below 1e-3, the first of the usual thousand, weigh like 1e-3.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Scheme = Literal["logit_normal", "mode", "cosmap", "sigma_sqrt", "none"]
FIRST = 1e-3


def interpolate(latents: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """x_t. latents, noise: [batch, ...]; time: t, [batch]."""
    time = time.view(-1, *[1] * (latents.dim() - 1))
    return (1 - time) * latents + time * noise


def velocity(latents: Tensor, noise: Tensor) -> Tensor:
    """v = dx_t / dt, [batch, ...]."""
    return noise - latents


def draw_times(
    scheme: Scheme, count: int, generator: torch.Generator, *, mean: float = 0.0, std: float = 1.0, scale: float = 1.29
) -> Tensor:
    """Training times before the shift, [count], float32.

    Args:
        scheme: which of the above.
        count: how many.
        generator: of the CPU.
        mean: m of logit_normal.
        std: s of logit_normal, > 0.
        scale: s of mode, from -1 to 2 / (pi - 2) = 1.75.
    """
    if scheme == "logit_normal":
        return (mean + std * torch.randn(count, generator=generator)).sigmoid()
    uniform = torch.rand(count, generator=generator)
    if scheme == "mode":
        return 1 - uniform - scale * (torch.cos(math.pi * uniform / 2) ** 2 - 1 + uniform)
    return uniform


def shift_times(time: Tensor, shift: float) -> Tensor:
    """Times moved towards noise; a shift of 1 leaves them where they are. time: [count]."""
    return shift * time / (1 + (shift - 1) * time)


def time_weights(scheme: Scheme, time: Tensor) -> Tensor | None:
    """Weights of shifted times, [batch]; None where all weigh alike."""
    if scheme == "cosmap":
        return 2 / (math.pi * (1 - 2 * time + 2 * time**2))
    if scheme == "sigma_sqrt":
        return time.clamp(min=FIRST) ** -2
    return None
