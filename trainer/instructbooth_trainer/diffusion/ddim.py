"""One stochastic DDIM step with its log-probability.

mu     = sqrt(abar') x0 + sqrt(1 - abar' - sigma^2) eps
sigma^2 = eta^2 (1 - abar') / (1 - abar) (1 - abar / abar')
x_{t-1} ~ N(mu, sigma^2 I)

Source: DDIM, arXiv 2010.02502, eq. 12 and 16; x0 and eps from an epsilon or a v prediction (arXiv 2202.00512).
abar' is abar of the step after; timesteps, spacing, zero terminal SNR and the last abar' are the scheduler's own.
Deliberate deviations: float32 throughout whatever the model's dtype; x0 is never clipped (latents have no bounds).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from instructbooth_trainer.diffusion.schedule import Schedule

PREDICTION_TYPES = ("epsilon", "v_prediction")


@dataclass(frozen=True)
class DdimSchedule(Schedule):
    """The steps of one sampling run.

    Attributes:
        timesteps: what the model is told, [num_steps], descending, int64.
        alpha_bar: abar at each step, [num_steps], float32.
        alpha_bar_next: abar after each step, [num_steps], float32.
        sigma: standard deviation of each step, [num_steps], float32. The last may be 0 and is never trained on.
        prediction_type: `epsilon` or `v_prediction`.
    """

    timesteps: Tensor
    alpha_bar: Tensor
    alpha_bar_next: Tensor
    sigma: Tensor
    prediction_type: str

    @classmethod
    def from_scheduler(cls, scheduler: Any, num_steps: int, eta: float, device: torch.device) -> DdimSchedule:
        """Read the schedule of a diffusers DDIMScheduler.

        Raises:
            ValueError: for a prediction type without a formula here.
        """
        kind = str(scheduler.config.prediction_type)
        if kind not in PREDICTION_TYPES:
            raise ValueError(f"the scheduler's prediction_type {kind!r} is not {' or '.join(PREDICTION_TYPES)}")
        scheduler.set_timesteps(num_steps)
        timesteps: Tensor = scheduler.timesteps.cpu()
        following = timesteps - scheduler.config.num_train_timesteps // num_steps
        alphas = scheduler.alphas_cumprod.float()
        alpha_bar = alphas[timesteps]
        alpha_bar_next = torch.where(following >= 0, alphas[following.clamp(min=0)], scheduler.final_alpha_cumprod)
        variance = (1 - alpha_bar_next) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_next)
        sigma = eta * variance.clamp(min=0).sqrt()
        return cls(timesteps.to(device), alpha_bar.to(device), alpha_bar_next.to(device), sigma.to(device), kind)

    def mean(self, prediction: Tensor, latents: Tensor, steps: Tensor) -> Tensor:
        """mu of the transition from each row's step, float32.

        Args:
            prediction: the model's output, [batch, channels, height, width].
            latents: x_t, same shape.
            steps: each row's index into the schedule, [batch], int64.
        """
        prediction, latents = prediction.float(), latents.float()
        a, a_next, sigma = (x[steps].view(-1, 1, 1, 1) for x in (self.alpha_bar, self.alpha_bar_next, self.sigma))
        if self.prediction_type == "epsilon":
            x0 = (latents - (1 - a).sqrt() * prediction) / a.sqrt()
            eps = prediction
        else:
            x0 = a.sqrt() * latents - (1 - a).sqrt() * prediction
            eps = a.sqrt() * prediction + (1 - a).sqrt() * latents
        return a_next.sqrt() * x0 + (1 - a_next - sigma**2).clamp(min=0).sqrt() * eps
