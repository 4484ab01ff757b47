"""Where the denoiser looks harder: at things rather than at backgrounds, and at second objects, its hardest skill.

A second object covers a tenth of a picture and stands in less than half of them, so an even loss learns it last. While
the learning rate is high, scenes with one are drawn more often and the cells of things weigh more. Such weights shift
the optimum towards a thing wherever one might stand; the steps of the falling learning rate are even and undo it.
Subject and second object weigh alike: with the second object's cells alone, subjects were seen to turn into objects.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch

from .data import draw_scenes
from .vae import LATENT_SIDE
from .world import PICTURE_SIZE, Pose

SECOND_DRAWN: Final = 0.8
"""How often an emphasised batch draws a scene with a second object."""
THING_WEIGHT: Final = 4.0
"""How much more a cell of a thing weighs than one of the background."""


@dataclass(frozen=True)
class Things:
    """Where things stand in the scenes.

    Attributes:
        masks: the latent cells that subject and second object touch, bool [scenes, 16, 16].
        has_second: whether there is a second object, bool [scenes].
    """

    masks: torch.Tensor
    has_second: torch.Tensor

    def __getitem__(self, scenes: slice) -> Things:
        """Those of some scenes."""
        return Things(self.masks[scenes], self.has_second[scenes])


def find_things(seed: int, num_shards: int) -> Things:
    """The things of the scenes that the stage "data" drew, drawn again without rendering."""
    scenes = [scene for shard in range(num_shards) for scene in draw_scenes(seed, shard)[0]]
    masks = torch.zeros(len(scenes), LATENT_SIDE, LATENT_SIDE, dtype=torch.bool)
    for mask, scene in zip(masks, scenes, strict=True):
        mask[_cells(scene.subject_pose)] = True
        if scene.second_pose is not None:
            mask[_cells(scene.second_pose)] = True
    return Things(masks, torch.tensor([scene.second_pose is not None for scene in scenes]))


def _cells(pose: Pose) -> tuple[slice, slice]:
    cell = PICTURE_SIZE / LATENT_SIDE
    low_x, low_y = (math.floor((centre - pose.size / 2) / cell) for centre in (pose.x, pose.y))
    high_x, high_y = (math.ceil((centre + pose.size / 2) / cell) for centre in (pose.x, pose.y))
    return slice(max(0, low_y), high_y), slice(max(0, low_x), high_x)


def draw(has_second: torch.Tensor, batch: int, generator: torch.Generator, emphasis: bool) -> torch.Tensor:
    """Numbers of `batch` scenes, int64 [batch], with repetition: all alike, or with SECOND_DRAWN.

    has_second: bool [scenes], whether a scene has a second object.
    """
    if not emphasis:
        return torch.randint(len(has_second), (batch,), generator=generator)
    share = has_second.float().mean().clamp(1e-9, 1 - 1e-9)
    chances = torch.where(has_second, SECOND_DRAWN / share, (1 - SECOND_DRAWN) / (1 - share))
    return torch.multinomial(chances, batch, replacement=True, generator=generator)


def cell_weights(masks: torch.Tensor, emphasis: bool) -> torch.Tensor:
    """Weights of the cells, float32 [batch, 16, 16], of mean 1 in each picture."""
    weights = 1 + (THING_WEIGHT - 1) * masks.float() * float(emphasis)
    return weights / weights.mean(dim=(1, 2), keepdim=True)
