"""Class pictures are drawn once for all jobs that want the same ones, whoever dies or comes at the same time."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from instructbooth.artifacts.layout import MANIFEST
from instructbooth.artifacts.pieces import INPUTS
from instructbooth.contract import Stage
from instructbooth.spec.job import ResolvedJob
from instructbooth_trainer.diffusion.model import DiffusionModel
from instructbooth_trainer.diffusion.sampling import sample
from instructbooth_trainer.recipes import class_images
from instructbooth_trainer.recipes.class_images import class_latents, open_artifact, share
from instructbooth_trainer.runtime.context import RunContext
from instructbooth_trainer.runtime.environment import PodEnvironment
from instructbooth_trainer.runtime.stop import StopFlag
from instructbooth_trainer.runtime.worker import make_context
from tests.unit.trainer.harness import BUCKET, Lab

TEXTS = ["a photo of a mascot", "a mascot"]
PRIOR: dict[str, Any] = {"numImages": 20, "sampling": {"steps": 2, "guidanceScale": 1}}  # pieces of 8, 8 and 4


class Killed(Exception):
    """Stands for a SIGKILL."""


def start(lab: Lab, seed: int = 0, **prior: Any) -> tuple[RunContext, DiffusionModel]:
    """A process of a new job."""
    job = lab.job(uuid.uuid4().hex, personalization={"priorPreservation": PRIOR | prior, "seed": seed})
    return context(lab, job)


def context(lab: Lab, job: ResolvedJob) -> tuple[RunContext, DiffusionModel]:
    workdir = lab.root / uuid.uuid4().hex
    workdir.mkdir()
    with lab.environment():
        run = make_context(
            PodEnvironment(job, Stage.PERSONALIZE, 1, {}, 0, None, local=True, workdir=workdir), StopFlag()
        )
    return run, DiffusionModel.load(run.model_folder(job.spec.model.source))


def folder(lab: Lab, run: RunContext, model: DiffusionModel) -> Path:
    return lab.root / BUCKET / open_artifact(run, model, TEXTS).prefix


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each call of the sampler drew from now on."""
    counts: list[int] = []
    original = sample

    def counting(model: Any, schedule: Any, conditioning: Any, generators: list[torch.Generator]) -> Tensor:
        counts.append(len(generators))
        return original(model, schedule, conditioning, generators)

    monkeypatch.setattr(class_images, "sample", counting)
    return counts


def test_a_second_job_draws_nothing(lab: Lab, draws: list[int]) -> None:
    first, texts = class_latents(*start(lab, seed=101), TEXTS)
    assert draws == [8, 8, 4]
    assert first.shape[0] == 20
    assert texts.tolist() == [0, 1] * 10
    second, _ = class_latents(*start(lab, seed=101), TEXTS)
    assert draws == [8, 8, 4]
    assert torch.equal(first, second)


def test_the_key_is_made_of_all_inputs(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def prefix(*args: Any, texts: list[str] = TEXTS, **prior: Any) -> str:
        return open_artifact(*start(lab, *args, **prior), texts).prefix

    run, model = start(lab)
    keys = [
        open_artifact(run, model, TEXTS).prefix,
        prefix(1),
        prefix(texts=["a mascot"]),
        prefix(numImages=21),
        prefix(sampling={"steps": 3, "guidanceScale": 1}),
        prefix(sampling={"steps": 2, "guidanceScale": 2}),
    ]
    model.resolution = 64
    keys.append(open_artifact(run, model, TEXTS).prefix)
    model.resolution = 32
    monkeypatch.setattr(class_images, "model_identity", lambda folder: "another model")
    keys.append(open_artifact(run, model, TEXTS).prefix)
    monkeypatch.undo()
    changed = run.job.spec.model.model_copy(update={"dtype": "bf16"})
    run.job = run.job.model_copy(update={"spec": run.job.spec.model_copy(update={"model": changed})})
    keys.append(open_artifact(run, model, TEXTS).prefix)
    assert len(set(keys)) == len(keys)
    # And of nothing else: neither of the job nor of the size of its gang.
    other, model = start(lab)
    other.gang.world_size = 7
    assert open_artifact(other, model, TEXTS).prefix == keys[0]


def test_the_models_identity_is_its_content(lab: Lab, tmp_path: Path) -> None:
    for part in ("unet", "text_encoder", "tokenizer", "scheduler"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text("{}")
    before = class_images.model_identity(tmp_path)
    (tmp_path / "model_index.json").write_text("not a part of it")
    assert class_images.model_identity(tmp_path) == before
    (tmp_path / "unet" / "config.json").write_text("{ }")
    assert class_images.model_identity(tmp_path) != before


def test_who_dies_on_the_way_goes_on_from_the_last_piece(
    lab: Lab, draws: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, model = start(lab, seed=102)
    original = run.progress.update

    def dying(step: int, **metrics: float) -> None:
        if step >= 16:
            raise Killed
        original(step, **metrics)

    with monkeypatch.context() as patch:
        patch.setattr(run.progress, "update", dying)
        with pytest.raises(Killed):
            class_latents(run, model, TEXTS)
    assert not (folder(lab, run, model) / MANIFEST).exists()
    again, _ = class_latents(*context(lab, run.job), TEXTS)
    assert draws == [8, 8, 4], "the two pieces that were kept are not drawn again"
    assert torch.equal(again, class_latents(*start(lab, seed=102), TEXTS)[0])


def test_a_damaged_piece_is_drawn_anew(lab: Lab, draws: list[int], caplog: pytest.LogCaptureFixture) -> None:
    run, model = start(lab, seed=103)
    first, _ = class_latents(run, model, TEXTS)
    piece = min(folder(lab, run, model).glob("*.safetensors"))
    piece.write_bytes(b"\xff" * piece.stat().st_size)
    again, _ = class_latents(*start(lab, seed=103), TEXTS)
    assert torch.equal(first, again)
    assert "sha256" in caplog.text
    # Damaged before it was ever sealed: found by its name alone, and noticed when it is read.
    (folder(lab, run, model) / MANIFEST).unlink()
    piece.write_bytes(b"\xff" * piece.stat().st_size)
    assert torch.equal(first, class_latents(*start(lab, seed=103), TEXTS)[0])


def test_a_gang_draws_the_very_files_of_one_process(lab: Lab) -> None:
    """Split over two processes, each with its own share to train on: the same pieces, byte for byte."""
    changes = {"priorPreservation": PRIOR, "seed": 104, "steps": 1}
    job = lab.job("class-gang", personalization=changes | {"nodes": 2})
    with lab.gang(job, Stage.PERSONALIZE):
        pass
    run, model = context(lab, lab.job("class-alone", personalization=changes))
    place = folder(lab, run, model)
    theirs = {path.name for path in place.iterdir()}
    assert {MANIFEST, INPUTS} < theirs
    assert len(theirs) == 5
    for path in place.iterdir():
        path.rename(lab.root / path.name)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as many as the gang's processes have: sums over others differ in their last bits
    try:
        class_latents(run, model, TEXTS)
    finally:
        torch.set_num_threads(threads)
    assert {path.name for path in place.iterdir()} == theirs
    log = (lab.root / f"log-{lab.runs}-1.txt").read_text()
    assert "class pictures 9 to 16 of 20 are drawn" in log


def test_every_picture_is_one_ranks_and_every_rank_has_one() -> None:
    assert [share(5, rank, 2).tolist() for rank in range(2)] == [[0, 2, 4], [1, 3]]
    assert [share(2, rank, 5).tolist() for rank in range(5)] == [[0], [1], [0], [1], [0]]
