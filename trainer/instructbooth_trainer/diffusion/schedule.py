"""What a sampler's steps have in common; ddim.py and flow.py say where a step leads."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import Any, Self

import torch
from torch import Tensor

from instructbooth_trainer.algorithms.gaussian import gaussian_log_prob


class Schedule(ABC):
    """The steps of one sampling run; what is made of it is a frozen dataclass.

    Attributes:
        timesteps: what the model is told, [num_steps], descending.
        sigma: standard deviation of each step, [num_steps], float32. The last may be 0 and is never trained on.
    """

    timesteps: Tensor
    sigma: Tensor

    @abstractmethod
    def mean(self, prediction: Tensor, latents: Tensor, steps: Tensor) -> Tensor:
        """mu of the transition from each row's step, float32.

        Args:
            prediction: the model's output, [batch, channels, height, width].
            latents: x_t, same shape.
            steps: each row's index into the schedule, [batch], int64.
        """

    def stochastic_within(self, steps: range) -> Self:
        """The same steps with noise in some of them alone; the others are the deterministic sampler's."""
        inside = torch.zeros_like(self.sigma)
        inside[steps.start : steps.stop] = 1.0
        schedule: Any = self
        changed: Self = dataclasses.replace(schedule, sigma=self.sigma * inside)
        return changed

    def log_prob(
        self, prediction: Tensor, latents: Tensor, next_latents: Tensor, steps: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Log-probability of a transition that was sampled, and its mu.

        Args:
            prediction: [batch, channels, height, width], with gradient when training.
            latents: x_t, same shape.
            next_latents: x after the step, same shape.
            steps: [batch], int64; never the last step.

        Returns:
            log-probability averaged over latent dimensions, [batch]; mu, the shape of latents. Both float32.
        """
        mean = self.mean(prediction, latents, steps)
        return gaussian_log_prob(next_latents, mean, self.sigma[steps]), mean
