"""L = -min(r A, clip(r, 1 - e, 1 + e) A), with r = exp(log p - log p_old).

Source: PPO, arXiv 1707.06347, eq. 7, on denoising steps as in DDPO's importance-sampled form, arXiv 2305.13301, eq. 5.
Written as a loss (to be minimised): max of the negated terms.

Deliberately different from the papers, as in ddpo-pytorch and TRL: log-probabilities are means over latent dimensions
and not sums, so that a ratio is exp(mean difference) and one clip range (1e-4) fits latents of any size.
"""

from __future__ import annotations

from torch import Tensor


def clipped_surrogate(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, clip_range: float) -> Tensor:
    """The surrogate's loss for each (latent, timestep) pair.

    Args:
        log_prob: under the policy that is trained, [batch], with gradient.
        old_log_prob: under the policy that sampled, [batch].
        advantage: [batch].
        clip_range: e > 0.

    Returns:
        [batch].
    """
    ratio = (log_prob - old_log_prob).exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    return (-advantage * ratio).maximum(-advantage * clipped)


def clip_fraction(log_prob: Tensor, old_log_prob: Tensor, clip_range: float) -> Tensor:
    """Share of pairs whose ratio lies outside the clip range: a scalar in [0, 1]."""
    return (((log_prob - old_log_prob).exp() - 1).abs() > clip_range).float().mean()
