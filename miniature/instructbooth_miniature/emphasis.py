"""Where the denoiser looks harder: at things rather than at backgrounds, and at words that name a shape.

A second object covers a tenth of a picture and stands in less than half of them, and the word for its shape tells
something only at those noise levels that show a blob and not yet its outline: an even loss learns it last. While the
learning rate is high, plain objects are drawn more often, alone and beside a mascot, the cells of things weigh more,
and most timesteps come from those levels. Such weights shift the optimum towards a thing wherever one might stand; the
steps of the falling learning rate are even and undo it. Subject and second object weigh alike: with the second
object's cells alone, subjects were seen to turn into objects.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch

from .data import draw_scenes
from .vae import LATENT_SIDE
from .world import PICTURE_SIZE, PlainObject, Pose, Scene

OTHER, PLAIN, BESIDE = range(3)
"""Kinds of scenes: a mascot alone, a plain object as the subject, a mascot beside a plain object."""
DRAWN: Final = (0.2, 0.4, 0.4)
"""How often an emphasised batch draws each kind."""
TELLING: Final = (0.55, 0.95)
"""The part of the schedule in which words for shapes tell something that the noisy picture does not."""
TELLING_SHARE: Final = 2 / 3
"""Share of an emphasised batch whose timesteps come from that part."""
THING_WEIGHT: Final = 4.0
"""How much more a cell of a thing weighs than one of the background."""


@dataclass(frozen=True)
class Things:
    """Where things stand in the scenes.

    Attributes:
        masks: the latent cells that subject and second object touch, bool [scenes, 16, 16].
        kinds: OTHER, PLAIN or BESIDE, int64 [scenes].
    """

    masks: torch.Tensor
    kinds: torch.Tensor

    def __getitem__(self, scenes: slice) -> Things:
        """Those of some scenes."""
        return Things(self.masks[scenes], self.kinds[scenes])


def find_things(seed: int, num_shards: int) -> Things:
    """The things of the scenes that the stage "data" drew, drawn again without rendering."""
    scenes = [scene for shard in range(num_shards) for scene in draw_scenes(seed, shard)[0]]
    masks = torch.zeros(len(scenes), LATENT_SIDE, LATENT_SIDE, dtype=torch.bool)
    for mask, scene in zip(masks, scenes, strict=True):
        mask[_cells(scene.subject_pose)] = True
        if scene.second_pose is not None:
            mask[_cells(scene.second_pose)] = True
    return Things(masks, torch.tensor([_kind(scene) for scene in scenes]))


def _kind(scene: Scene) -> int:
    if isinstance(scene.subject, PlainObject):
        return PLAIN
    return OTHER if scene.second is None else BESIDE


def _cells(pose: Pose) -> tuple[slice, slice]:
    cell = PICTURE_SIZE / LATENT_SIDE
    low_x, low_y = (math.floor((centre - pose.size / 2) / cell) for centre in (pose.x, pose.y))
    high_x, high_y = (math.ceil((centre + pose.size / 2) / cell) for centre in (pose.x, pose.y))
    return slice(max(0, low_y), high_y), slice(max(0, low_x), high_x)


def draw(kinds: torch.Tensor, batch: int, generator: torch.Generator, emphasis: bool) -> torch.Tensor:
    """Numbers of `batch` scenes, int64 [batch], with repetition: all alike, or each kind as often as DRAWN says.

    kinds: int64 [scenes].
    """
    if not emphasis:
        return torch.randint(len(kinds), (batch,), generator=generator)
    each = torch.tensor(DRAWN) / kinds.bincount(minlength=len(DRAWN)).clamp(min=1)
    return torch.multinomial(each[kinds], batch, replacement=True, generator=generator)


def draw_timesteps(timesteps: int, batch: int, generator: torch.Generator, emphasis: bool) -> torch.Tensor:
    """Timesteps int64 [batch] in random order: over the whole schedule, or TELLING_SHARE of them from TELLING.

    They are stratified: each batch covers the schedule evenly, which lowers the gradient's variance.
    """
    telling = round(TELLING_SHARE * batch) if emphasis else 0
    low, high = TELLING
    parts = [_stratified(batch - telling, generator), low + (high - low) * _stratified(telling, generator)]
    drawn = (torch.cat(parts) * timesteps).long()
    return drawn[torch.randperm(batch, generator=generator)]


def _stratified(count: int, generator: torch.Generator) -> torch.Tensor:
    """One random number from each of `count` equal parts of [0, 1)."""
    return (torch.arange(count) + torch.rand(count, generator=generator)) / max(1, count)


def cell_weights(masks: torch.Tensor, emphasis: bool) -> torch.Tensor:
    """Weights of the cells, float32 [batch, 16, 16], of mean 1 in each picture."""
    weights = 1 + (THING_WEIGHT - 1) * masks.float() * float(emphasis)
    return weights / weights.mean(dim=(1, 2), keepdim=True)
