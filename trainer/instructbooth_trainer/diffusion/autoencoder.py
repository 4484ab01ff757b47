"""Pixels to latents and back, in the scale that the denoisers were trained in: z = (mean - shift) * scale."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def encode(vae: Any, pixels: Tensor, device: torch.device) -> Tensor:
    """Latents [batch, channels, height, width], float32: the posterior's mean of each picture, one at a time.

    Args:
        vae: of diffusers.
        pixels: [batch, 3, height, width] in [0, 1].
        device: of the VAE.
    """
    rows = [vae.encode(row[None].to(device, vae.dtype)).latent_dist.mean for row in pixels * 2 - 1]
    return (torch.cat(rows).float() - _shift(vae)) * float(vae.config.scaling_factor)


def decode(vae: Any, latents: Tensor) -> Tensor:
    """Pictures [batch, 3, height, width], float32 in [0, 1]."""
    scaled = latents / float(vae.config.scaling_factor) + _shift(vae)
    pixels: Tensor = vae.decode(scaled.to(vae.dtype)).sample.float()
    return (pixels / 2 + 0.5).clamp(0, 1)


def _shift(vae: Any) -> float:
    return float(vae.config.get("shift_factor") or 0.0)
