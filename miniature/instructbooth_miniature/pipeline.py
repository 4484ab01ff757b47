"""Puts the parts into the folder that a stock StableDiffusionPipeline loads, in half precision."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TypeVar

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from .training import swap_folder
from .unet import make_scheduler

_Model = TypeVar("_Model", AutoencoderKL, UNet2DConditionModel)


def save_pipeline(
    folder: Path, vae: AutoencoderKL, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, unet: UNet2DConditionModel
) -> None:
    """Write the diffusers folder in float16 beside an old one, then swap. The given modules stay as they are."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    pipeline = StableDiffusionPipeline(
        vae=_copy(vae),
        text_encoder=CLIPTextModel(text_encoder.config),
        tokenizer=tokenizer,
        unet=_copy(unet),
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.text_encoder.load_state_dict(text_encoder.state_dict())
    pipeline.to(dtype=torch.float16).save_pretrained(partial)
    folder.parent.mkdir(parents=True, exist_ok=True)
    swap_folder(partial, folder)


def _copy(model: _Model) -> _Model:
    # Without the folder that the model was loaded from, which would be written into the shipped config.json.
    copy: _Model = type(model).from_config({k: v for k, v in model.config.items() if k != "_name_or_path"})
    copy.load_state_dict(model.state_dict())
    return copy


def load_pipeline(folder: Path) -> StableDiffusionPipeline:
    """The pipeline of a folder in float32, without a progress bar, ready to sample on the CPU."""
    pipeline = StableDiffusionPipeline.from_pretrained(str(folder), safety_checker=None, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
