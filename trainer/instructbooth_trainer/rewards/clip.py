"""What the rewards that are a CLIP have in common: the cosine of a picture's and a text's embedding.

Their parameter `longPrompts` says what to do with a text of more tokens than the model reads: `error` (default) or
`truncate`. Dropping words silently would reward pictures for half of their prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPModel, CLIPTokenizer

from instructbooth_trainer.rewards.params import check_known, device_and_dtype, model_folder, truncates
from instructbooth_trainer.rewards.preprocess import Preprocess
from instructbooth_trainer.rewards.pretrained import architecture, load_pretrained
from instructbooth_trainer.rewards.texts import check_tokenizer, tokenize


class ClipCosine:
    """Cosine of picture and text under a frozen CLIP; differentiable with respect to the pictures.

    Attributes:
        backbone: what it is measured by, for people.
    """

    def __init__(
        self,
        name: str,
        model: CLIPModel,
        tokenizer: CLIPTokenizer,
        preprocess: Callable[[Tensor], Tensor],
        params: Mapping[str, object],
        *,
        scaled: bool = False,
    ) -> None:
        """Take a model in float32.

        Args:
            name: of the reward, for messages.
            model: is frozen and moved to the device and dtype of `params`.
            tokenizer: the model's.
            preprocess: pictures [batch, 3, height, width] in [0, 1] to the model's pixels.
            params: the reward's; read here are longPrompts, device and dtype.
            scaled: multiply by the model's exp(logit_scale), read before it is rounded to another dtype.
        """
        self._name, self._tokenizer, self._preprocess = name, tokenizer, preprocess
        self.backbone = architecture(model.config.vision_config, "CLIP")
        self._truncate = truncates(params)
        self._device, self._dtype = device_and_dtype(params)
        self._scale = float(model.logit_scale.detach().exp()) if scaled else 1.0
        self._limit = int(model.config.text_config.max_position_embeddings)
        self._model = model.requires_grad_(False).eval().to(self._device, self._dtype)
        self._texts: dict[str, Tensor] = {}

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores [batch], float32. images: [batch, 3, height, width] in [0, 1]; one prompt each."""
        pixels = self._preprocess(images.to(self._device)).to(self._dtype)
        pictures = _projected(self._model.get_image_features(pixel_values=pixels))
        texts = torch.stack([self._text(prompt) for prompt in prompts])
        return self._scale * functional.cosine_similarity(pictures.float(), texts, dim=-1)

    @torch.no_grad()
    def _text(self, prompt: str) -> Tensor:
        if prompt not in self._texts:
            ids = tokenize(self._tokenizer, prompt, self._limit, self._name, truncate=self._truncate)
            features = _projected(self._model.get_text_features(**ids.to(self._device)))
            self._texts[prompt] = features[0].float()
        return self._texts[prompt]


def clip_of_folder(name: str, params: Mapping[str, object], *, scaled: bool) -> ClipCosine:
    """The reward of a CLIPModel folder (safetensors only) with its tokenizer and preprocessor_config.json.

    Raises ValueError for unknown or bad parameters or without a model, OSError when the folder lacks something.
    """
    check_known(params, "longPrompts")
    folder = model_folder(params)
    return ClipCosine(
        name,
        load_pretrained(CLIPModel, folder, torch.float32),
        load_tokenizer(folder),
        Preprocess.from_folder(folder),
        params,
        scaled=scaled,
    )


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """The CLIPTokenizer that lies in a folder. Raises ValueError when there is none."""
    check_tokenizer(folder, "tokenizer.json", "vocab.json")
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def _projected(features: object) -> Tensor:
    """Projected embeddings [batch, width]: transformers returns them bare or as an output's pooler_output."""
    projected = features if isinstance(features, Tensor) else features.pooler_output  # type: ignore[attr-defined]
    assert isinstance(projected, Tensor)
    return projected
