"""clip-score: cosine of CLIP's image and text embeddings, times 1 (CLIP-T of the DreamBench protocol).

Parameters: `longPrompts`, what to do with a text of more tokens than CLIP reads: `error` (default) or `truncate`.
Dropping words silently would reward pictures for half of their prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPModel, CLIPTokenizer

from instructbooth_trainer.rewards.params import check_known, device_and_dtype, model_folder
from instructbooth_trainer.rewards.preprocess import Preprocess
from instructbooth_trainer.runtime.errors import UserError


class ClipScore:
    """Cosine of picture and text under a frozen CLIP; differentiable with respect to the pictures."""

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype, *, truncate: bool) -> None:
        """Load a CLIPModel folder (safetensors only) with its tokenizer and preprocessor_config.json."""
        self._model = CLIPModel.from_pretrained(folder, dtype=dtype, use_safetensors=True, local_files_only=True)
        self._model.requires_grad_(False).eval().to(device)
        self._tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        self._limit = int(self._model.config.text_config.max_position_embeddings)
        self._preprocess = Preprocess.from_folder(folder)
        self._device, self._dtype, self._truncate = device, dtype, truncate
        self._texts: dict[str, Tensor] = {}

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Cosines [batch], float32. images: [batch, 3, height, width] in [0, 1]; one prompt each."""
        pixels = self._preprocess(images.to(self._device)).to(self._dtype)
        pictures = _projected(self._model.get_image_features(pixel_values=pixels))
        texts = torch.stack([self._text(prompt) for prompt in prompts])
        return functional.cosine_similarity(pictures.float(), texts, dim=-1)

    @torch.no_grad()
    def _text(self, prompt: str) -> Tensor:
        if prompt not in self._texts:
            ids = self._tokenizer(prompt, truncation=self._truncate, max_length=self._limit, return_tensors="pt")
            length = ids.input_ids.shape[1]
            if length > self._limit:
                raise UserError(
                    "PromptTooLong",
                    f"{prompt!r} has {length} tokens, clip-score's model reads {self._limit}: shorten it, or set its "
                    "parameter longPrompts: truncate",
                )
            features = _projected(self._model.get_text_features(**ids.to(self._device)))
            self._texts[prompt] = features[0].float()
        return self._texts[prompt]


def _projected(features: object) -> Tensor:
    """Projected embeddings [batch, width]: transformers returns them bare or as an output's pooler_output."""
    projected = features if isinstance(features, Tensor) else features.pooler_output  # type: ignore[attr-defined]
    assert isinstance(projected, Tensor)
    return projected


def create(params: Mapping[str, object]) -> ClipScore:
    """The plug-in's factory. Raises ValueError for unknown or bad parameters or without a model."""
    check_known(params, "longPrompts")
    policy = params.get("longPrompts", "error")
    if policy not in ("error", "truncate"):
        raise ValueError(f"longPrompts is {policy!r}; it must be error or truncate")
    device, dtype = device_and_dtype(params)
    return ClipScore(model_folder(params), device, dtype, truncate=policy == "truncate")
