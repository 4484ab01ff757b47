"""Tiny random models of every family in the folder format of the real ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from tests.unit.trainer.tiny import SIZE, TOKENS, WORDS, make_tiny_world, make_tokenizer, make_unet, make_vae

WIDTH = 32


def text_config(tokenizer: Any, projection: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        projection_dim=projection,
    )


def make_t5(width: int) -> tuple[T5EncoderModel, T5Tokenizer]:
    """A T5 encoder and a real tokenizer with a piece per word and one per letter."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(f"▁{word}", -3.0) for word in WORDS]
    pieces += [(letter, -6.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
    vocabulary = list(dict(pieces).items())
    tokenizer = T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=512)
    config = T5Config(vocab_size=len(tokenizer), d_model=width, d_kv=8, d_ff=WIDTH, num_layers=1, num_heads=2)
    return T5EncoderModel(config), tokenizer


def as_published(folder: Path) -> Path:
    """Name T5's tokenizer as the indices of the published models do."""
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace('"T5Tokenizer"', '"T5TokenizerFast"'))
    return folder


def make_xl(folder: Path) -> Path:
    """SDXL: leading timesteps and an Euler scheduler, as the published one has."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer(folder.parent / "tokenizer-xl")
    unet = make_unet(
        2 * WIDTH,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 16,
    )
    StableDiffusionXLPipeline(
        vae=make_vae(4, force_upcast=True),
        text_encoder=CLIPTextModel(text_config(tokenizer, 16)),
        text_encoder_2=CLIPTextModelWithProjection(text_config(tokenizer, 16)),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=EulerDiscreteScheduler(
            beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1, prediction_type="epsilon"
        ),
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder


def make_sd3(folder: Path, *, t5: bool = True) -> Path:
    """SD 3.5: 16 channels (here 8), a shift of 3, dual attention in the first block, T5 or none."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer(folder.parent / "tokenizer-3")
    encoder, pieces = make_t5(2 * WIDTH) if t5 else (None, None)
    transformer = SD3Transformer2DModel(
        sample_size=SIZE // 4,
        in_channels=8,
        out_channels=8,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=32,
        pooled_projection_dim=32,
        pos_embed_max_size=8,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    StableDiffusion3Pipeline(
        vae=make_vae(8, shift_factor=0.06, scaling_factor=1.5),
        text_encoder=CLIPTextModelWithProjection(text_config(tokenizer, 16)),
        text_encoder_2=CLIPTextModelWithProjection(text_config(tokenizer, 16)),
        text_encoder_3=encoder,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        tokenizer_3=pieces,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    ).save_pretrained(folder)
    return as_published(folder)


def make_flux(folder: Path, *, distilled: bool = True) -> Path:
    """FLUX: packed latents, a shift that depends on the resolution; told the guidance (dev) or not (schnell)."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer(folder.parent / "tokenizer-flux")
    encoder, pieces = make_t5(WIDTH)
    transformer = FluxTransformer2DModel(
        in_channels=32,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=distilled,
        axes_dims_rope=(2, 2, 4),
    )
    FluxPipeline(
        vae=make_vae(8, shift_factor=0.11, scaling_factor=0.36),
        text_encoder=CLIPTextModel(text_config(tokenizer, 16)),
        text_encoder_2=encoder,
        tokenizer=tokenizer,
        tokenizer_2=pieces,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0 if distilled else 1.0, use_dynamic_shifting=distilled),
    ).save_pretrained(folder)
    return as_published(folder)


def make_stable_diffusion(folder: Path) -> Path:
    """Epsilon, leading: as Stable Diffusion 1.5."""
    return make_tiny_world(folder, "epsilon").pipeline


# Every family of docs/families.md, and what it is besides: each must hold on all tests of test_families.py.
BUILDERS: dict[str, Callable[[Path], Path]] = {
    "stable-diffusion": make_stable_diffusion,
    "stable-diffusion-xl": make_xl,
    "stable-diffusion-3": make_sd3,
    "flux": make_flux,
}
