"""L = |f(x_t, t, c) - y|^2 + lambda |f(x'_t, t, c_class) - y'|^2: subject loss plus prior-preservation loss.

Source: DreamBooth, arXiv 2208.12242, eq. 2. The target y is the noise (epsilon) or the velocity
v = sqrt(abar_t) noise - sqrt(1 - abar_t) x_0 (progressive distillation, arXiv 2202.00512, appendix D).
Each row may be weighed by its timestep, w_t = min(SNR, gamma) / SNR for epsilon and min(SNR, gamma) / (SNR + 1) for v,
with SNR = abar_t / (1 - abar_t) (min-SNR, arXiv 2303.09556, section 3.4); class rows are weighed like the subject's.

Deliberately different from the paper: errors are means over a picture's latent dimensions and over rows, as in
diffusers' scripts, and not squared norms.
"""

from __future__ import annotations

from torch import Tensor


def add_noise(latents: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise. latents, noise: [batch, ...]; alpha_bar: [batch]."""
    alpha_bar = alpha_bar.view(-1, *[1] * (latents.dim() - 1))
    return alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * noise


def diffusion_target(latents: Tensor, noise: Tensor, alpha_bar: Tensor, prediction_type: str) -> Tensor:
    """What the model should predict, [batch, ...]: the noise or the velocity.

    Raises:
        ValueError: for any other prediction type than `epsilon` and `v_prediction`.
    """
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "v_prediction":
        alpha_bar = alpha_bar.view(-1, *[1] * (latents.dim() - 1))
        return alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * latents
    raise ValueError(f"prediction type {prediction_type!r} is not epsilon or v_prediction")


def min_snr_weights(alpha_bar: Tensor, prediction_type: str, gamma: float) -> Tensor:
    """Weights of timesteps, [batch], float32.

    Args:
        alpha_bar: abar_t of each row, [batch]; 0 (no signal at all) weighs 1 for epsilon and 0 for v.
        prediction_type: `epsilon` or `v_prediction`.
        gamma: the SNR from which on a timestep no longer counts more, > 0.
    """
    snr = alpha_bar.float() / (1 - alpha_bar.float())
    if prediction_type == "epsilon":
        return (gamma / snr).clamp(max=1.0)
    return snr.clamp(max=gamma) / (snr + 1)


def squared_errors(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each row, [batch], float32. prediction, target: [batch, ...]."""
    return (prediction.float() - target.float()).flatten(1).pow(2).mean(dim=1)


def dreambooth_loss(errors: Tensor, num_subject: int, prior_weight: float, weights: Tensor | None = None) -> Tensor:
    """Mean error over the subject's rows plus `prior_weight` times that over the class rows.

    Args:
        errors: of each row, [batch]; the first `num_subject` rows are the subject's, the rest are class pictures.
        num_subject: rows of the subject, at least 1.
        prior_weight: lambda >= 0.
        weights: of the rows, [batch]; all 1 when left out.

    Returns:
        A scalar, float32.
    """
    if weights is not None:
        errors = errors * weights
    loss = errors[:num_subject].mean()
    if num_subject < len(errors):
        loss = loss + prior_weight * errors[num_subject:].mean()
    return loss
