"""`make bench`: what a training stage costs beside its network's own passes, on the miniature world.

The floor is the time of the U-Net's forward and backward passes alone, at the same batch sizes and thread count. For
each measure a line that is one JSON object {name, ours, floor, ratio, unit, versions}; ratio 1.0 would mean that
sampling, scoring, optimizer and bookkeeping are free. Peers are not measured yet.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

from instructbooth.contract import Env, Stage
from instructbooth.spec.job import InstructBoothJobSpec, ResolvedJob
from instructbooth_trainer.diffusion.conditioning import Conditioning
from instructbooth_trainer.recipes import personalize
from instructbooth_trainer.recipes.reinforce import Reinforce
from instructbooth_trainer.runtime.context import RunContext
from instructbooth_trainer.runtime.environment import PodEnvironment
from instructbooth_trainer.runtime.stop import StopFlag
from instructbooth_trainer.runtime.worker import make_context

ROOT = Path(__file__).resolve().parents[1]
STEPS, EPOCHS, PASSES = 40, 4, 10


def job(store: Path) -> ResolvedJob:
    """The demo's job, on one process, with its sources in a local store."""
    spec: dict[str, Any] = yaml.safe_load((ROOT / "examples/demo/job.yaml").read_text())["spec"]
    bucket = store / spec["artifacts"]["bucket"]
    for folder in ("pipeline", "clip"):
        shutil.copytree(ROOT / "miniature/weights" / folder, bucket / "models/miniature" / folder)
    shutil.copytree(ROOT / "examples/demo/subject", bucket / "subject")
    spec["subject"]["images"] = {"s3": {"prefix": "subject"}}
    spec["personalization"]["steps"] = STEPS
    spec["reinforcement"] |= {"nodes": 1, "epochs": EPOCHS}
    return ResolvedJob(namespace="bench", name="bench", uid="1", spec=InstructBoothJobSpec.model_validate(spec))


def context(resolved: ResolvedJob, stage: Stage, work: Path) -> RunContext:
    """A context in this process; earlier stages succeeded at their first attempt."""
    inputs = {Stage.PERSONALIZE: 1} if stage is not Stage.PERSONALIZE else {}
    return make_context(PodEnvironment(resolved, stage, 1, inputs, 0, None, True, work / stage.value), StopFlag())


def rate(work: Callable[[], None], pictures: int) -> float:
    """Pictures per second of a piece of work, after one warm-up."""
    work()
    began = time.monotonic()
    for _ in range(PASSES):
        work()
    return pictures * PASSES / (time.monotonic() - began)


def report(name: str, ours: float, floor: float) -> None:
    """One line of JSON."""
    versions = {p: importlib.metadata.version(p) for p in ("torch", "diffusers", "instructbooth")}
    row = {"name": name, "ours": round(ours, 2), "floor": round(floor, 2), "ratio": round(ours / floor, 3)}
    print(json.dumps({**row, "unit": "images/s", "threads": torch.get_num_threads(), "versions": versions}), flush=True)


def bench_personalize(resolved: ResolvedJob, work: Path) -> None:
    """Training pictures per second of stage 1, start to saved LoRA left out."""
    run = context(resolved, Stage.PERSONALIZE, work)
    personalize.run(run)
    ours = run.progress.current.metrics["images_per_second"]
    stage = Reinforce(context(resolved, Stage.REINFORCE, work))
    size = 2 * resolved.spec.personalization.batch_size
    report("personalize_images_per_s", ours, rate(lambda: training_pass(stage, size), size))


@torch.no_grad()
def conditioning(stage: Reinforce, size: int) -> Conditioning:
    """One prompt for all rows, without guidance."""
    return stage.model.condition(["a mascot"], 1.0).rows(torch.zeros(size, dtype=torch.int64))


def training_pass(stage: Reinforce, size: int) -> None:
    """One forward and backward pass of the U-Net with its adapter."""
    latents = torch.randn(size, *stage.model.latent_shape)
    prediction = stage.model.predict(latents, torch.full((size,), 500), conditioning(stage, size))
    prediction.square().mean().backward()  # type: ignore[no-untyped-call]


@torch.no_grad()
def sampling_pass(stage: Reinforce, size: int) -> None:
    """One forward pass of the U-Net with its adapter."""
    latents = torch.randn(size, *stage.model.latent_shape)
    stage.model.predict(latents, torch.full((size,), 500), conditioning(stage, size))


def bench_reinforce(resolved: ResolvedJob, work: Path) -> None:
    """Pictures per second of stage 2: drawn, scored and trained on."""
    run = context(resolved, Stage.REINFORCE, work)
    stage, spec = Reinforce(run), resolved.spec.reinforcement
    run.progress.start(EPOCHS, "epochs")
    stage.epoch(0)
    began = time.monotonic()
    for epoch in range(1, EPOCHS):
        stage.epoch(epoch)
    pictures = spec.prompts_per_epoch * spec.images_per_prompt
    ours = pictures * (EPOCHS - 1) / (time.monotonic() - began)
    trained = min(spec.timesteps_per_trajectory or spec.sampling.steps, spec.sampling.steps - 1)
    forward = rate(lambda: sampling_pass(stage, spec.batch_size), spec.batch_size)
    both = rate(lambda: training_pass(stage, spec.batch_size), spec.batch_size)
    # Each picture: a forward pass per denoising step, and per trained step old log-probability, reference and update.
    seconds = (spec.sampling.steps + 2 * trained) / forward + spec.inner_epochs * trained / both
    report("reinforce_images_per_s", ours, 1 / seconds)


def main() -> None:
    """Measure both training stages."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        os.environ[Env.STORE] = str(work / "store")
        resolved = job(work / "store")
        bench_personalize(resolved, work)
        bench_reinforce(resolved, work)


if __name__ == "__main__":
    main()
