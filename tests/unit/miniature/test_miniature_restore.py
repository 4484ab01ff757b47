"""The shipped weights can be taken up again, and nothing that the work folder trained itself is overwritten."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from instructbooth_miniature.build import note_seconds, take_up_seconds
from instructbooth_miniature.data import build_data
from instructbooth_miniature.restore import restore

SHIPPED = Path(__file__).parents[3] / "miniature" / "weights"


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("instructbooth_miniature.data.SHARD_SCENES", 8)
    build_data(tmp_path / "data", seed=0, num_shards=1, num_workers=1)
    return tmp_path


def test_the_work_folder_is_filled_from_the_shipped_weights(work: Path) -> None:
    restore(work, SHIPPED, num_shards=1)
    latents = load_file(work / "latents.safetensors")["latents"]
    shipped = UNet2DConditionModel.from_pretrained(str(SHIPPED / "pipeline" / "unet")).float()
    start = load_file(work / "unet-start.safetensors")
    assert latents.shape == (8, shipped.config["in_channels"], 16, 16)
    assert all(torch.equal(start[name], value) for name, value in shipped.named_parameters())
    figures = json.loads((SHIPPED.parent / "figures.json").read_text())
    assert json.loads((work / "unet-seen.json").read_text()) == figures["unet"]
    assert (work / "text_encoder" / "config.json").exists()
    assert (work / "clip" / "config.json").exists()


def test_a_denoiser_of_its_own_stays_and_is_not_counted_twice(work: Path) -> None:
    own = {"weight": torch.ones(2)}
    save_file(own, work / "unet-start.safetensors")
    restore(work, SHIPPED, num_shards=1)
    assert torch.equal(load_file(work / "unet-start.safetensors")["weight"], own["weight"])
    assert not (work / "unet-seen.json").exists()


def test_without_data_it_names_the_stage_to_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run the stage 'data' first"):
        restore(tmp_path, SHIPPED, num_shards=1)


def test_the_shipped_seconds_are_counted_on_but_never_over_the_work_folders_own(tmp_path: Path) -> None:
    figures, path = tmp_path / "figures.json", tmp_path / "seconds.json"
    figures.write_text(json.dumps({"seconds": {"unet": 100.0, "data": 20.0}}))
    take_up_seconds(path, figures)
    note_seconds(path, "data", 3.0)
    take_up_seconds(path, figures)
    assert json.loads(path.read_text()) == {"unet": 100.0, "data": 23.0}
