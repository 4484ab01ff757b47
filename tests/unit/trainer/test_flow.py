"""The sampler of flow matching: the ODE is diffusers', the SDE has the marginals of the ODE."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from instructbooth_trainer.diffusion.flow import FlowSchedule

CPU = torch.device("cpu")


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_without_noise_it_is_diffusers_euler_to_the_last_bit(shift: float) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(7)
    schedule = FlowSchedule.from_times(scheduler.timesteps, scheduler.sigmas, 0.0, CPU)
    assert torch.equal(schedule.timesteps, scheduler.timesteps)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 8, 8, generator=generator)
    for step, timestep in enumerate(scheduler.timesteps):
        prediction = torch.randn(latents.shape, generator=generator)
        theirs = scheduler.step(prediction, timestep, latents).prev_sample
        latents = schedule.mean(prediction, latents, torch.tensor([step, step]))
        assert torch.equal(latents, theirs)


def end_of(steps: int, eta: float, mean: float, std: float, count: int = 40_000) -> torch.Tensor:
    """x_0 for data N(mean, std^2) of one dimension, whose velocity is known.

    x_t = (1 - t) x_0 + t eps has mean m = (1 - t) mean and variance V = (1 - t)^2 std^2 + t^2; so E[x_0 | x] = mean +
    (1 - t) std^2 / V (x - m), E[eps | x] = t / V (x - m), and the velocity is their difference.
    """
    times = torch.linspace(1, 0, steps + 1)
    schedule = FlowSchedule.from_times(times[:-1], times, eta, CPU)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 1, 1, 1, generator=generator)
    for step in range(steps):
        t = float(schedule.time[step])
        deviation = (x - (1 - t) * mean) / ((1 - t) ** 2 * std**2 + t**2)
        prediction = t * deviation - (mean + (1 - t) * std**2 * deviation)
        x = schedule.mean(prediction, x, torch.full((count,), step))
        if schedule.sigma[step] > 0:
            x = x + schedule.sigma[step] * torch.randn(x.shape, generator=generator)
    return x.flatten()


@pytest.mark.parametrize("eta", [0.0, 0.5, 0.7, 1.0])
def test_noise_in_the_steps_leaves_the_marginals(eta: float) -> None:
    mean, std, count = 0.8, 0.5, 40_000
    x = end_of(400, eta, mean, std, count)
    # Four standard errors of mean and standard deviation, and an Euler error that falls with the number of steps.
    assert float(x.mean()) == pytest.approx(mean, abs=4 * std / math.sqrt(count) + 2e-3)
    assert float(x.std()) == pytest.approx(std, abs=4 * std / math.sqrt(2 * count) + 5e-3)


def test_the_first_step_holds_no_more_noise_than_the_state() -> None:
    times = torch.tensor([1.0, 0.96, 0.9, 0.5, 0.0])
    schedule = FlowSchedule.from_times(times[:-1], times, 0.5, CPU)
    # t = 1 is bounded: eta sqrt(1). 0.96: d / (1 - t) = 0.06 / 0.04 is bounded too: 0.5 sqrt(0.96).
    # 0.9: 0.4 / 0.1 is bounded: 0.5 sqrt(0.9). The last has none.
    torch.testing.assert_close(schedule.sigma, torch.tensor([0.5, 0.489898, 0.474342, 0.0]), rtol=1e-5, atol=1e-6)
