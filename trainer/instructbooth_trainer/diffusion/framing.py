"""Pictures fitted into the rectangle that a model is trained on, and what a model is told of it."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from instructbooth_trainer.algorithms.buckets import Size, centre_crop


def pixels(image: Image.Image, size: Size) -> Tensor:
    """The centre of a picture, of the rectangle's aspect and resized to it, [3, height, width], float32 in [0, 1]."""
    crop = image.convert("RGB").crop(centre_crop(image.size, size))
    if crop.size != size:
        crop = crop.resize(size, Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(crop)).permute(2, 0, 1).float() / 255


def conditioned_sizes(picture: Size, size: Size) -> list[float]:
    """How `pixels` fits a picture, as SDXL is told it (arXiv 2307.01952, section 2.2).

    Returns:
        Height and width of the picture; top and left of the crop, in pixels once the picture is resized to cover the
        rectangle; height and width of the rectangle.
    """
    left, top, right, bottom = centre_crop(picture, size)
    across, down = size[0] / (right - left), size[1] / (bottom - top)
    numbers = (picture[1], picture[0], round(top * down), round(left * across), size[1], size[0])
    return [float(number) for number in numbers]


def cropped_share(picture: Size, size: Size) -> float:
    """The share of a picture's area that is cut away."""
    left, top, right, bottom = centre_crop(picture, size)
    return 1 - (right - left) * (bottom - top) / (picture[0] * picture[1])
