"""The exact judge of the miniature world: reads a prompt, looks at the pixels, says what is right.

It is measured, not learned: no network has a part in it, so a model trained by reinforcement cannot please it by
anything but doing what the prompt says. Entry point `miniature-oracle` of the group `instructbooth.rewards`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from .captions import Asked, parse
from .segment import Seen, Thing, see
from .world import PICTURE_SIZE, PlainObject

SMALL_BELOW: Final = 25.5
BIG_ABOVE: Final = 37.5
"""Pixels of the subject's longer side; what lies between is the size nobody mentions."""
OFF_CENTRE: Final = 5.5
"""How far (pixels) the subject's centre must be off the middle to stand "on the left" and so on."""
SKILLS: Final = ("subject", "background", "position", "size", "second_colour", "second_shape", "second")


def judge(picture: npt.NDArray[np.uint8], asked: Asked) -> dict[str, bool]:
    """What of `asked` is true of a picture uint8 [64, 64, 3].

    Holds `subject` (it is there), each asked skill of SKILLS, and `all`. Position and size are the subject's, never
    the second object's; both are false if there is no subject.
    """
    seen = see(picture)
    subject = _find_subject(seen, asked)
    verdict = {"subject": subject is not None}
    if asked.background:
        verdict["background"] = seen.background == asked.background
    if asked.position:
        verdict["position"] = subject is not None and _stands(subject, asked.position)
    if asked.size:
        side = 0.0 if subject is None else float(subject.side)
        verdict["size"] = 0 < side < SMALL_BELOW if asked.size == "small" else side > BIG_ABOVE
    if asked.second is not None:
        others = [thing for thing in seen.things if thing.colour and thing is not subject]
        verdict["second_colour"] = any(thing.colour == asked.second.colour for thing in others)
        verdict["second_shape"] = any(thing.shape == asked.second.shape for thing in others)
        verdict["second"] = any(_is(thing, asked.second) for thing in others)
    verdict["all"] = all(verdict.values())
    return verdict


def _is(thing: Thing, what: PlainObject) -> bool:
    return (thing.shape, thing.colour) == (what.shape, what.colour)


def _find_subject(seen: Seen, asked: Asked) -> Thing | None:
    if asked.subject is None:
        return next((thing for thing in seen.things if not thing.colour), None)
    return next((thing for thing in seen.things if _is(thing, asked.subject)), None)


def _stands(subject: Thing, position: str) -> bool:
    x, y = (coordinate - PICTURE_SIZE / 2 for coordinate in subject.centre)
    towards, aside = {"left": (-x, y), "right": (x, y), "top": (-y, x), "bottom": (y, x)}[position]
    return towards > OFF_CENTRE and towards > abs(aside)


def to_pixels(images: torch.Tensor) -> npt.NDArray[np.uint8]:
    """Images [batch, 3, H, W] in [0, 1] -> uint8 [batch, 64, 64, 3], resized by area if they have another size.

    Raises ValueError for another shape.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be [batch, 3, height, width], not {list(images.shape)}")
    values = images.detach().float().cpu()
    if values.shape[-2:] != (PICTURE_SIZE, PICTURE_SIZE):
        values = functional.interpolate(values, size=(PICTURE_SIZE, PICTURE_SIZE), mode="area")
    pixels: npt.NDArray[np.uint8] = (values.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return pixels


class Oracle:
    """1.0 for every picture that shows all its prompt asks for, else 0.0."""

    def __call__(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Images [batch, 3, H, W] in [0, 1] and their prompts -> float32 [batch] of 0 and 1.

        Raises ValueError for a prompt outside the grammar or unequal numbers of images and prompts.
        """
        return torch.tensor([float(verdict["all"]) for verdict in self.details(images, prompts)])

    def details(self, images: torch.Tensor, prompts: Sequence[str]) -> list[dict[str, bool]]:
        """Per picture: `subject`, each skill its prompt asks for, and `all`. Raises ValueError like calling does."""
        if len(images) != len(prompts):
            raise ValueError(f"{len(images)} images came with {len(prompts)} prompts; there must be one for each")
        pairs = zip(to_pixels(images), prompts, strict=True)
        return [judge(picture, parse(prompt)) for picture, prompt in pairs]


LENT: Final = frozenset({"model_folder", "reference_images", "device", "dtype"})
"""What the trainer hands to every plug-in, needed or not."""


def create(params: Mapping[str, object]) -> Oracle:
    """The entry point's factory. The oracle has no parameters of its own: raises ValueError if any are given."""
    if own := sorted(set(params) - LENT):
        raise ValueError(f"the reward 'miniature-oracle' takes no parameters, but got {own}: remove them")
    return Oracle()
