"""What stage 1 trains a model to predict: a noisy latent, its target, and how much each row counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from instructbooth_trainer.algorithms.dreambooth import add_noise, diffusion_target, min_snr_weights


@dataclass(frozen=True)
class Exercise:
    """Rows of one training step.

    Attributes:
        noisy: x_t, [batch, *latent_shape].
        target: what should be predicted from it, same shape.
        weights: of the rows, [batch]; None where all weigh alike.
    """

    noisy: Tensor
    target: Tensor
    weights: Tensor | None = None


class Objective(Protocol):
    """How timesteps are drawn, and what is to be predicted at them."""

    def draw_timesteps(self, count: int, generator: torch.Generator) -> Tensor:
        """Timesteps as the model is told them, [count], on the CPU."""
        ...

    def exercise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Exercise:
        """Rows of one step. latents, noise: [batch, *latent_shape] on one device; timesteps: [batch]."""
        ...


@dataclass(frozen=True)
class DenoisingObjective:
    """Of a model that predicts noise or velocity of a diffusion process; timesteps are uniform.

    Attributes:
        alpha_bar: abar of every training timestep, [num_train_timesteps], float32.
        prediction_type: `epsilon` or `v_prediction`.
        min_snr_gamma: weighs timesteps by min-SNR; None weighs all alike.
    """

    alpha_bar: Tensor
    prediction_type: str
    min_snr_gamma: float | None = None

    def draw_timesteps(self, count: int, generator: torch.Generator) -> Tensor:
        """Uniform over the training timesteps, int64."""
        return torch.randint(len(self.alpha_bar), (count,), generator=generator)

    def exercise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Exercise:
        """x_t, and noise or velocity."""
        alpha_bar, gamma = self.alpha_bar[timesteps], self.min_snr_gamma
        return Exercise(
            add_noise(latents, noise, alpha_bar),
            diffusion_target(latents, noise, alpha_bar, self.prediction_type),
            None if gamma is None else min_snr_weights(alpha_bar, self.prediction_type, gamma),
        )
