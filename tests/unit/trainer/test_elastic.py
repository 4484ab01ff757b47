"""An attempt with fewer nodes than its stage (minNodes) learns what the whole gang would have learnt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from instructbooth.contract import Stage
from instructbooth_trainer.diffusion.adapter import WEIGHTS
from tests.unit.trainer.harness import Lab
from tests.unit.trainer.tiny import make_tiny_world


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    folder = tmp_path_factory.mktemp("elastic")
    return Lab(folder / "store", make_tiny_world(folder / "tiny"))


def losses(lab: Lab, uid: str) -> list[float]:
    path: Path = lab.output(lab.job(uid), Stage.PERSONALIZE) / "personalize.json"
    found: list[float] = json.loads(path.read_text())["loss"]
    return found


def test_one_node_of_two_takes_the_same_steps_as_both(lab: Lab) -> None:
    shape = {"nodes": 2, "minNodes": 1, "steps": 3, "learningRate": 1e-3, "lora": {"dropout": 0.1}}
    whole, half = (lab.job(uid, personalization=shape) for uid in ("whole", "half"))
    with lab.gang(whole, Stage.PERSONALIZE):
        lab.run(half, Stage.PERSONALIZE, nodes=1)
    assert losses(lab, "half") == pytest.approx(losses(lab, "whole"), rel=1e-4)
    theirs = load_file(lab.output(whole, Stage.PERSONALIZE) / WEIGHTS)
    ours = load_file(lab.output(half, Stage.PERSONALIZE) / WEIGHTS)
    ours_flat, theirs_flat = (torch.cat([t[name].flatten() for name in sorted(ours)]) for t in (ours, theirs))
    assert float((ours_flat - theirs_flat).norm() / theirs_flat.norm()) < 1e-2
    # And that is no accident: a stage of one node takes other steps.
    small = lab.job("small", personalization={**shape, "nodes": 1})
    lab.run(small, Stage.PERSONALIZE)
    assert losses(lab, "small") != pytest.approx(losses(lab, "half"), rel=1e-2)
