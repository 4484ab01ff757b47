"""Drawing with our own sampler: rollouts (eta > 0) with their trajectories, class pictures and samples (eta 0)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from instructbooth_trainer.diffusion.conditioning import Conditioning
from instructbooth_trainer.diffusion.lora import merged
from instructbooth_trainer.diffusion.model import DiffusionModel
from instructbooth_trainer.diffusion.noise import batch_noise
from instructbooth_trainer.diffusion.schedule import Schedule


def sampling_batch(resolution: int) -> int:
    """Pictures drawn at once: 8 at 512 pixels, more when they are smaller, at most 64."""
    return max(1, min(64, 2**21 // resolution**2))


@torch.no_grad()
def sample(
    model: DiffusionModel, schedule: Schedule, conditioning: Conditioning, generators: Sequence[torch.Generator]
) -> Tensor:
    """Draw latents, keeping the whole trajectory. An adapter is merged into the denoiser's weights meanwhile.

    Args:
        model: the policy.
        schedule: its steps; stochastic where sigma > 0.
        conditioning: one row per picture.
        generators: one per picture, so that a picture does not depend on its neighbours' noise.

    Returns:
        x_T ... x_0, [num_steps + 1, batch, *latent_shape], float32.
    """
    latents = batch_noise(model.latent_shape, generators, model.device)
    trajectory, sigmas = [latents], schedule.sigma.tolist()  # once: asking a GPU in each step would wait for the step
    with merged(model.denoiser):
        for step in range(len(schedule.timesteps)):
            steps = torch.full((len(latents),), step, device=model.device)
            prediction = model.predict(latents, schedule.timesteps[steps], conditioning)
            latents = schedule.mean(prediction, latents, steps)
            if sigmas[step] > 0:
                latents = latents + schedule.sigma[step] * batch_noise(model.latent_shape, generators, model.device)
            trajectory.append(latents)
    return torch.stack(trajectory)


@torch.no_grad()
def conditioning_for(model: DiffusionModel, prompts: Sequence[str], guidance: float) -> Conditioning:
    """Encode prompts once; the empty prompt only if guidance needs it."""
    return model.condition(prompts, guidance)


@torch.no_grad()
def draw(
    model: DiffusionModel, prompts: Sequence[str], generators: Sequence[torch.Generator], steps: int, guidance: float
) -> Tensor:
    """Deterministic pictures for prompts, [batch, 3, resolution, resolution], float32 in [0, 1]."""
    schedule = model.schedule(steps, eta=0.0)
    pictures = []
    size = sampling_batch(model.resolution)
    for first in range(0, len(prompts), size):
        rows = slice(first, first + size)
        conditioning = conditioning_for(model, prompts[rows], guidance)
        pictures.append(model.decode(sample(model, schedule, conditioning, generators[rows])[-1]))
    return torch.cat(pictures)


def to_bytes(pixels: Tensor) -> np.ndarray[Any, Any]:
    """[batch, 3, height, width] in [0, 1] -> uint8 [batch, height, width, 3]."""
    out: np.ndarray[Any, Any] = (pixels.float().cpu() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return out


def grid(pictures: Tensor, columns: int) -> Image.Image:
    """Pictures [batch, 3, height, width] in [0, 1] as one image, row by row, on white."""
    batch, _, height, width = pictures.shape
    rows = -(-batch // columns)
    sheet = np.full((rows * height, columns * width, 3), 255, dtype=np.uint8)
    for index, picture in enumerate(to_bytes(pictures)):
        top, left = index // columns * height, index % columns * width
        sheet[top : top + height, left : left + width] = picture
    return Image.fromarray(sheet)
