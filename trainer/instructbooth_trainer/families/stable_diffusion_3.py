"""Stable Diffusion 3 and 3.5: two CLIP text encoders and T5, which may be left out; flow matching, 16 channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from instructbooth_trainer.diffusion.conditioning import Encoding
from instructbooth_trainer.diffusion.matching import FLOW_ATTENTION, FLOW_FEED_FORWARD, FlowModel

T5_TOKENS = 256  # what the stock pipeline reads


class StableDiffusion3(FlowModel):
    """A StableDiffusion3Pipeline."""

    family = "stable-diffusion-3"
    pipeline_name = "StableDiffusion3Pipeline"
    text_encoder_names = ("text_encoder", "text_encoder_2")
    optional = ("text_encoder_3", "tokenizer_3")
    targets: ClassVar = {"attention": FLOW_ATTENTION, "all": FLOW_ATTENTION + FLOW_FEED_FORWARD}

    def token_limits(self) -> list[tuple[Any, int]]:
        """CLIP's, and T5's where there is one."""
        limits = super().token_limits()
        if self.pipeline.text_encoder_3 is None:
            return limits
        return [*limits, (self.pipeline.tokenizer_3, T5_TOKENS)]

    def longest_side(self) -> int:
        """No longer than the position embeddings reach."""
        reach = int(self.denoiser.config.pos_embed_max_size) * self.patch_side() * int(self.pipeline.vae_scale_factor)
        return min(super().longest_side(), reach)

    def encode_prompts(self, prompts: Sequence[str]) -> Encoding:
        """CLIP's states and T5's behind one another, [batch, tokens, width]; both CLIPs pooled, [batch, widths]."""
        self.check_prompts(prompts)
        embeddings, _, pooled, _ = self.pipeline.encode_prompt(
            list(prompts),
            None,
            None,
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=T5_TOKENS,
        )
        return {"embeddings": embeddings, "pooled": pooled}

    def forward(self, latents: Tensor, timesteps: Tensor, encoding: Encoding, guidance: float) -> Tensor:
        """The velocity."""
        dtype = self.denoiser.dtype
        output: Tensor = self.denoiser(
            hidden_states=latents.to(dtype),
            timestep=timesteps,
            encoder_hidden_states=encoding["embeddings"].to(dtype),
            pooled_projections=encoding["pooled"].to(dtype),
        ).sample
        return output
