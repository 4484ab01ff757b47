"""Pixels to latents and back, in the scale that the denoisers were trained in: z = (mean - shift) * scale."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

AT_ONCE = 2**20  # pixels decoded at once, four pictures of 512: eight would need more than the denoiser's passes


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
    scaled = (latents / float(vae.config.scaling_factor) + _shift(vae)).to(vae.dtype)
    side = 2 ** (len(vae.config.block_out_channels) - 1)  # pixels of a latent
    rows = max(1, AT_ONCE // (scaled.shape[-2] * scaled.shape[-1] * side**2))
    pixels = torch.cat([vae.decode(part).sample.float() for part in torch.split(scaled, rows)])
    return (pixels / 2 + 0.5).clamp(0, 1)


def _shift(vae: Any) -> float:
    return float(vae.config.get("shift_factor") or 0.0)
