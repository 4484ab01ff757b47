"""L = |f(x_t, t, c) - y|^2 + lambda |f(x'_t, t, c_class) - y'|^2: subject loss plus prior-preservation loss.

Source: DreamBooth, arXiv 2208.12242, eq. 2. The target y is the noise (epsilon) or the velocity
v = sqrt(abar_t) noise - sqrt(1 - abar_t) x_0 (progressive distillation, arXiv 2202.00512, appendix D).
Deliberate deviation: w_t = 1, as every public DreamBooth implementation does; min-SNR weights can come later.
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


def dreambooth_loss(prediction: Tensor, target: Tensor, num_subject: int, prior_weight: float) -> Tensor:
    """Mean squared error over the subject's rows plus `prior_weight` times that over the class rows.

    Args:
        prediction: [batch, ...]; the first `num_subject` rows are the subject's, the rest are class pictures.
        target: same shape.
        num_subject: rows of the subject, at least 1.
        prior_weight: lambda >= 0.

    Returns:
        A scalar, float32.
    """
    squared = (prediction.float() - target.float()).flatten(1).pow(2).mean(dim=1)
    loss = squared[:num_subject].mean()
    if num_subject < len(squared):
        loss = loss + prior_weight * squared[num_subject:].mean()
    return loss
