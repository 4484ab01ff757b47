"""FLUX.1: CLIP's pooled state and T5, latents packed in patches of two by two; flow matching.

A guidance-distilled model (dev) is told the guidance and needs one pass; it is trained in stage 1 with guidance 1.
The others (schnell) are guided by a second pass for the empty prompt, where more than 1 is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from instructbooth_trainer.diffusion.conditioning import Encoding
from instructbooth_trainer.diffusion.matching import FLOW_ATTENTION, FLOW_FEED_FORWARD, FlowModel

T5_TOKENS = 512  # what the stock pipeline reads
PATCH = 2
NATIVE_LATENTS = 128  # the transformer has no size of its own


class Flux(FlowModel):
    """A FluxPipeline."""

    family = "flux"
    pipeline_name = "FluxPipeline"
    text_encoder_names = ("text_encoder",)
    targets: ClassVar = {
        "attention": FLOW_ATTENTION,
        "all": [*FLOW_ATTENTION, *FLOW_FEED_FORWARD, "proj_mlp", "proj_out"],
    }

    def native_latent_side(self) -> int:
        """1024 pixels."""
        return NATIVE_LATENTS

    def patch_side(self) -> int:
        """Packing, for which the transformer has no word."""
        return PATCH

    def token_limits(self) -> list[tuple[Any, int]]:
        """CLIP's and T5's."""
        return [*super().token_limits(), (self.pipeline.tokenizer_2, T5_TOKENS)]

    def embeds_guidance(self) -> bool:
        """Of a guidance-distilled model."""
        return bool(self.denoiser.config.guidance_embeds)

    def start_sigmas(self, num_steps: int) -> list[float] | None:
        """Evenly from 1 to 1 / num_steps, as the stock pipeline has them."""
        if self.pipeline.scheduler.config.get("use_flow_sigmas"):
            return None
        return [float(sigma) for sigma in np.linspace(1.0, 1 / num_steps, num_steps)]

    def encode_prompts(self, prompts: Sequence[str]) -> Encoding:
        """T5's states, [batch, tokens, width]; CLIP pooled, [batch, width]."""
        self.check_prompts(prompts)
        embeddings, pooled, _ = self.pipeline.encode_prompt(
            list(prompts), device=self.device, max_sequence_length=T5_TOKENS
        )
        return {"embeddings": embeddings, "pooled": pooled}

    def forward(self, latents: Tensor, timesteps: Tensor, encoding: Encoding, guidance: float) -> Tensor:
        """The velocity; where the model is told the guidance, of this guidance."""
        dtype, (_, _, height, width) = self.denoiser.dtype, latents.shape
        told = torch.full((len(latents),), guidance, device=self.device) if self.embeds_guidance() else None
        output: Tensor = self.denoiser(
            hidden_states=pack(latents).to(dtype),
            timestep=timesteps.to(dtype) / 1000,
            guidance=told,
            pooled_projections=encoding["pooled"].to(dtype),
            encoder_hidden_states=encoding["embeddings"].to(dtype),
            txt_ids=torch.zeros(encoding["embeddings"].shape[1], 3, device=self.device, dtype=dtype),
            img_ids=patch_positions(height // PATCH, width // PATCH, self.device).to(dtype),
        ).sample
        return unpack(output, height, width)

    def pipeline_options(self, guidance: float, count: int) -> dict[str, Any]:
        """Guidance by its embedding, or by a negative prompt that is empty."""
        if self.embeds_guidance():
            return {"guidance_scale": guidance}
        return {"true_cfg_scale": guidance, "negative_prompt": [""] * count}

    def unpack(self, latents: Tensor) -> Tensor:
        """Patches -> [batch, *latent_shape]."""
        return unpack(latents, *self.latent_shape[1:])


def pack(latents: Tensor) -> Tensor:
    """[batch, channels, height, width] -> [batch, height / 2 * width / 2, channels * 4]."""
    batch, channels, height, width = latents.shape
    patches = latents.view(batch, channels, height // PATCH, PATCH, width // PATCH, PATCH)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * PATCH**2)


def unpack(patches: Tensor, height: int, width: int) -> Tensor:
    """What `pack` packed, [batch, channels, height, width]."""
    batch, _, packed = patches.shape
    channels = packed // PATCH**2
    grid = patches.view(batch, height // PATCH, width // PATCH, channels, PATCH, PATCH)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, height, width)


def patch_positions(rows: int, columns: int, device: torch.device) -> Tensor:
    """(0, row, column) of each patch, [rows * columns, 3], float32."""
    row, column = torch.meshgrid(torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij")
    return torch.stack([torch.zeros_like(row), row, column], dim=-1).view(-1, 3).float()
