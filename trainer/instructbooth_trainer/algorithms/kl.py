"""KL(N(mu, sigma^2) || N(mu_ref, sigma^2)) = |mu - mu_ref|^2 / (2 sigma^2), averaged over latent dimensions.

Source: DPOK, arXiv 2305.16381, eq. 8; both policies share sigma_t, so the log-determinants cancel.
Deliberate deviation: the mean over latent dimensions, the reduction of `gaussian_log_prob`, so that one KL weight fits
latents of any size.
"""

from __future__ import annotations

from torch import Tensor


def gaussian_kl(mean: Tensor, reference_mean: Tensor, std: Tensor) -> Tensor:
    """KL per dimension of one denoising step to the reference policy.

    Args:
        mean: mu of the policy, [batch, ...].
        reference_mean: mu of the reference policy, same shape.
        std: sigma_t > 0, [batch].

    Returns:
        [batch], float32, >= 0.
    """
    squared = (mean.float() - reference_mean.float()).flatten(1).pow(2).mean(dim=1)
    return squared / (2 * std.float() ** 2)
