"""subject-identity: mean cosine of a vision encoder's feature to those of the subject's pictures (DINO, CLIP-I).

The feature is the model's pooled output where it has one, else the class token. The text plays no part.

Parameters: `ceiling`, in (-1, 1]: a picture scores min(likeness, ceiling); none by default. A policy paid without bound
comes to please the encoder: it was seen to pass the likeness that the subject's own pictures have to each other. Set
the ceiling near that likeness, and nothing is gained above it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import AutoModel

from instructbooth_trainer.rewards.params import check_known, device_and_dtype, model_folder, number
from instructbooth_trainer.rewards.preprocess import Preprocess


class SubjectIdentity:
    """Likeness to the reference pictures; differentiable with respect to the pictures."""

    def __init__(
        self,
        folder: Path,
        references: Sequence[Image.Image],
        device: torch.device,
        dtype: torch.dtype,
        *,
        ceiling: float | None = None,
    ) -> None:
        """Load an AutoModel folder (safetensors only) and embed the reference pictures once."""
        self._model = AutoModel.from_pretrained(folder, dtype=dtype, use_safetensors=True, local_files_only=True)
        self._model = getattr(self._model, "vision_model", self._model)  # of a CLIP, its image half
        self._model.requires_grad_(False).eval().to(device)
        self._preprocess = Preprocess.from_folder(folder)
        self._device, self._dtype, self._ceiling = device, dtype, ceiling
        with torch.no_grad():
            tensors = [torch.from_numpy(np.array(image.convert("RGB"))) for image in references]
            rows = [self._features(t.permute(2, 0, 1)[None].float() / 255) for t in tensors]
        self._references = torch.cat(rows)

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Mean cosine to the references, at most the ceiling: [batch], float32.

        images: [batch, 3, height, width] in [0, 1].
        """
        likeness = (self._features(images) @ self._references.T).mean(dim=1)
        return likeness if self._ceiling is None else likeness.clamp(max=self._ceiling)

    def _features(self, images: Tensor) -> Tensor:
        pixels = self._preprocess(images.to(self._device)).to(self._dtype)
        output = self._model(pixel_values=pixels)
        pooled = getattr(output, "pooler_output", None)
        features = output.last_hidden_state[:, 0] if pooled is None else pooled
        return functional.normalize(features.float().flatten(1), dim=-1)


def create(params: Mapping[str, object]) -> SubjectIdentity:
    """The plug-in's factory. Raises ValueError for unknown or bad parameters, without a model or pictures."""
    check_known(params, "ceiling")
    ceiling = number(params, "ceiling", -1, 1)
    references = params.get("reference_images")
    if not isinstance(references, Sequence) or not references:
        raise ValueError("it needs the subject's pictures")
    device, dtype = device_and_dtype(params)
    return SubjectIdentity(model_folder(params), list(references), device, dtype, ceiling=ceiling)
