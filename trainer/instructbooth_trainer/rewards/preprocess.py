"""A vision model's image preprocessing on tensors: resize, crop the centre, normalise.

Unlike the stock processor it keeps the gradient and never leaves the device; it equals it on PIL pictures up to their
rounding to 8 bits (a test holds it to that).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_MODES = {2: "bilinear", 3: "bicubic"}
# Of these, and of a folder that does not say whose it is, a `size` of one number is the shortest edge, and they crop
# then. Of all others, such as ViT, it is both sides.
_SHORTEST_EDGE = ("CLIP", "ChineseCLIP", "Bit", "ConvNext", "Levit", "MobileNet", "MobileViT", "PoolFormer")
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Preprocess:
    """How a vision model wants its pictures: sides in pixels, mean and standard deviation per channel."""

    shortest_edge: int | None
    exact: tuple[int, int] | None
    crop: tuple[int, int] | None
    mode: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def from_folder(cls, folder: Path) -> Preprocess:
        """Read `preprocessor_config.json`, or the newer `processor_config.json`.

        Raises:
            ValueError: when there is none or it asks for a resampling filter that has no tensor counterpart.
        """
        config = _image_processor(folder)
        size = config.get("size", {"shortest_edge": 224})
        if isinstance(size, int):
            size = {"height": size, "width": size} if _is_square(config) else {"shortest_edge": size}
        crop = config.get("crop_size")
        crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
        resample = int(config.get("resample", 3))
        if resample not in _MODES:
            raise ValueError(f"the image processor's resample is {resample}, not 2 (bilinear) or 3 (bicubic)")
        do_resize = config.get("do_resize", True)
        return cls(
            shortest_edge=size.get("shortest_edge") if do_resize else None,
            exact=(size["height"], size["width"]) if do_resize and "height" in size else None,
            crop=(crop["height"], crop["width"]) if config.get("do_center_crop", True) and crop else None,
            mode=_MODES[resample],
            mean=tuple(config.get("image_mean") or CLIP_MEAN),
            std=tuple(config.get("image_std") or CLIP_STD),
        )

    @classmethod
    def of_clip(cls, size: int | None = None) -> Preprocess:
        """CLIP's own: shortest edge to `size` by bicubic resampling, centre cropped; without a size normalised only."""
        crop = None if size is None else (size, size)
        return cls(shortest_edge=size, exact=None, crop=crop, mode="bicubic", mean=CLIP_MEAN, std=CLIP_STD)

    def __call__(self, images: Tensor) -> Tensor:
        """[batch, 3, height, width] in [0, 1] -> normalised pixels as the model reads them, float32."""
        height, width = images.shape[-2:]
        target = self.exact
        if self.shortest_edge is not None:
            scale = self.shortest_edge / min(height, width)
            target = (max(self.shortest_edge, int(height * scale)), max(self.shortest_edge, int(width * scale)))
        if target is not None and target != (height, width):
            resized = functional.interpolate(
                images.float(), size=target, mode=self.mode, antialias=True, align_corners=False
            )
            images = resized.clamp(0, 1)
        if self.crop is not None and self.crop != tuple(images.shape[-2:]):
            top, left = ((have - want) // 2 for have, want in zip(images.shape[-2:], self.crop, strict=True))
            images = images[..., top : top + self.crop[0], left : left + self.crop[1]]
        mean, std = (torch.tensor(x, device=images.device).view(1, 3, 1, 1) for x in (self.mean, self.std))
        return (images.float() - mean) / std


def _is_square(config: dict[str, Any]) -> bool:
    kind = config.get("image_processor_type") or config.get("feature_extractor_type")
    return kind is not None and not str(kind).startswith(_SHORTEST_EDGE)


def _image_processor(folder: Path) -> dict[str, Any]:
    old, new = folder / "preprocessor_config.json", folder / "processor_config.json"
    if not old.is_file() and not new.is_file():
        raise ValueError(f"the model's folder holds neither {old.name} nor {new.name}")
    config: dict[str, Any] = json.loads((old if old.is_file() else new).read_text())
    return config if old.is_file() else config["image_processor"]
