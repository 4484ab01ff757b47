"""Stable Diffusion as the recipes need it: load, encode, predict, decode. adapter.py adds what is trained.

Frozen weights are in the job's dtype, trained ones in float32, and everything that leaves this file is float32.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from PIL import Image
from torch import Tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from instructbooth.spec.stages import Dtype
from instructbooth_trainer.diffusion.ddim import PREDICTION_TYPES, DdimSchedule
from instructbooth_trainer.runtime.errors import UserError

DTYPES: dict[Dtype, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class DiffusionModel:
    """A model of the Stable Diffusion family.

    Attributes:
        pipeline: the stock StableDiffusionPipeline around the same modules, with a DDIM scheduler.
        resolution: side of the square pictures, pixels.
        latent_shape: (channels, height, width) of one picture's latents.
        device: where it computes.
    """

    def __init__(self, pipeline: Any, device: torch.device, resolution: int | None) -> None:
        self.pipeline = pipeline
        self.device = device
        self.unet, self.vae, self.text_encoder = pipeline.unet, pipeline.vae, pipeline.text_encoder
        self.tokenizer = pipeline.tokenizer
        factor = int(pipeline.vae_scale_factor)
        self.resolution = resolution or int(self.unet.config.sample_size) * factor
        if self.resolution % factor:
            raise UserError(
                "ResolutionInvalid",
                f"spec.model.resolution {self.resolution} is no multiple of {factor}, this model's pixels per latent",
            )
        side = self.resolution // factor
        self.latent_shape = (int(self.unet.config.in_channels), side, side)

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        family: str = "auto",
        dtype: Dtype = "fp32",
        device: torch.device | str = "cpu",
        resolution: int | None = None,
    ) -> DiffusionModel:
        """Load a diffusers folder: safetensors only, no safety checker, all weights frozen.

        Raises:
            UserError: `ModelInvalid` when the folder is no Stable Diffusion model or cannot be read.
        """
        found = _pipeline_class(folder / "model_index.json")
        if found != "StableDiffusionPipeline" or family not in ("auto", "stable-diffusion"):
            raise UserError(
                "ModelInvalid",
                f"spec.model: family {family}, and source's model_index.json names {found!r}; "
                "the family stable-diffusion is a StableDiffusionPipeline, and the only one so far",
            )
        try:
            pipeline = StableDiffusionPipeline.from_pretrained(
                str(folder),
                dtype=DTYPES[dtype],
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
                use_safetensors=True,
                local_files_only=True,
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                "ModelInvalid",
                f"spec.model.source cannot be loaded as a diffusers folder with safetensors weights: {error}",
            ) from error
        # A scheduler that was not DDIM has no clip_sample in its config, and DDIM's default would clip latents.
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False, thresholding=False)
        kind = str(pipeline.scheduler.config.prediction_type)
        if kind not in PREDICTION_TYPES:
            raise UserError(
                "ModelInvalid",
                f"spec.model.source: the scheduler's prediction_type is {kind!r}; only "
                f"{' and '.join(PREDICTION_TYPES)} have a formula here",
            )
        pipeline.set_progress_bar_config(disable=True)
        for module in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
            module.requires_grad_(False).eval().to(device)
        if dtype == "fp16":  # the decoder overflows fp16 on some pictures of some checkpoints
            pipeline.vae.to(dtype=torch.float32)
        return cls(pipeline, torch.device(device), resolution)

    @property
    def prediction_type(self) -> str:
        """`epsilon` or `v_prediction`."""
        return str(self.pipeline.scheduler.config.prediction_type)

    def checkpoint_gradients(self, *, text_encoder: bool) -> None:
        """Compute activations again in the backward pass rather than keep them; the gradients are the same.

        Call it once the adapter is added.
        """
        self.unet.enable_gradient_checkpointing()
        if not text_encoder:
            return
        self.text_encoder.activation_checkpointing_enable({"use_reentrant": False})
        for layer in self.text_encoder.modules():
            if isinstance(layer, GradientCheckpointingLayer):
                layer.training = True  # else it keeps them after all; what is inside of it stays as it is evaluated

    def alpha_bar(self) -> Tensor:
        """abar of every training timestep, [num_train_timesteps], float32."""
        alphas: Tensor = self.pipeline.scheduler.alphas_cumprod
        return alphas.float().to(self.device)

    def schedule(self, num_steps: int, eta: float) -> DdimSchedule:
        """The DDIM steps of a sampling run."""
        return DdimSchedule.from_scheduler(self.pipeline.scheduler, num_steps, eta, self.device)

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Token ids [batch, tokens].

        Raises:
            UserError: `PromptTooLong` rather than dropping words nobody would miss until the pictures are drawn.
        """
        limit = self.tokenizer.model_max_length
        for prompt in prompts:
            length = len(self.tokenizer(prompt).input_ids)
            if length > limit:
                raise UserError("PromptTooLong", f"{prompt!r} has {length} tokens, the model reads {limit}: shorten it")
        ids: Tensor = self.tokenizer(
            list(prompts), padding="max_length", max_length=limit, truncation=True, return_tensors="pt"
        ).input_ids
        return ids.to(self.device)

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings [batch, tokens, width]; with gradient where the text encoder has a trained adapter."""
        embeddings: Tensor = self.text_encoder(self.tokenize(prompts))[0]
        return embeddings

    @torch.no_grad()
    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Latents [batch, *latent_shape] of pictures: centre square, resized, mean of the VAE's posterior, scaled."""
        pixels = torch.stack([_pixels(image, self.resolution) for image in images]) * 2 - 1
        rows = [self.vae.encode(row[None].to(self.device, self.vae.dtype)).latent_dist.mean for row in pixels]
        return torch.cat(rows).float() * float(self.vae.config.scaling_factor)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures [batch, 3, resolution, resolution], float32 in [0, 1]."""
        scaled = (latents / float(self.vae.config.scaling_factor)).to(self.vae.dtype)
        pixels: Tensor = self.vae.decode(scaled).sample.float()
        return (pixels / 2 + 0.5).clamp(0, 1)

    def predict(
        self, latents: Tensor, timesteps: Tensor, embeddings: Tensor, empty: Tensor | None = None, guidance: float = 1.0
    ) -> Tensor:
        """The U-Net's output, float32, with classifier-free guidance folded into one batch.

        Args:
            latents: x_t, [batch, channels, height, width].
            timesteps: [batch], int64.
            embeddings: [batch, tokens, width].
            empty: embedding of the empty prompt, [1, tokens, width]; needed when guidance > 1.
            guidance: 1 is without: no unconditional pass.
        """
        latents, embeddings = latents.to(self.unet.dtype), embeddings.to(self.unet.dtype)
        if guidance == 1.0:
            output: Tensor = self.unet(latents, timesteps, encoder_hidden_states=embeddings).sample
            return output.float()
        if empty is None:
            raise ValueError("guidance needs the embedding of the empty prompt")
        both = torch.cat([empty.to(embeddings.dtype).expand_as(embeddings), embeddings])
        output = self.unet(torch.cat([latents] * 2), torch.cat([timesteps] * 2), encoder_hidden_states=both).sample
        without, conditioned = output.float().chunk(2)
        return without + guidance * (conditioned - without)


def _pipeline_class(index: Path) -> object:
    """What model_index.json says the folder is; None without the file. Raises UserError ModelInvalid."""
    if not index.is_file():
        return None
    try:
        content = json.loads(index.read_text())
    except ValueError as error:
        raise UserError(
            "ModelInvalid", f"spec.model.source: {index.name} is no JSON ({error}); upload it again"
        ) from error
    return content.get("_class_name") if isinstance(content, dict) else None


def _pixels(image: Image.Image, side: int) -> Tensor:
    """The centre square of a picture as [3, side, side], float32 in [0, 1]."""
    square = min(image.size)
    left, top = (image.width - square) // 2, (image.height - square) // 2
    crop = image.convert("RGB").crop((left, top, left + square, top + square))
    if square != side:
        crop = crop.resize((side, side), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(crop)).permute(2, 0, 1).float() / 255
