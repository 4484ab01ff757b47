"""One stochastic step of a rectified flow with its log-probability.

x_t = (1 - t) x_0 + t eps with t falling from 1 to 0, and the model predicts v = E[eps - x_0 | x_t]. Two things follow:
E[eps | x_t] = x_t + (1 - t) v, and grad log p_t(x_t) = -E[eps | x_t] / t, for given x_0 the state is a Gaussian of
standard deviation t. The ODE dx = v dt has marginals p_t, and so has for every g the SDE that runs backwards with
noise g dW and the drift v - g^2 / 2 grad log p_t: what noise spreads the score draws together again (Fokker-Planck).
With g = eta sqrt(t / (1 - t)), an Euler-Maruyama step from t to t' = t - d is

mu      = x_t - d v - sigma^2 / (2 t) (x_t + (1 - t) v)
sigma^2 = eta^2 t min(d / (1 - t), 1)
x_t'    ~ N(mu, sigma^2 I)

Source: Flow-GRPO, arXiv 2505.05470, section 4.2, which has d g^2 for sigma^2. Deliberate deviations:
- g diverges at t = 1, where every picture begins: there d g^2 is bounded by eta^2 t, so that no step brings more noise
  than the state holds. The first step then has sigma = eta. Euler's error is not small in it: the noise it leaves has
  variance 1 + eta^4 / 4 instead of 1, and later steps forget most of that (docs/decisions/0015).
- The last step has no noise, for nothing would take it away again; it is never trained on.
- float32 throughout whatever the model's dtype.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from instructbooth_trainer.diffusion.schedule import Schedule


@dataclass(frozen=True)
class FlowSchedule(Schedule):
    """The steps of one sampling run.

    Attributes:
        timesteps: what the model is told, [num_steps], descending, float32.
        time: t at each step, [num_steps], float32, in (0, 1].
        time_next: t after each step, [num_steps], float32; the last is 0.
        sigma: standard deviation of each step, [num_steps], float32; the last is 0.
    """

    timesteps: Tensor
    time: Tensor
    time_next: Tensor
    sigma: Tensor

    @classmethod
    def from_times(cls, timesteps: Tensor, times: Tensor, eta: float, device: torch.device) -> FlowSchedule:
        """The steps between given times.

        Args:
            timesteps: what the model is told, [num_steps].
            times: t before each step and after the last, [num_steps + 1], from at most 1 down to 0.
            eta: noise of the steps; 0 follows the ODE.
            device: where to keep them.
        """
        time, following = times[:-1].float(), times[1:].float()
        share = ((time - following) / (1 - time)).clamp(max=1.0)
        sigma = eta * (time * share).sqrt()
        sigma[-1] = 0.0
        return cls(timesteps.float().to(device), time.to(device), following.to(device), sigma.to(device))

    def mean(self, prediction: Tensor, latents: Tensor, steps: Tensor) -> Tensor:
        """mu of the transition from each row's step, float32.

        Args:
            prediction: v, [batch, channels, height, width].
            latents: x_t, same shape.
            steps: each row's index into the schedule, [batch], int64.
        """
        prediction, latents = prediction.float(), latents.float()
        t, t_next, sigma = (x[steps].view(-1, 1, 1, 1) for x in (self.time, self.time_next, self.sigma))
        noise = latents + (1 - t) * prediction
        return latents + (t_next - t) * prediction - sigma**2 / (2 * t) * noise
