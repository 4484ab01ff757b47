"""Finds what is in a picture: the background's colour, and every thing that stands before it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from .geometry import shape_outline
from .world import PALETTE, SHAPES

Mask = npt.NDArray[np.bool_]

COLOUR_TOLERANCE: Final = 60.0
"""How far (Euclidean, of 0..255 per channel) a pixel may be from a colour of PALETTE and still be called it."""
FOREGROUND_DISTANCE: Final = 42.0
MIN_THING_PIXELS: Final = 60
RING_PIXELS: Final = 2
RING_SHARE: Final = 0.85
"""Share of the picture's outer ring that must have the background's colour."""
PLAIN_SHARE: Final = 0.85
"""Share of a thing's inner pixels that must have one colour of PALETTE to call it a plain object."""
MIN_SHAPE_OVERLAP: Final = 0.72
_TEMPLATE_SIDE = 32


@dataclass(frozen=True)
class Thing:
    """One connected thing. `colour` and `shape` are "" for a mascot (anything that is not of one palette colour)."""

    pixels: int
    left: int
    top: int
    right: int
    bottom: int
    colour: str
    shape: str

    @property
    def centre(self) -> tuple[float, float]:
        """Centre of the bounding box (x, y) in pixels."""
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2

    @property
    def side(self) -> int:
        """Longer side of the bounding box in pixels."""
        return max(self.right - self.left, self.bottom - self.top)


@dataclass(frozen=True)
class Seen:
    """What a picture shows. `background` is "" if the ring has no one palette colour. Things: largest first."""

    background: str
    things: tuple[Thing, ...]


_NAMES = tuple(PALETTE)
_COLOURS = np.array([PALETTE[name] for name in _NAMES], dtype=np.float32)


def _nearest(pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Index into PALETTE of each pixel [..., 3], or -1 where no colour is within tolerance."""
    distance = np.linalg.norm(pixels[..., None, :] - _COLOURS, axis=-1)
    index = distance.argmin(axis=-1)
    return np.where(distance.min(axis=-1) <= COLOUR_TOLERANCE, index, -1)


def _commonest(indices: npt.NDArray[np.int64]) -> tuple[str, float]:
    """The commonest palette colour among indices and its share of all of them; ("", 0) if there is none."""
    counts = np.bincount(indices[indices >= 0], minlength=len(_NAMES))
    best = int(counts.argmax())
    return (_NAMES[best], float(counts[best]) / indices.size) if counts[best] else ("", 0.0)


def see(picture: npt.NDArray[np.uint8]) -> Seen:
    """What a picture uint8 [height, width, 3] shows."""
    pixels = picture.astype(np.float32)
    ring = np.ones(pixels.shape[:2], dtype=bool)
    ring[RING_PIXELS:-RING_PIXELS, RING_PIXELS:-RING_PIXELS] = False
    background, share = _commonest(_nearest(pixels[ring]))
    base = np.median(pixels[ring], axis=0)
    foreground = np.linalg.norm(pixels - base, axis=-1) > FOREGROUND_DISTANCE
    things = [_describe(pixels, mask) for mask in components(foreground) if mask.sum() >= MIN_THING_PIXELS]
    return Seen(background if share >= RING_SHARE else "", tuple(sorted(things, key=lambda thing: -thing.pixels)))


def components(mask: Mask) -> list[Mask]:
    """The 8-connected parts of a mask [height, width], each as a mask of the same shape."""
    left = {(int(y), int(x)) for y, x in zip(*np.nonzero(mask), strict=True)}
    parts = []
    while left:
        part = np.zeros_like(mask)
        front = [left.pop()]
        while front:
            y, x = front.pop()
            part[y, x] = True
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            front += near
        parts.append(part)
    return parts


def _inner(mask: Mask) -> Mask:
    padded = np.pad(mask, 1)
    return mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]


def _describe(pixels: npt.NDArray[np.float32], mask: Mask) -> Thing:
    rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    inner = _inner(mask)
    colour, share = _commonest(_nearest(pixels[inner])) if inner.any() else ("", 0.0)
    plain = share >= PLAIN_SHARE
    shape = classify_shape(mask[top:bottom, left:right]) if plain else ""
    return Thing(int(mask.sum()), left, top, right, bottom, colour if plain else "", shape)


@cache
def _templates() -> dict[str, Mask]:
    templates = {}
    for shape in SHAPES:
        points = shape_outline(shape)
        low, high = points.min(axis=0), points.max(axis=0)
        corners = [(float(x), float(y)) for x, y in (points - low) / (high - low) * _TEMPLATE_SIDE * 8]
        canvas = Image.new("L", (_TEMPLATE_SIDE * 8,) * 2, 0)
        ImageDraw.Draw(canvas).polygon(corners, fill=255)
        templates[shape] = np.asarray(canvas.reduce(8)) > 127
    return templates


def classify_shape(mask: Mask) -> str:
    """The plain shape that fills a mask (cropped to its bounding box) best; "" if none fits well enough."""
    stretched = Image.fromarray(mask.astype(np.uint8) * 255).resize((_TEMPLATE_SIDE,) * 2, Image.Resampling.BILINEAR)
    found = np.asarray(stretched) > 127
    overlap = {shape: float((found & full).sum() / (found | full).sum()) for shape, full in _templates().items()}
    best = max(overlap, key=lambda shape: overlap[shape])
    return best if overlap[best] >= MIN_SHAPE_OVERLAP else ""
