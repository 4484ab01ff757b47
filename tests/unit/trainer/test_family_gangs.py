"""Two processes do what one would: every family, all three stages, photos of several aspects, text encoders too.

What stage 1 and 2 learn is compared with one process; of stage 3, where ranks share pictures out, that all are there.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from instructbooth.contract import Stage
from instructbooth.spec.job import ResolvedJob
from instructbooth_trainer.diffusion.adapter import WEIGHTS, Adapter
from instructbooth_trainer.diffusion.model import DiffusionModel
from instructbooth_trainer.recipes.batches import batch, prepare
from instructbooth_trainer.recipes.class_images import share
from instructbooth_trainer.recipes.personalize import MAX_GRAD_NORM, batch_loss
from instructbooth_trainer.recipes.training import SynchronizedAdamW
from instructbooth_trainer.report.evaluation import Evaluation
from instructbooth_trainer.runtime.context import RunContext
from instructbooth_trainer.runtime.environment import PodEnvironment
from instructbooth_trainer.runtime.stop import StopFlag
from instructbooth_trainer.runtime.worker import load_recipe, make_context
from tests.unit.trainer.harness import BUCKET, Lab, processes
from tests.unit.trainer.test_buckets import photos
from tests.unit.trainer.test_families import job_for
from tests.unit.trainer.tiny import TinyWorld
from tests.unit.trainer.tiny_families import BUILDERS

WORLD = 2
STAGES = ("personalization", "reinforcement", "evaluation")


def small_job(lab: Lab, nodes: int) -> ResolvedJob:
    changes: dict[str, dict[str, Any]] = {name: {"nodes": nodes} for name in STAGES}
    changes["personalization"] |= {
        "aspectBuckets": True,
        "gradientAccumulationSteps": 2,
        "trainTextEncoder": True,
        "steps": 3,
        "earlyStopping": {"intervalSteps": 3},
    }
    return job_for(lab, f"nodes-{nodes}", **changes)


@pytest.fixture(scope="module")
def labs(folders: dict[str, Path], tiny: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Lab]:
    """A store for each family, in which a gang of two has run everything."""
    root, labs = tmp_path_factory.mktemp("gangs"), {}
    for family in BUILDERS:
        lab = labs[family] = Lab(root / family, TinyWorld(folders[family], tiny.clip, tiny.vision))
        for number, image in enumerate(photos()):
            image.save(lab.root / BUCKET / "subject" / f"{number}.png")
        (lab.root / "job.json").write_text(small_job(lab, WORLD).model_dump_json(by_alias=True, exclude_none=True))
    command = ["tests.unit.trainer.gang_of_families", *(str(lab.root) for lab in labs.values())]
    with processes(root, [command] * WORLD, {}):
        pass
    return labs


@pytest.fixture(params=sorted(BUILDERS))
def lab(request: pytest.FixtureRequest, labs: dict[str, Lab]) -> Lab:
    return labs[request.param]


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """As many as the gang's processes have: sums over others differ in their last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def alone(lab: Lab, job: ResolvedJob, stage: Stage, name: str) -> RunContext:
    """This process's context of a stage, after the gang's earlier ones."""
    workdir = lab.root / name
    workdir.mkdir()
    inputs = {earlier: 1 for earlier in Stage if list(Stage).index(earlier) < list(Stage).index(stage)}
    with lab.environment():
        return make_context(PodEnvironment(job, stage, 1, inputs, 0, None, local=True, workdir=workdir), StopFlag())


def follow(lab: Lab, stage: Stage) -> ResolvedJob:
    """A job of one process that finds the gang's results of the stages before."""
    job, theirs = small_job(lab, 1), small_job(lab, WORLD)
    for earlier in Stage:
        if earlier == stage:
            break
        here = lab.output(job, earlier).parent.parent
        if not here.exists():
            here.parent.mkdir(parents=True, exist_ok=True)
            here.symlink_to(lab.output(theirs, earlier).parent.parent)
    return job


def test_stage_1_is_the_sum_of_both_ranks_gradients(lab: Lab) -> None:
    """Emulated in one process: the batches of each rank, of its share of the class pictures, and one step on both."""
    job = small_job(lab, 1)
    spec = job.spec.personalization
    run = alone(lab, job, Stage.PERSONALIZE, "emulated")
    model = DiffusionModel.load(run.model_folder(job.spec.model.source), resolution=job.spec.model.resolution)
    every = prepare(run, model)
    assert len(every.subject) == 3
    data = []
    for rank in range(WORLD):
        own = share(len(every.classes[0]), rank, WORLD)
        classes, captions = every.classes[0][own], every.class_captions[0][own]
        data.append(replace(every, classes={rank: classes}, class_captions={rank: captions}))
    objective = model.objective(None)
    adapter = Adapter(model, spec.lora, text_encoder=True, seed=spec.seed)
    optimizer = SynchronizedAdamW(
        run.accelerator, adapter, spec.learning_rate, MAX_GRAD_NORM, "fp32", spec.weight_decay
    )
    losses = []
    for step in range(spec.steps):
        total = 0.0
        for rank in range(WORLD):
            for number in (2 * step, 2 * step + 1):
                rows = batch(spec, data[rank], number, rank, objective)
                loss = batch_loss(model, objective, spec, rows, model.condition(data[rank].texts, 1.0))
                optimizer.backward(loss)
                total += float(loss.detach())
        losses.append(optimizer.step(2 * WORLD, total).loss)
    output = lab.output(small_job(lab, WORLD), Stage.PERSONALIZE)
    assert json.loads((output / "personalize.json").read_text())["loss"] == pytest.approx(losses, rel=1e-5)
    published, expected = load_file(output / WEIGHTS), adapter.tensors()
    assert set(published) == set(expected)
    # In every component; a last layer that is not read, as that of SDXL's encoders, has no gradient.
    moved = {name.split(".")[0] for name, x in expected.items() if "lora_B" in name and float(x.abs().max()) > 0}
    assert moved == {name.split(".")[0] for name in expected}
    for name, tensor in expected.items():
        torch.testing.assert_close(published[name], tensor, rtol=1e-3, atol=1e-5)


def test_stage_2_is_one_process_split(lab: Lab) -> None:
    job = follow(lab, Stage.REINFORCE)
    load_recipe(Stage.REINFORCE)(alone(lab, job, Stage.REINFORCE, "reinforced"))
    ours, theirs = (
        json.loads((lab.output(each, Stage.REINFORCE) / "reinforce.json").read_text())["epochs"][0]
        for each in (job, small_job(lab, WORLD))
    )
    for name in ("reward_mean", "reward_std"):
        assert ours[name] == pytest.approx(theirs[name], abs=1e-5)
    assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-3)
    assert ours["grad_norm"] > 0


def test_stage_3_draws_the_same_pictures(lab: Lab) -> None:
    job = follow(lab, Stage.EVALUATE)
    load_recipe(Stage.EVALUATE)(alone(lab, job, Stage.EVALUATE, "evaluated"))
    ours, theirs = (
        Evaluation.model_validate_json((lab.output(each, Stage.EVALUATE) / "evaluation.json").read_text())
        for each in (job, small_job(lab, WORLD))
    )
    assert {picture.model for picture in theirs.pictures} == {"base", "personalized", "reinforced"}
    assert len(ours.pictures) == len(theirs.pictures)
    for one, other in zip(ours.pictures, theirs.pictures, strict=True):
        assert (one.model, one.prompt, one.number, one.seed) == (other.model, other.prompt, other.number, other.seed)
        assert one.scores == pytest.approx(other.scores, abs=1e-4)
        assert (lab.output(small_job(lab, WORLD), Stage.EVALUATE) / other.file).is_file()
