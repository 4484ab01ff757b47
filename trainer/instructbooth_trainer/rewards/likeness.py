"""What the rewards that know the subject's pictures have in common: mean cosine of an encoder's features to theirs.

With f the encoder's feature scaled to length 1, x a picture and r_i the subject's: the mean over i of f(x) . f(r_i).
Source: DreamBooth, arXiv 2208.12242, section 4.1 (DINO and CLIP-I). The text plays no part.

Parameters: `ceiling`, in (-1, 1]: a picture scores min(likeness, ceiling); none by default. A policy paid without bound
comes to please the encoder: it was seen to pass the likeness that the subject's own pictures have to each other. Set
the ceiling near that likeness, and nothing is gained above it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from instructbooth_trainer.rewards.params import check_known, device_and_dtype, number
from instructbooth_trainer.rewards.preprocess import Preprocess

Features = Callable[[Tensor], Tensor]
"""Normalised pixels [batch, 3, height, width] to features [batch, ...]."""


def mean_cosine(features: Tensor, references: Tensor) -> Tensor:
    """Mean cosine of each row to all references, [batch]. Both [rows, width], of any length."""
    return (functional.normalize(features, dim=-1) @ functional.normalize(references, dim=-1).T).mean(dim=1)


class Likeness:
    """Likeness to the reference pictures; differentiable with respect to the pictures.

    Attributes:
        backbone: what it is measured by, for people.
    """

    compares_subject = True

    def __init__(
        self, encoder: Features, preprocess: Preprocess, params: Mapping[str, object], *, backbone: str
    ) -> None:
        """Embed the reference pictures once.

        Args:
            encoder: frozen, on the device and in the dtype of `params`.
            preprocess: the encoder's.
            params: the reward's; read here are ceiling, reference_images, device and dtype.
            backbone: of the encoder.
        """
        self.backbone = backbone
        self._encoder, self._preprocess = encoder, preprocess
        self._device, self._dtype = device_and_dtype(params)
        self._ceiling = number(params, "ceiling", -1, 1)
        with torch.no_grad():
            tensors = [torch.from_numpy(np.array(image.convert("RGB"))) for image in reference_images(params)]
            rows = [self._features(t.permute(2, 0, 1)[None].float() / 255) for t in tensors]
        self._references = torch.cat(rows)

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Mean cosine to the references, at most the ceiling: [batch], float32.

        images: [batch, 3, height, width] in [0, 1].
        """
        likeness = mean_cosine(self._features(images), self._references)
        return likeness if self._ceiling is None else likeness.clamp(max=self._ceiling)

    def _features(self, images: Tensor) -> Tensor:
        pixels = self._preprocess(images.to(self._device)).to(self._dtype)
        return self._encoder(pixels).float().flatten(1)


def check_params(params: Mapping[str, object]) -> None:
    """Raise ValueError for unknown or bad parameters and without pictures: before a model is loaded."""
    check_known(params, "ceiling")
    number(params, "ceiling", -1, 1)
    reference_images(params)


def reference_images(params: Mapping[str, object]) -> list[Image.Image]:
    """The subject's pictures, lent by the runtime. Raises ValueError when there are none."""
    references = params.get("reference_images")
    if not isinstance(references, Sequence) or not references:
        raise ValueError("it needs the subject's pictures")
    return list(references)
