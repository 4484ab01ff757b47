"""What the denoiser looks at harder: things, found again without rendering."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from instructbooth_miniature import emphasis
from instructbooth_miniature.captions import parse
from instructbooth_miniature.data import build_data, load_data
from instructbooth_miniature.sampling import sample_training_scene
from instructbooth_miniature.vae import LATENT_SIDE
from instructbooth_miniature.world import PICTURE_SIZE, PlainObject

SCENES = 40


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("instructbooth_miniature.data.SHARD_SCENES", SCENES)


def test_the_masks_cover_the_things_of_the_rendered_data(tmp_path: Path) -> None:
    build_data(tmp_path, seed=3, num_shards=2, num_workers=1)
    dataset = load_data(tmp_path, 2)
    things = emphasis.find_things(3, 2)
    cell = PICTURE_SIZE // LATENT_SIDE
    outside = things.masks.repeat_interleave(cell, 1).repeat_interleave(cell, 2).logical_not().numpy()
    asked = [parse(texts[0]) for texts in dataset.captions]
    expected = [emphasis.PLAIN if one.subject else emphasis.BESIDE if one.second else emphasis.OTHER for one in asked]
    assert expected == things.kinds.tolist()
    for picture, rest in zip(dataset.pictures, outside, strict=True):
        background = picture[0, 0]  # nothing stands in a corner
        assert (picture[rest] == background).all()
        assert (picture[~rest] != background).any(axis=-1).mean() > 0.2


def test_emphasised_batches_hold_each_kind_as_often_as_asked() -> None:
    kinds = torch.tensor([emphasis.OTHER] * 50 + [emphasis.PLAIN] * 10 + [emphasis.BESIDE] * 40)
    generator = torch.Generator().manual_seed(0)
    emphasised = emphasis.draw(kinds, 4000, generator, emphasis=True)
    even = emphasis.draw(kinds, 4000, generator, emphasis=False)
    for kind, asked in enumerate(emphasis.DRAWN):
        assert (kinds[emphasised] == kind).float().mean() == pytest.approx(asked, abs=0.03)
    assert (kinds[even] == emphasis.PLAIN).float().mean() == pytest.approx(0.1, abs=0.03)
    assert len(set(emphasised.tolist())) == 100  # none is left out


def test_emphasised_timesteps_crowd_where_words_tell_something() -> None:
    generator = torch.Generator().manual_seed(0)
    low, high = (int(1000 * part) for part in emphasis.TELLING)
    emphasised = emphasis.draw_timesteps(1000, 30, generator, emphasis=True)
    telling = emphasised[(low <= emphasised) & (emphasised < high)]
    assert 20 <= len(telling) <= 25  # 20 asked for, and those of the other 10 that fall there
    assert emphasised.min() < 100 <= 900 < emphasised.max()
    even = emphasis.draw_timesteps(1000, 10, generator, emphasis=False)
    assert sorted(int(timestep) // 100 for timestep in even) == list(range(10))
    assert even.tolist() != sorted(even.tolist())


def test_cells_of_things_weigh_more_and_pictures_alike() -> None:
    masks = torch.zeros(2, 16, 16, dtype=torch.bool)
    masks[0, 2:6, 3:8] = True
    weights = emphasis.cell_weights(masks, emphasis=True)
    assert torch.allclose(weights.mean(dim=(1, 2)), torch.ones(2))
    assert weights[0, 2, 3] / weights[0, 0, 0] == pytest.approx(emphasis.THING_WEIGHT)
    assert torch.equal(weights[1], torch.ones(16, 16))
    assert torch.equal(emphasis.cell_weights(masks, emphasis=False), torch.ones(2, 16, 16))


def test_the_scenes_are_those_of_the_stage_data() -> None:
    rng = random.Random("5/0")
    drawn = [sample_training_scene(rng) for _ in range(SCENES)]
    expected = [isinstance(scene.subject, PlainObject) for scene in drawn]
    assert (emphasis.find_things(5, 1).kinds == emphasis.PLAIN).tolist() == expected
