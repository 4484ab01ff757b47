"""Stable Diffusion XL: two CLIP text encoders, a U-Net that is also told sizes, a VAE that overflows fp16.

Drawn pictures are told to be squares that were never cropped, and class pictures are so. The subject's are told as they
were fitted: the photo's own size, and where it was cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from instructbooth_trainer.diffusion.conditioning import Conditioning, Encoding
from instructbooth_trainer.diffusion.denoising import DenoisingModel
from instructbooth_trainer.diffusion.framing import conditioned_sizes
from instructbooth_trainer.diffusion.kohya import sdxl_layer
from instructbooth_trainer.runtime.errors import UserError


class StableDiffusionXL(DenoisingModel):
    """A StableDiffusionXLPipeline."""

    family = "stable-diffusion-xl"
    pipeline_name = "StableDiffusionXLPipeline"
    text_encoder_names = ("text_encoder", "text_encoder_2")
    load_options: ClassVar = {"add_watermarker": False}

    @classmethod
    def prepare(cls, pipeline: Any) -> None:
        """DDIM; and refuse a VAE whose latents are scaled by channel. Raises UserError ModelInvalid."""
        super().prepare(pipeline)
        if pipeline.vae.config.get("latents_mean") is not None:
            raise UserError(
                "ModelInvalid", "spec.model.source: the VAE has latents_mean, and scaling by channel has no code here"
            )

    def encode_prompts(self, prompts: Sequence[str]) -> Encoding:
        """Both encoders' penultimate states side by side, [batch, tokens, widths]; pooled, [batch, width]; sizes."""
        self.check_prompts(prompts)
        embeddings, _, pooled, _ = self.pipeline.encode_prompt(
            list(prompts), device=self.device, do_classifier_free_guidance=False
        )
        square = (self.resolution, self.resolution)
        sizes = torch.tensor([conditioned_sizes(square, square)], device=self.device)
        return {"embeddings": embeddings, "pooled": pooled, "time_ids": sizes.expand(len(prompts), -1)}

    def told_sizes(self, conditioning: Conditioning, sizes: Tensor) -> Conditioning:
        """In place of the square's."""
        encoding = {**conditioning.encoding, "time_ids": sizes.to(self.device)}
        return replace(conditioning, encoding=encoding)

    def encode_empty(self) -> Encoding:
        """Zeros where the model was trained so, as its config says."""
        encoding = super().encode_empty()
        if not self.pipeline.config.force_zeros_for_empty_prompt:
            return encoding
        zeros = {name: torch.zeros_like(encoding[name]) for name in ("embeddings", "pooled")}
        return {**encoding, **zeros}

    def forward(self, latents: Tensor, timesteps: Tensor, encoding: Encoding, guidance: float) -> Tensor:
        """The U-Net's output."""
        dtype = self.denoiser.dtype
        output: Tensor = self.denoiser(
            latents.to(dtype),
            timesteps,
            encoder_hidden_states=encoding["embeddings"].to(dtype),
            added_cond_kwargs={
                "text_embeds": encoding["pooled"].to(dtype),
                "time_ids": encoding["time_ids"].to(dtype),
            },
        ).sample
        return output

    def kohya_layer(self) -> Callable[[str, str], str] | None:
        """The names of the original code, in which Kohya's U-Net is written."""
        return sdxl_layer(self.denoiser)
