"""Builds tiny random models from a seed: the same code path as Stable Diffusion, in seconds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
)

WORDS = ("a", "photo", "of", "sks", "mascot", "striped", "star", "on", "red", "blue", "background", "the", "small")
TOKENS = 16
SIZE = 32


@dataclass(frozen=True)
class TinyWorld:
    """Where the tiny models lie."""

    pipeline: Path
    clip: Path
    vision: Path

    def subject_images(self) -> list[Image.Image]:
        """Three random 32x32 pictures."""
        rng = np.random.default_rng(0)
        return [Image.fromarray(rng.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)) for _ in range(3)]


def make_tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer with one token per word."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = ["<|startoftext|>", "<|endoftext|>", *(f"{w}</w>" for w in WORDS)]
    vocabulary += list("abcdefghijklmnopqrstuvwxyz") + [f"{c}</w>" for c in "bcdefghijklmnopqrstuvwxyz"]
    merges = []
    for word in WORDS:
        for end in range(2, len(word)):
            merges.append((word[: end - 1], word[end - 1]))
            vocabulary.append(word[:end])
        if len(word) > 1:
            merges.append((word[:-1], f"{word[-1]}</w>"))
    vocab = {token: i for i, token in enumerate(dict.fromkeys(vocabulary))}
    merges = list(dict.fromkeys(merges))
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(m) for m in merges) + "\n")
    return CLIPTokenizer(vocab=vocab, merges=[tuple(m) for m in merges], model_max_length=TOKENS)


def make_unet(context_width: int, **options: Any) -> UNet2DConditionModel:
    """A U-Net of two levels on 4 latent channels; `options` as UNet2DConditionModel has them."""
    return UNet2DConditionModel(
        sample_size=SIZE // 4,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=8,
        cross_attention_dim=context_width,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **options,
    )


def make_vae(channels: int, **options: Any) -> AutoencoderKL:
    """Four pixels per latent."""
    return AutoencoderKL(
        block_out_channels=(8, 8, 8),
        norm_num_groups=4,
        latent_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        sample_size=SIZE,
        **options,
    )


def make_tiny_world(root: Path, prediction_type: str = "v_prediction") -> TinyWorld:
    """Write pipeline/, clip/ and vision/ under `root`, deterministic."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer(root / "tokenizer")
    ids = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    text = CLIPTextConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        projection_dim=16,
        **ids,
    )
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIZE,
        patch_size=8,
        projection_dim=16,
    )
    unet = make_unet(32)
    vae = make_vae(4)
    scheduler = DDIMScheduler(
        prediction_type=prediction_type,
        clip_sample=False,
        rescale_betas_zero_snr=prediction_type == "v_prediction",
        timestep_spacing="trailing" if prediction_type == "v_prediction" else "leading",
        beta_schedule="scaled_linear",
        steps_offset=1,
        set_alpha_to_one=False,
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(root / "pipeline")
    processor = CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})
    clip = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16))
    clip.save_pretrained(root / "clip")
    tokenizer.save_pretrained(root / "clip")
    processor.save_pretrained(root / "clip")
    CLIPVisionModel(vision).save_pretrained(root / "vision")
    processor.save_pretrained(root / "vision")
    return TinyWorld(root / "pipeline", root / "clip", root / "vision")
