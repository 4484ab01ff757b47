"""Stable Diffusion folders of a given shape with random weights: speed and memory do not depend on what was learnt."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from experiments.cells import WEIGHTS


@dataclass(frozen=True)
class Shape:
    """Sizes of a Stable Diffusion model.

    Attributes:
        widths: channels of the U-Net's levels; all but the last attend to the text.
        layers: residual layers of a level.
        heads: of an attention.
        groups: of a normalisation.
        text_width: of the text encoder.
        text_layers: of the text encoder.
        tokens: that are read of a prompt.
        vae_widths: channels of the VAE's levels; each but the first halves the side.
        resolution: pixels.
    """

    widths: tuple[int, ...]
    layers: int
    heads: int
    groups: int
    text_width: int
    text_layers: int
    tokens: int
    vae_widths: tuple[int, ...]
    resolution: int

    @property
    def latent_side(self) -> int:
        """Side of the latents."""
        return self.resolution >> (len(self.vae_widths) - 1)


SHAPES = {
    "sd15-shaped": Shape((320, 640, 1280, 1280), 2, 8, 32, 768, 12, 77, (128, 256, 512, 512), 512),
    "tiny": Shape((32, 64), 1, 4, 8, 32, 1, 32, (8, 8, 8), 32),
}


def four_channels(folder: Path) -> Path:
    """Write the miniature model with four channels of latents, not six, and random weights in U-Net and VAE.

    diffusers' script takes six channels of output for a prediction with its variance, and cannot train the model.
    """
    base = WEIGHTS / "pipeline"
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("unet", "vae"))
    torch.manual_seed(0)
    unet, vae = (json.loads((base / part / "config.json").read_text()) for part in ("unet", "vae"))
    UNet2DConditionModel.from_config({**unet, "in_channels": 4, "out_channels": 4}).save_pretrained(folder / "unet")
    AutoencoderKL.from_config({**vae, "latent_channels": 4}).save_pretrained(folder / "vae")
    return folder


def random_pipeline(folder: Path, shape: Shape) -> Path:
    """Write a folder with the miniature world's scheduler and tokenizer, and random weights of this shape."""
    cuda = torch.cuda.is_available()
    with torch.device("cuda" if cuda else "cpu"):  # half a minute on a slow processor
        made = _random_pipeline(folder, shape)
    if cuda:
        torch.cuda.empty_cache()
    return made


def _random_pipeline(folder: Path, shape: Shape) -> Path:
    torch.manual_seed(0)
    base = WEIGHTS / "pipeline"
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("unet", "vae", "text_encoder"))
    tokenizer = CLIPTokenizer.from_pretrained(base / "tokenizer", model_max_length=shape.tokens)
    tokenizer.save_pretrained(folder / "tokenizer")
    levels = len(shape.widths)
    UNet2DConditionModel(
        sample_size=shape.latent_side,
        block_out_channels=shape.widths,
        layers_per_block=shape.layers,
        attention_head_dim=shape.heads,
        norm_num_groups=shape.groups,
        cross_attention_dim=shape.text_width,
        down_block_types=(*("CrossAttnDownBlock2D",) * (levels - 1), "DownBlock2D"),
        up_block_types=("UpBlock2D", *("CrossAttnUpBlock2D",) * (levels - 1)),
    ).save_pretrained(folder / "unet")
    AutoencoderKL(
        block_out_channels=shape.vae_widths,
        norm_num_groups=min(shape.groups, shape.vae_widths[0] // 2),
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * len(shape.vae_widths),
        up_block_types=("UpDecoderBlock2D",) * len(shape.vae_widths),
        sample_size=shape.resolution,
    ).save_pretrained(folder / "vae")
    CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=shape.text_width,
            intermediate_size=4 * shape.text_width,
            num_hidden_layers=shape.text_layers,
            num_attention_heads=max(1, shape.text_width // 64),
            max_position_embeddings=shape.tokens,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).save_pretrained(folder / "text_encoder")
    return folder
