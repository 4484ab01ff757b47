"""subject-identity: mean cosine of a vision encoder's feature to those of the subject's pictures (DINO and others).

The feature is the model's pooled output where it has one, else the class token. Of a ViT it is the class token always,
as in DreamBooth's DINO score: published DINO weights hold no pooler, and transformers would make one of random numbers.

Parameters: `ceiling`, see likeness.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel

from instructbooth_trainer.rewards.likeness import Likeness, check_params
from instructbooth_trainer.rewards.params import device_and_dtype, model_folder
from instructbooth_trainer.rewards.preprocess import Preprocess
from instructbooth_trainer.rewards.pretrained import architecture, load_pretrained

POOLED_BY_A_HEAD = frozenset({"vit", "deit"})
"""Model types with a dense layer and tanh over the class token, which is a head and no part of the encoder."""


class Encoder:
    """Features of an AutoModel folder, [batch, ...]."""

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        """Load it frozen. Raises ValueError for missing weights, OSError when the folder lacks something."""
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        options = {"add_pooling_layer": False} if config.model_type in POOLED_BY_A_HEAD else {}
        whole = load_pretrained(AutoModel, folder, dtype, **options)
        self._model = getattr(whole, "vision_model", whole).to(device)  # of a CLIP, its image half
        self.backbone = architecture(self._model.config, type(whole).__name__)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [batch, 3, height, width] to features."""
        output = self._model(pixel_values=pixels)
        pooled: Tensor | None = getattr(output, "pooler_output", None)
        features: Tensor = output.last_hidden_state[:, 0] if pooled is None else pooled
        return features


def create(params: Mapping[str, object]) -> Likeness:
    """The plug-in's factory. Raises ValueError for unknown or bad parameters, without a model or pictures."""
    check_params(params)
    folder = model_folder(params)
    encoder = Encoder(folder, *device_and_dtype(params))
    return Likeness(encoder, Preprocess.from_folder(folder), params, backbone=encoder.backbone)
