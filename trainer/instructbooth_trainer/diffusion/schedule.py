"""What the recipes know of a sampler: ddim.py and flow.py have one each."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Schedule(Protocol):
    """The steps of one sampling run.

    Attributes:
        timesteps: what the model is told, [num_steps], descending.
        sigma: standard deviation of each step, [num_steps], float32. The last may be 0 and is never trained on.
    """

    @property
    def timesteps(self) -> Tensor: ...  # noqa: D102 - above
    @property
    def sigma(self) -> Tensor: ...  # noqa: D102

    def mean(self, prediction: Tensor, latents: Tensor, steps: Tensor) -> Tensor:
        """mu of the transition from each row's step, float32, the shape of latents. steps: [batch], int64."""
        ...

    def log_prob(
        self, prediction: Tensor, latents: Tensor, next_latents: Tensor, steps: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Log-probability of a transition, averaged over latent dimensions, [batch], and its mu."""
        ...
