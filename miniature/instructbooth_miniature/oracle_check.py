"""Checks the oracle against the truth: on pictures of the renderer, and on the same after the autoencoder."""

from __future__ import annotations

import random

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKL

from .captions import Asked, caption, parse
from .oracle import judge, to_pixels
from .render import render
from .sampling import sample_scene
from .vae import to_model_range


@torch.no_grad()
def round_trip(vae: AutoencoderKL, pictures: npt.NDArray[np.uint8], batch: int = 50) -> npt.NDArray[np.uint8]:
    """The pictures [n, 64, 64, 3] after encoding and decoding."""
    chunks = []
    for first in range(0, len(pictures), batch):
        latents = vae.encode(to_model_range(pictures[first : first + batch])).latent_dist.mean
        chunks.append(to_pixels(vae.decode(latents).sample / 2 + 0.5))
    return np.concatenate(chunks)


def round_trip_figures(vae: AutoencoderKL, seed: int, count: int = 500) -> dict[str, float]:
    """Over `count` new scenes: the oracle's share of right verdicts on renders and after the round trip, and PSNR.

    `psnr` is in decibels of the mean squared error over all pictures.
    """
    rng = random.Random(f"oracle/{seed}")
    scenes = [sample_scene(rng) for _ in range(count)]
    asked = [parse(caption(scene, rng)) for scene in scenes]
    pictures = np.stack([render(scene) for scene in scenes])
    decoded = round_trip(vae, pictures)
    error = float(np.mean((decoded.astype(np.float64) - pictures) ** 2))
    return {
        "oracle_on_renders": _right(pictures, asked),
        "oracle_after_round_trip": _right(decoded, asked),
        "psnr": 10 * float(np.log10(255**2 / error)),
    }


def _right(pictures: npt.NDArray[np.uint8], asked: list[Asked]) -> float:
    return float(np.mean([judge(picture, what)["all"] for picture, what in zip(pictures, asked, strict=True)]))
