"""Renders the training data once: pictures and captions in shards that a later run finds again."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from .captions import caption
from .progress import Progress
from .render import render
from .sampling import sample_training_scene
from .world import Scene

SHARD_SCENES: Final = 2000
CAPTIONS_PER_SCENE: Final = 4


@dataclass(frozen=True)
class Dataset:
    """pictures: uint8 [scenes, 64, 64, 3]; captions: per scene CAPTIONS_PER_SCENE different true captions."""

    pictures: npt.NDArray[np.uint8]
    captions: list[list[str]]


def _shard_paths(folder: Path, shard: int) -> tuple[Path, Path]:
    return folder / f"pictures-{shard:04d}.npy", folder / f"captions-{shard:04d}.json"


def draw_scenes(seed: int, shard: int) -> tuple[list[Scene], random.Random]:
    """A shard's SHARD_SCENES scenes, and the generator as they left it, from which its captions are drawn."""
    rng = random.Random(f"{seed}/{shard}")
    return [sample_training_scene(rng) for _ in range(SHARD_SCENES)], rng


def _render_shard(folder: Path, seed: int, shard: int) -> None:
    pictures_path, captions_path = _shard_paths(folder, shard)
    if captions_path.exists():
        return
    scenes, rng = draw_scenes(seed, shard)
    np.save(pictures_path, np.stack([render(scene) for scene in scenes]))
    texts = [[caption(scene, rng) for _ in range(CAPTIONS_PER_SCENE)] for scene in scenes]
    partial = captions_path.with_suffix(".partial")
    partial.write_text(json.dumps(texts))
    partial.rename(captions_path)


def build_data(folder: Path, seed: int, num_shards: int, num_workers: int) -> None:
    """Render what is missing of `num_shards` shards. Deterministic from the seed, whatever the number of workers."""
    folder.mkdir(parents=True, exist_ok=True)
    progress = Progress("data", num_shards)
    with ProcessPoolExecutor(num_workers) as pool:
        for _ in pool.map(_render_shard, *zip(*_jobs(folder, seed, num_shards), strict=True)):
            progress.advance()


def _jobs(folder: Path, seed: int, num_shards: int) -> Iterator[tuple[Path, int, int]]:
    for shard in range(num_shards):
        yield folder, seed, shard


def load_data(folder: Path, num_shards: int) -> Dataset:
    """The first `num_shards` shards. Raises FileNotFoundError naming the stage to run if one is missing."""
    pictures, captions = [], []
    for shard in range(num_shards):
        pictures_path, captions_path = _shard_paths(folder, shard)
        if not captions_path.exists():
            raise FileNotFoundError(f"{captions_path} is missing: run the stage 'data' first")
        pictures.append(np.load(pictures_path, allow_pickle=False))
        captions += json.loads(captions_path.read_text())
    return Dataset(np.concatenate(pictures), captions)
