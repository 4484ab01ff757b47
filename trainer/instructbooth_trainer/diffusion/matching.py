"""What the families of flow matching share: a transformer that predicts the velocity, and the flow's own sampler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from instructbooth.spec.personalization import FlowMatching
from instructbooth_trainer.algorithms.flow_matching import (
    draw_times,
    interpolate,
    shift_times,
    time_weights,
    velocity,
)
from instructbooth_trainer.diffusion.flow import FlowSchedule
from instructbooth_trainer.diffusion.model import DiffusionModel
from instructbooth_trainer.diffusion.objective import Exercise
from instructbooth_trainer.runtime.errors import UserError

FLOW_ATTENTION = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]
FLOW_FEED_FORWARD = ["ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"]


@dataclass(frozen=True)
class FlowObjective:
    """Velocities at random times; a timestep is the time times `num_train_timesteps`.

    Attributes:
        num_train_timesteps: the scheduler's.
        shift: how far times are moved towards noise; 1 is not at all.
        times: how they are drawn and weighed.
    """

    num_train_timesteps: int
    shift: float
    times: FlowMatching

    def draw_timesteps(self, count: int, generator: torch.Generator) -> Tensor:
        """Float32."""
        times = self.times
        drawn = draw_times(
            times.weighting_scheme,
            count,
            generator,
            mean=times.logit_mean,
            std=times.logit_std,
            scale=times.mode_scale,
        )
        return shift_times(drawn, self.shift) * self.num_train_timesteps

    def exercise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Exercise:
        """x_t, and the velocity."""
        time = (timesteps / self.num_train_timesteps).to(latents.device)
        weights = time_weights(self.times.weighting_scheme, time)
        return Exercise(interpolate(latents, noise, time), velocity(latents, noise), weights)


class FlowModel(DiffusionModel):
    """A transformer that predicts the velocity of a rectified flow."""

    denoiser_name = "transformer"

    @classmethod
    def prepare(cls, pipeline: Any) -> None:
        """Raises UserError ModelInvalid for another scheduler than that of flow matching."""
        scheduler = pipeline.scheduler
        if not isinstance(scheduler, FlowMatchEulerDiscreteScheduler) or scheduler.config.invert_sigmas:
            raise UserError(
                "ModelInvalid",
                f"spec.model.source: the scheduler is a {type(scheduler).__name__}; a {cls.family} is sampled by a "
                "FlowMatchEulerDiscreteScheduler without invert_sigmas",
            )
        pipeline.scheduler = FlowMatchEulerDiscreteScheduler.from_config(scheduler.config, stochastic_sampling=False)

    def patch_side(self) -> int:
        """The transformer's patches are two latents wide, or what its config says."""
        return int(self.denoiser.config.patch_size)

    def start_sigmas(self, num_steps: int) -> list[float] | None:
        """Times that the stock pipeline gives the scheduler before it shifts them; None leaves them to it."""
        return None

    def schedule(self, num_steps: int, eta: float) -> FlowSchedule:
        """The steps of a sampling run, at the times of the stock pipeline."""
        scheduler, config = self.pipeline.scheduler, self.pipeline.scheduler.config
        mu = None
        if config.use_dynamic_shifting:  # linear in the number of patches
            patches = (self.latent_shape[1] // self.patch_side()) ** 2
            slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
            mu = patches * slope + config.base_shift - slope * config.base_image_seq_len
        scheduler.set_timesteps(num_steps, sigmas=self.start_sigmas(num_steps), mu=mu)
        return FlowSchedule.from_times(scheduler.timesteps, scheduler.sigmas, eta, self.device)

    def objective(self, min_snr_gamma: float | None, flow_matching: FlowMatching | None = None) -> FlowObjective:
        """Velocities. Raises UserError MinSnrUndefined."""
        if min_snr_gamma is not None:
            raise UserError(
                "MinSnrUndefined",
                f"spec.personalization.minSnrGamma {min_snr_gamma:g}: {self.family} is trained by flow matching, where "
                "the density of the timesteps takes its place; remove minSnrGamma, or see flowMatching",
            )
        config = self.pipeline.scheduler.config
        # A shift that depends on the resolution is the sampler's affair; a fixed one is the model's.
        shift = 1.0 if config.use_dynamic_shifting else float(config.shift)
        return FlowObjective(int(config.num_train_timesteps), shift, flow_matching or FlowMatching())
