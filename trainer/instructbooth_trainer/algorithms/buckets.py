"""Aspect-ratio buckets: rectangles of about one area, so that a picture keeps its sides when it is resized.

Sides are multiples of `step` and no longer than a bound, and w h <= r^2 for a resolution r with the other side as long
as that allows: {(w, floor(r^2 / w / step) step)} and the same on end, besides the square of r itself. A picture goes to
the bucket whose aspect is nearest by ratio, is cropped around its centre to that aspect, and resized.

Source: the buckets of NovelAI's Stable Diffusion ("NovelAI improvements on Stable Diffusion", 2022), which SDXL was
trained with too (arXiv 2307.01952, section 2.3). Deliberate deviations:
- The nearest aspect by ratio, not by difference: a picture and the same on end go to buckets that are so too.
- The square is always there, whatever the step, so that square pictures are what they were without buckets.
"""

from __future__ import annotations

from collections.abc import Sequence

Size = tuple[int, int]  # width, height; pixels


def bucket_sizes(resolution: int, step: int, longest: int) -> list[Size]:
    """All buckets, from the tallest to the widest.

    Args:
        resolution: side of the square whose area they have at most.
        step: what every side is a multiple of (the square's own excepted).
        longest: no side is longer; with 2 r the aspects reach from 1:4 to 4:1.
    """
    sizes = {(resolution, resolution)}
    for side in range(step, longest + 1, step):
        other = resolution**2 // side // step * step
        if 0 < other <= longest:
            sizes |= {(side, other), (other, side)}
    return sorted(sizes, key=lambda size: (size[0] / size[1], size))


def nearest_bucket(picture: Size, buckets: Sequence[Size]) -> Size:
    """The bucket of a picture; of two with the same aspect the larger one."""

    def distance(bucket: Size) -> tuple[float, int]:
        one, other = picture[0] * bucket[1], picture[1] * bucket[0]  # equal where the aspects are
        return max(one, other) / min(one, other), -bucket[0] * bucket[1]

    return min(buckets, key=distance)


def centre_crop(picture: Size, bucket: Size) -> tuple[int, int, int, int]:
    """The largest part around the centre that has the bucket's aspect: left, top, right, bottom in the picture."""
    (width, height), (w, h) = picture, bucket
    if width * h >= height * w:
        width = max(1, round(height * w / h))
    else:
        height = max(1, round(width * h / w))
    left, top = (picture[0] - width) // 2, (picture[1] - height) // 2
    return left, top, left + width, top + height
