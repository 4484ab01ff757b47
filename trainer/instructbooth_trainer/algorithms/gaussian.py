"""log N(x; mean, std^2 I), averaged over latent dimensions.

Source: the transition p(x_{t-1} | x_t, c) of DDPO, arXiv 2305.13301, section 4.3.
Deliberate deviation from a density: the MEAN over latent dimensions, not the sum. A sum over 16,384 dimensions makes
the importance ratio overflow, and the clip range of 1e-4 only makes sense with the mean.
"""

from __future__ import annotations

import math

from torch import Tensor


def gaussian_log_prob(sample: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Mean log-density per dimension.

    Args:
        sample: x_{t-1}, [batch, ...].
        mean: mu(x_t, c), same shape.
        std: sigma_t > 0, [batch].

    Returns:
        [batch], float32 whatever the inputs' dtype.
    """
    std = std.float().view(-1, *[1] * (sample.dim() - 1))
    squared = ((sample.float() - mean.float()) / std) ** 2
    return (-0.5 * squared - std.log() - 0.5 * math.log(2 * math.pi)).flatten(1).mean(dim=1)
