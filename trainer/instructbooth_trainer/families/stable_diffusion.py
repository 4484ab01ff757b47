"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, a U-Net that predicts epsilon or v."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from torch import Tensor

from instructbooth_trainer.diffusion.conditioning import Encoding
from instructbooth_trainer.diffusion.denoising import DenoisingModel
from instructbooth_trainer.diffusion.kohya import stable_diffusion_layer


class StableDiffusion(DenoisingModel):
    """A StableDiffusionPipeline."""

    family = "stable-diffusion"
    pipeline_name = "StableDiffusionPipeline"
    text_encoder_names = ("text_encoder",)
    load_options: ClassVar = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}

    def encode_prompts(self, prompts: Sequence[str]) -> Encoding:
        """`embeddings`: the last hidden states, [batch, tokens, width]."""
        return {"embeddings": self.pipeline.text_encoder(self.tokenize(prompts))[0]}

    def forward(self, latents: Tensor, timesteps: Tensor, encoding: Encoding, guidance: float) -> Tensor:
        """The U-Net's output."""
        dtype = self.denoiser.dtype
        output: Tensor = self.denoiser(
            latents.to(dtype), timesteps, encoder_hidden_states=encoding["embeddings"].to(dtype)
        ).sample
        return output

    def kohya_layer(self) -> Callable[[str, str], str] | None:
        """The U-Net's layers under diffusers' names, the text encoder's under `lora_te`."""
        return stable_diffusion_layer
